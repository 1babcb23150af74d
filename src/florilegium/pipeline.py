"""The whole walk, from DATA to an adapter on disk: what `florilegium train` and `florilegium.train` do.

    read_rows -> split_rows -> load_base -> encode -> (the folder of the run) -> attach_adapter -> fast.install -> run_steps -> adapter/

Nothing is written before the rows are read, the base is loaded and every row has passed the pre-flight: a mistake leaves no folder.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from florilegium import fast
from florilegium.config import TrainConfig, as_dict, dump_config, make_config, read_config
from florilegium.data import Quote, Rows, read_rows, split_rows
from florilegium.errors import DataError, ModelError, UsageError
from florilegium.evaluation import NoveltyIndex
from florilegium.evaluation.novelty import FILE as NGRAMS
from florilegium.export import adapter_card
from florilegium.generation import Generated
from florilegium.model import (
    Base,
    ParameterCount,
    Walk,
    attach_adapter,
    base_facts,
    check_adapter_settings,
    choose_device,
    count_parameters,
    load_base,
    save_adapter,
)
from florilegium.model.forward import head_obstacle
from florilegium.recorder import CHECKPOINTS, Recorder, Silent, View, forget_after
from florilegium.run import find_run, locked, new_run_directory, write_json, write_text
from florilegium.tokens import Encoded, Example, PackPlan, encode
from florilegium.training import (
    Schedule,
    Snapshot,
    Trainer,
    choose_learning_rate,
    interrupted,
    load_checkpoint,
    make_optimizer,
    make_schedule,
    make_schedule_numbers,
    newest_whole,
    run_steps,
    watch,
)
from florilegium.training.signals import StopRequest
from florilegium.tuned import Tuned

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets", "tokenizers", "safetensors")
TRACKERS = ("tensorboard", "wandb", "trackio")


@dataclass(frozen=True)
class Trained:
    """A finished run: its folder, the tuned model still in memory, and its figures (those of manifest.json)."""

    directory: Path
    tuned: Tuned
    figures: dict[str, Any]
    samples: list[Generated]


@dataclass
class Prepared:
    """Everything that is known before the first byte is written."""

    config: TrainConfig
    rows: Rows
    training: Encoded
    held_out: Encoded
    training_quotes: list[Quote]
    held_out_quotes: list[Quote]
    base: Base
    fast: tuple[str, ...]


def train(data: str | Path = "sample", *, view: View | None = None, **settings: Any) -> Trained:
    """Tunes a base on DATA and leaves a run directory; `settings` are the fields of TrainConfig (model=, epochs=, bits=, ...).

    Raises UsageError, DataError, ModelError, ResourceError, DivergedError; Interrupted when a signal stopped it, after saving.
    """
    config = make_config({**settings, "data": str(data)})
    return train_config(config, view or Silent())


def train_config(config: TrainConfig, view: View) -> Trained:
    with watch() as stop:
        prepared = prepare(config, view)
        config = prepared.config
        directory = new_run_directory(config.output, f"{Path(config.data).stem}-{config.model}", force=config.force)
        with locked(directory):
            write_text(directory / "config.yaml", dump_config(config))
            return _run(prepared, directory, view, stop, None)


def resume(run: str | Path = "latest", *, view: View | None = None) -> Trained:
    """Goes on with a run that was stopped, from its newest whole checkpoint, to the same bits as if it had not been.

    Raises UsageError when there is nothing to go on with, DataError or ModelError when rows or base are others than before.
    """
    import json

    view = view or Silent()
    directory = _unfinished(str(run))
    config = make_config(read_config(directory / "config.yaml"), source=str(directory / "config.yaml"))
    with watch() as stop, locked(directory):
        if (directory / "adapter" / "adapter_config.json").is_file():
            raise UsageError(f"{directory} is finished", f"Use it: florilegium generate --run {directory}")
        prepared = prepare(config, view)
        if (directory / "manifest.json").is_file():
            _check_same(json.loads((directory / "manifest.json").read_text(encoding="utf-8")), prepared, directory)
        checkpoint, skipped = newest_whole(directory / CHECKPOINTS)
        for line in skipped:
            view.say(line)
        snapshot = load_checkpoint(checkpoint) if checkpoint else None
        step = snapshot.progress.step if snapshot else 0
        view.say(f"going on from step {step}" if checkpoint else "no whole checkpoint: starting at step 0")
        forget_after(directory, step if snapshot else -1)
        return _run(prepared, directory, view, stop, snapshot)


def _unfinished(run: str) -> Path:
    """The run to go on with; `latest` is the newest that has no adapter yet."""
    from florilegium.run import RUNS

    if run == "latest":
        waiting = [p.parent for p in RUNS.glob("*/config.yaml") if not (p.parent / "adapter").is_dir()]
        if not waiting:
            raise UsageError("no run in runs/ is waiting to go on", "Name one: florilegium resume runs/NAME")
        return max(waiting, key=lambda p: (p / "config.yaml").stat().st_mtime)
    directory = find_run(run)
    if not (directory / "config.yaml").is_file():
        raise UsageError(f"{directory} is not a run: it has no config.yaml", "Name a folder that `florilegium train` made")
    return directory


def _check_same(manifest: dict[str, Any], prepared: Prepared, directory: Path) -> None:
    if manifest["data"]["digest"] != prepared.rows.digest:
        raise DataError(f"the rows of {prepared.config.data} are others than when {directory} began", "Bring them back, or train anew")
    if manifest["base"] != base_facts(prepared.base):
        raise ModelError(f"the base {prepared.config.model} is another than when {directory} began", "Bring it back, or train anew")


def prepare(config: TrainConfig, view: View) -> Prepared:
    """Reads, checks and encodes the rows and loads the base. Writes nothing."""
    check_adapter_settings(config)
    _check_trackers(config.report_to)
    device = choose_device(config.device)
    names, obstacle = fast.choose(config.fast, device, config.bits)
    if obstacle:
        raise UsageError(f"--fast: {obstacle}", "Use --fast auto, or leave that name out")
    rows = read_rows(config.data, config.template, skip_bad_rows=config.skip_bad_rows)
    for problem in rows.skipped:
        view.say(f"skipped {problem.place}: {problem.cause}")
    train_rows, held_rows = split_rows(rows.quotes, config.held_out, config.seed)
    dropped = f", {rows.duplicates} exact duplicates dropped" if rows.duplicates else ""
    dropped += f", {len(rows.skipped)} bad rows skipped" if rows.skipped else ""
    view.say(f"data     {config.data}: {len(train_rows):,} rows to learn, {len(held_rows):,} held out{dropped}")
    base = load_base(config.model, bits=config.bits, device=device, compute=config.compute, revision=config.revision)
    if config.seed >= 2**63:
        raise UsageError(f"--seed is {config.seed}", "It takes a number below 2^63")
    obstacle = head_obstacle(base.model)
    if obstacle:
        raise ModelError(f"{config.model} cannot be trained here: {obstacle}", "Choose a model of another family")

    def encoded(numbers: Sequence[int]) -> Encoded:
        quotes, places = [rows.quotes[i] for i in numbers], [rows.places[i] for i in numbers]
        limit = _context(base, config.max_length)
        return encode(base.tokenizer, rows.template, quotes, max_length=limit, loss_on=config.loss_on, places=places)

    training, held_out = encoded(train_rows), encoded(held_rows)
    if training.num_cut + held_out.num_cut:
        view.say(f"         {training.num_cut + held_out.num_cut} quotes cut to {config.max_length} tokens (--max-length)")
    return Prepared(
        _resolved(config, base, names),
        rows,
        training,
        held_out,
        [rows.quotes[i] for i in train_rows],
        [rows.quotes[i] for i in held_rows],
        base,
        names,
    )


def _context(base: Base, asked: int) -> int:
    """The longest row: what was asked for, or what a model with learned positions can read."""
    limit = getattr(base.model.config, "max_position_embeddings", None)
    return min(asked, limit) if isinstance(limit, int) and limit > 0 else asked


def _check_trackers(report_to: str) -> None:
    for name in (n.strip() for n in report_to.split(",")):
        if name not in ("none", "", *TRACKERS):
            raise UsageError(f"--report-to {name}", f"It takes none, or of {', '.join(TRACKERS)}")
        if name in TRACKERS and importlib.util.find_spec(name) is None:
            raise UsageError(f"--report-to {name} needs the package {name}", f"Type: pip install {name}")


def _resolved(config: TrainConfig, base: Base, names: tuple[str, ...]) -> TrainConfig:
    """The config with what the defaults came to, as config.yaml keeps it."""
    return replace(
        config,
        learning_rate=choose_learning_rate(config, count_parameters(base.model).total),
        compute=str(base.compute_dtype).removeprefix("torch."),
        device=base.device.type,
        fast=",".join(names) or "off",
    )


def _run(prepared: Prepared, directory: Path, view: View, stop: StopRequest, snapshot: Snapshot | None) -> Trained:
    config, base = prepared.config, prepared.base
    accelerator = _accelerator(config, directory)
    torch.manual_seed(config.seed)  # before the adapter exists: same seed, same bits
    model = attach_adapter(base, config)
    fast.install(model, prepared.fast)
    count = count_parameters(model)
    schedule = make_schedule_numbers(len(prepared.training.examples), config)
    facts = _facts(prepared)
    tuned = Tuned(base, model, prepared.rows.template, facts["openings"], _novelty(prepared, directory))
    figures = _figures(prepared, count, schedule)
    write_json(directory / "manifest.json", figures)
    _say_plan(view, prepared, count, schedule, directory)
    trainer = _trainer(prepared, model, accelerator, schedule)
    recorder = Recorder(
        directory,
        tuned,
        view,
        schedule.num_steps,
        config.log_every,
        config.keep_checkpoints,
        sample_prompts(prepared),
        config.seed,
        accelerator,
        last_saved=snapshot.progress.step if snapshot else -1,
    )
    with stop.deferred():
        end = run_steps(trainer, prepared.training.examples, prepared.held_out.examples, schedule, recorder, stop, snapshot)
        if stop.number:
            if recorder.last_saved != end.progress.step:
                recorder.save(end)
            raise interrupted(stop.number, f"step {end.progress.step} is saved", f"Type: florilegium resume {directory}")
        return _finish(prepared, directory, view, tuned, figures, facts, end, recorder)


def _finish(
    prepared: Prepared,
    directory: Path,
    view: View,
    tuned: Tuned,
    figures: dict[str, Any],
    facts: dict[str, Any],
    end: Snapshot,
    recorder: Recorder,
) -> Trained:
    """The adapter on disk (the best one seen), and the figures of the run."""
    from florilegium.model import set_adapter_state
    from florilegium.training import peak_memory

    progress = end.progress
    state = end.best or end.adapter
    if end.best and progress.best_step != progress.step:
        view.say(f"the best adapter was that of step {progress.best_step}: it is the one that is kept")
        set_adapter_state(tuned.model, end.best)
    figures |= {
        "steps": progress.step,
        "tokens": progress.tokens,
        "elapsed_seconds": round(progress.elapsed_seconds, 2),
        "tokens_per_second": round(progress.tokens / max(progress.elapsed_seconds, 1e-9), 1),
        "peak_memory_bytes": peak_memory(prepared.base.device),
        "eval_loss_before": progress.first_eval_loss,
        "eval_loss": progress.best_loss,
        "best_step": progress.best_step,
    }
    write_json(directory / "manifest.json", figures)
    card = adapter_card(prepared.config, figures, [row.text for row in recorder.samples])
    save_adapter(tuned.model, prepared.base, directory / "adapter", facts, card, state)
    if recorder.accelerator is not None:
        recorder.accelerator.end_training()
    return Trained(directory, tuned, figures, recorder.samples)


def _accelerator(config: TrainConfig, directory: Path) -> Any:
    from accelerate import Accelerator

    trackers = [n.strip() for n in config.report_to.split(",") if n.strip() not in ("none", "")]
    accelerator = Accelerator(cpu=config.device == "cpu", log_with=trackers or None, project_dir=str(directory))
    if trackers:
        plain = {k: v for k, v in as_dict(config).items() if isinstance(v, (int, float, str, bool))}
        accelerator.init_trackers("florilegium", config=plain)
    return accelerator


def _trainer(prepared: Prepared, model: Any, accelerator: Any, schedule: Schedule) -> Trainer:
    config, base = prepared.config, prepared.base
    optimizer = make_optimizer(model, config, config.learning_rate or 0.0)
    rate = make_schedule(optimizer, config, schedule.num_steps)
    lean = config.memory == "lean"
    if lean and not base.packs:
        base.model.gradient_checkpointing_enable({"use_reentrant": False})
    if config.neftune_alpha and not base.packs:
        raise UsageError(f"--neftune-alpha is for BLOOM here, and {config.model} is another family", "Leave it out")
    walk = Walk(prepared.fast, lean, config.neftune_alpha)
    return Trainer(base, model, config, walk, pack_plan(prepared), accelerator.prepare(optimizer), rate, accelerator)


def pack_plan(prepared: Prepared) -> PackPlan:
    """How rows are packed here: on CUDA one long row that fast attention can take, on the CPU several short ones, whose attention
    is cheaper; for families that cannot pack, a quote a row."""
    config, base = prepared.config, prepared.base
    if base.device.type == "cuda":
        return PackPlan(8192, 256 if "attention" in prepared.fast else 8, config.batch_tokens or 8192, not base.packs)
    return PackPlan(256, 8, config.batch_tokens or 4096, not base.packs)


def sample_prompts(prepared: Prepared) -> list[tuple[str, bool]]:
    """Three prompts to watch the model by, and whether each wants tags: nothing, two words of a held-out quote, a whole one."""
    first = prepared.rows.template.columns[0]
    quotes = sorted((str(q[first]) for q in prepared.held_out_quotes or prepared.training_quotes), key=lambda t: (len(t) < 20, len(t)))
    two = " ".join(quotes[0].split()[:2])
    prompts = [("", False), (two, False)]
    return [*prompts, (quotes[-1 if len(quotes) < 2 else 1], True)] if len(prepared.rows.template.columns) == 2 else prompts


def _novelty(prepared: Prepared, directory: Path) -> NoveltyIndex:
    first = prepared.rows.template.columns[0]
    index = NoveltyIndex.from_texts(str(quote[first]) for quote in prepared.training_quotes)
    index.save(directory / NGRAMS)
    return index


def _facts(prepared: Prepared) -> dict[str, Any]:
    """What the adapter's folder remembers beside PEFT's own files."""
    template = prepared.rows.template
    return {
        "format": 1,
        "template": template.text,
        "list_columns": list(template.list_columns),
        "base": base_facts(prepared.base),
        "revision": prepared.config.revision,
        "bits": prepared.config.bits,
        "openings": _openings(prepared.training.examples),
    }


def _openings(examples: Sequence[Example]) -> dict[str, int]:
    """How training rows begin: the 500 most frequent first tokens and their counts."""
    return {str(token): count for token, count in Counter(e.token_ids[0] for e in examples).most_common(500)}


def _figures(prepared: Prepared, count: ParameterCount, schedule: Schedule) -> dict[str, Any]:
    config, rows = prepared.config, prepared.rows
    return {
        "version": importlib.metadata.version("florilegium"),
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "device": torch.cuda.get_device_name() if prepared.base.device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "compute": config.compute,
        "fast": list(prepared.fast),
        "seed": config.seed,
        "base": base_facts(prepared.base),
        "data": {"source": rows.source, "digest": rows.digest, "rows": len(rows.quotes), "duplicates": rows.duplicates},
        "template": rows.template.text,
        "training_rows": len(prepared.training.examples),
        "held_out_rows": len(prepared.held_out.examples),
        "cut_rows": prepared.training.num_cut + prepared.held_out.num_cut,
        "skipped_rows": len(rows.skipped),
        "trained_parameters": count.trained,
        "total_parameters": count.total,
        "planned_steps": schedule.num_steps,
    }


def _say_plan(view: View, prepared: Prepared, count: ParameterCount, schedule: Schedule, directory: Path) -> None:
    config, base = prepared.config, prepared.base
    held = {8: "int8", 4: "NF4", 16: "bfloat16", 32: "float32"}[config.bits]
    where = torch.cuda.get_device_name() if base.device.type == "cuda" else f"CPU ({torch.get_num_threads()} threads)"
    view.say(
        f"model    {config.model}: {count.total - count.trained:,} parameters frozen in {held}, computing in {config.compute} on {where}"
    )
    view.say(f"adapter  LoRA rank {config.rank}: {count.trained:,} of {count.total:,} parameters train ({100 * count.share:.3f}%)")
    rows = "packed rows" if base.packs else "padded rows, one quote each"
    view.say(f"path     {rows}; fast: {', '.join(prepared.fast) or 'off'}")
    view.say(
        f"plan     {schedule.num_steps:,} steps of {config.batch_rows} quotes, learning rate {config.learning_rate:g}, seed {config.seed}"
    )
    view.say(f"run      {directory}")
