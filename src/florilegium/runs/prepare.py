"""The first half of a run: everything that is known before the first byte is written.

    read_rows -> split_rows -> load_base -> encode (with its pre-flight)

A mistake in the settings, the rows or the model is found here, and leaves no folder behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from florilegium.config import TrainConfig
from florilegium.data import Quote, Rows, Split, read_rows_of, reading_sentences, split_by_config
from florilegium.errors import ModelError, UsageError, counted, one_line
from florilegium.evaluation.headline import FEW_ROWS
from florilegium.model import Base, Stage, choose_device, count_parameters, fast_paths, load_base, rehearse_training
from florilegium.model.families import head_unsupported
from florilegium.model.offload import SHORTEST, Placement, check_offload, place_blocks
from florilegium.model.stage_plan import plan_stages
from florilegium.model.tokenizer_loader import tokenizer_of
from florilegium.model.too_large import refuse_too_large
from florilegium.runs.base_checks import check_base, with_stored_bits
from florilegium.runs.estimate_advice import refuse_what_fits_nowhere
from florilegium.runs.recorder import ProgressView
from florilegium.runs.row_lengths import row_lengths
from florilegium.tokens import Encoded, chat_rows, encode_ways
from florilegium.training import ALONE, Distributed, choose_learning_rate


@dataclass(frozen=True)
class Prepared:
    """Rows and base, checked and encoded: `held_out` are the rows that are reported, `validation` those that choose the
    best step (none: the former do), `held_out_quotes` both. `kernels` are those that this machine can run; which of them
    this model takes is decided by `plan.py`, from what was asked for."""

    config: TrainConfig
    rows: Rows
    training: Encoded
    held_out: Encoded
    validation: Encoded
    training_quotes: list[Quote]
    held_out_quotes: list[Quote]
    base: Base
    kernels: tuple[str, ...]
    requested_kernels: str
    requested_batching: str
    split: Split
    stages: tuple[Stage, ...] = ()  # of a pipeline, one a process; none: this process holds the whole base
    tile: int = 0  # of a run that is resumed: tokens of which its steps hold a multiple; 0: chosen from the rows
    adapter_on: tuple[str, ...] = ()  # of the same: the modules that its checkpoint has matrices for


def prepare(
    config: TrainConfig,
    view: ProgressView,
    rows: Rows | None = None,
    distributed: Distributed = ALONE,
    room: int = 0,
) -> Prepared:
    """Checks and encodes the rows (read here, unless they are given) and loads the base, or this process's blocks of it;
    `room` is what a card has for them (`card_room`). Writes nothing."""
    config = with_stored_bits(config, view)
    device = choose_device(config.device)
    stages = plan_stages(config, distributed.world, room)
    names, reason = fast_paths.select_kernels(config.kernels, device, config.bits)
    if reason:
        raise UsageError(f"--kernels: {reason}", "Use --kernels auto, or leave that name out")
    check_offload(config, device, distributed.world, names)
    placement = _placed(config, device, names, distributed, stages)
    if not stages and not placement.offload:
        refuse_too_large(config, device)
    rehearse_training(config)
    rows = rows or read_rows_of(config)
    if config.chat:
        config = replace(config, loss_on="tags")
        rows = chat_rows(rows, tokenizer_of(config.model, config.revision), config.model)
    for sentence in reading_sentences(rows):
        view.say(sentence)
    split = split_by_config(config, rows)
    train_rows, held_rows = split.training, split.held_out
    dropped = f", {counted(rows.duplicates, 'exact duplicate')} dropped" if rows.duplicates else ""
    dropped += f", {counted(len(rows.skipped), 'bad row')} skipped" if rows.skipped else ""
    dropped += f", {counted(rows.repaired, 'row')} repaired" if rows.repaired else ""
    dropped += f", {len(split.set_aside):,} left out as near-duplicates of held-out rows" if split.set_aside else ""
    training_rows = counted(len(train_rows), "training row")
    view.say(f"data     {config.data}: {training_rows}, {len(held_rows):,} held out{dropped}")
    if held_rows:
        view.say(f"         {_of_held_out(split)}")
    if rows.template.asked_by_tags:
        ways = "both ways, also tags first" if rows.template.tags_first else "tags first"
        view.say(f"         each is trained {ways}: {rows.template.asked_by_tags.text}")
    if rows.template.is_chat:
        view.say(f"         each is a question and its answer, which alone is trained: {one_line(rows.template.text)}")
    if config.held_out and not held_rows and len(rows.quotes) > 1:
        view.say("         no held-out set: too few rows, or all are near-duplicates; --split-by random splits anyway")
    if placement.room:  # now that the rows are known
        # the rows are in their chat template already, where there is one
        longest = max(row_lengths(replace(config, chat=False), rows, train_rows)[0], default=1)
        placement = _placed(config, device, names, distributed, stages, longest)
    base = load_base(
        config.model,
        bits=config.bits,
        device=device,
        compute=config.dtype,
        revision=config.revision,
        stage=stages[distributed.rank % len(stages)] if stages else None,
        progress=view.loading,
        offload=placement.offload,
    )
    if base.device.type == "cuda":
        view.compiling(fast_paths.compiled_so_far)
    reason = head_unsupported(base.family, base.model)
    if reason:
        raise ModelError(f"{config.model} cannot be trained here: {reason}", "Choose a model of another family")
    config = _resolved(config, base)
    limit = base.longest_row(config.max_length)

    def encoded(numbers: Sequence[int]) -> Encoded:
        quotes, places = [rows.quotes[i] for i in numbers], [rows.places[i] for i in numbers]
        return encode_ways(
            base.tokenizer, rows.template, quotes, max_length=limit, loss_on=config.loss_on, places=places
        )

    training, held_out, validation = encoded(train_rows), encoded(split.test), encoded(split.validation)
    if num_cut := training.num_cut + held_out.num_cut + validation.num_cut:
        cut = counted(num_cut, "quote")
        why = "--max-length" if limit == config.max_length else "the model has no more positions"
        view.say(f"         {cut} shortened to {limit:,} tokens ({why})")
    check_base(base, rows, train_rows, training.examples, view)
    return Prepared(
        config,
        rows,
        training,
        held_out,
        validation,
        [rows.quotes[i] for i in train_rows],
        [rows.quotes[i] for i in held_rows],
        base,
        names,
        config.kernels,
        config.batching,
        split,
        stages,
    )


def _placed(
    config: TrainConfig,
    device: torch.device,
    kernels: tuple[str, ...],
    distributed: Distributed,
    stages: tuple[Stage, ...],
    longest: int = SHORTEST,
) -> Placement:
    """Where the blocks' weights lie, for a longest row of so many tokens. Raises ResourceError for a base that fits neither
    on the card nor beside it."""
    if stages:
        return Placement(False)
    placement = place_blocks(config, device, distributed.world, kernels, longest)
    refuse_what_fits_nowhere(config, placement, longest)
    return placement


def _of_held_out(split: Split) -> str:
    """Which held-out rows choose the best step, and which are reported."""
    if not split.validation:
        few = (
            "" if len(split.test) >= FEW_ROWS else "; too few rows for firm conclusions: --held-out 0.3 holds more out"
        )
        both = "the same held-out rows choose the best step and are reported"
        return f"{both}, so their loss is slightly optimistic{few}"
    choose = counted(len(split.validation), "validation row")
    return f"{choose} of them to choose the best step, {counted(len(split.test), 'test row')} to report on"


def _resolved(config: TrainConfig, base: Base) -> TrainConfig:
    """The config with what the defaults came to for this base."""
    return replace(
        config,
        learning_rate=choose_learning_rate(config, count_parameters(base.model).total),
        dtype=str(base.compute_dtype).removeprefix("torch."),
        device=base.device.type,
    )


def sample_prompts(prepared: Prepared) -> list[tuple[str, bool]]:
    """Three prompts to watch the model by, and whether each wants tags: nothing, two words of a held-out quote, a whole
    one. None for a pipeline, of which no process has the whole base to write with."""
    if prepared.stages:
        return []
    first = prepared.rows.template.columns[0]
    if first in prepared.rows.template.list_columns:
        return [("", False)]
    quotes = sorted(
        (str(q[first]) for q in prepared.held_out_quotes or prepared.training_quotes),
        key=lambda t: (len(t) < 20, len(t)),
    )
    two = " ".join(quotes[0].split()[:2])
    prompts = [("", False), (two, False)]
    return (
        [*prompts, (quotes[-1 if len(quotes) < 2 else 1], True)]
        if len(prepared.rows.template.columns) == 2
        else prompts
    )
