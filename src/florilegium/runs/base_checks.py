"""What is to be known of a base before it is trained: its bits, how far it reads, what its tokenizer does to the rows,
and whether its forward pass is one that can be called here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from florilegium.config import TrainConfig
from florilegium.data import Rows
from florilegium.errors import ModelError, UsageError, counted, reason_of
from florilegium.generation.decode import StockDecoder
from florilegium.model import Base, LoadedModel
from florilegium.model.hub import config_folder, read_config
from florilegium.model.model_config import stored_bits
from florilegium.runs.recorder import ProgressView
from florilegium.tokens import Example, end_of_text
from florilegium.tokens.round_trip import check_round_trip, inner_ends


def with_stored_bits(config: TrainConfig, view: ProgressView) -> TrainConfig:
    """The settings with the bits that the model is stored in, where it is quantised already. Raises UsageError where
    --bits asks for others."""
    stored = stored_bits(read_config(config_folder(config.model, config.revision), config.model))
    if stored is None or stored == config.bits:
        return config
    if config.bits != TrainConfig.bits:
        raise UsageError(
            f"{config.model} is stored in {stored} bits, and --bits is {config.bits}",
            "Leave --bits out, or name the 16-bit model that it was made from",
        )
    view.say(f"         {config.model} is quantised already: it stays in its {stored} bits")
    return replace(config, bits=stored)


def check_base(base: Base, rows: Rows, numbers: Sequence[int], examples: Sequence[Example], view: ProgressView) -> None:
    """A line for each thing that training will not do as the model or the rows may lead to expect. Raises ModelError for
    a family whose forward pass has not what writing needs, and for a tokenizer that gives no row back."""
    if not base.packs:
        _check_cache(base)
    quotes = [rows.quotes[number] for number in numbers]
    for note in check_round_trip(base.tokenizer, rows.template, quotes, base.name):
        view.say(f"         {note}")
    ends = inner_ends(examples, end_of_text(base.tokenizer))
    if ends:
        place = rows.places[numbers[ends[0] % len(numbers)]]
        view.say(
            f"         {counted(len(ends), 'row')} with {base.tokenizer.eos_token!r} inside (first: {place}): the model "
            "learns to stop there"
        )
    share = getattr(base.model.config, "attention_dropout", 0)
    if base.packs and share:
        view.say(f"         attention_dropout {share:g} of the model's config.json is not applied")


def _check_cache(base: Base) -> None:
    """Raises ModelError where a token cannot be read after others by the cache that the forward pass returned."""
    end = end_of_text(base.tokenizer)
    decoder = StockDecoder(LoadedModel(base, base.model))
    try:
        with torch.inference_mode():
            decoder.read([[end, end]], 1)
            decoder.write(torch.tensor([end], device=base.device))
    except (AttributeError, TypeError, NotImplementedError, ValueError) as error:
        raise ModelError(
            f"{base.name} cannot be trained here: its forward pass keeps no cache as other causal language models' do "
            f"({reason_of(error)})",
            "Choose a model of another family",
        ) from error
