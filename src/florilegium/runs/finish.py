"""The end of a run: the best adapter, the verdict, and all of it on disk. A stop before the adapter is there leaves the
last checkpoint, from which `florilegium resume` does this again."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from florilegium.config import TrainConfig
from florilegium.data import report_on
from florilegium.errors import FlorilegiumError, Interrupted, ResourceError
from florilegium.generation import Generated
from florilegium.generation.tuned import Tuned
from florilegium.model import save_adapter, set_adapter_state
from florilegium.model.adapter_facts import AdapterFacts
from florilegium.report import write_report
from florilegium.runs.cards import adapter_card
from florilegium.runs.manifest import RunManifest, RunResults
from florilegium.runs.prepare import Prepared
from florilegium.runs.recorder import ProgressView, Recorder
from florilegium.runs.setup import ReadyRun
from florilegium.runs.start_from import MADE_OF_THE_BASE
from florilegium.runs.verdict import Verdict, draw_verdict, filled_share
from florilegium.signals import StopRequest
from florilegium.storage.atomic_files import write_json, write_text
from florilegium.storage.paths import quoted, without_home
from florilegium.storage.run_directory import RunDirectory
from florilegium.training import SharedStop, Snapshot, peak_memory


@dataclass(frozen=True)
class Trained:
    """A finished run: its folder, the tuned model still in memory, its manifest, what it wrote at the last
    evaluation, the verdict and the texts it was drawn from."""

    directory: Path
    tuned: Tuned
    manifest: RunManifest
    samples: list[Generated]
    verdict: Verdict | None = None
    verdict_rows: tuple[Generated, ...] = ()

    @property
    def figures(self) -> dict[str, object]:
        """manifest.json as plain values."""
        return self.manifest.to_json()


def finish(
    ready: ReadyRun,
    run: RunDirectory,
    view: ProgressView,
    tuned: Tuned,
    manifest: RunManifest,
    facts: AdapterFacts,
    end: Snapshot,
    recorder: Recorder,
    stop: StopRequest | SharedStop,
) -> Trained:
    """The adapter on disk (the best one seen), and the figures of the run. Raises Interrupted for a signal while the
    verdict's texts are written."""
    prepared, config, progress = ready.prepared, ready.plan.config, end.progress
    state = end.best or end.adapter
    if end.best and progress.best_step != progress.step:
        view.say(
            f"keeping the adapter from step {progress.best_step} (lowest {'validation' if prepared.split.validation else 'held-out'} loss)"
        )
        set_adapter_state(tuned.model, end.best)
    results = RunResults(
        steps=progress.step,
        tokens=progress.tokens,
        elapsed_seconds=round(progress.elapsed_seconds, 2),
        tokens_per_second=round(progress.tokens / max(progress.elapsed_seconds, 1e-9), 1),
        peak_memory_bytes=peak_memory(prepared.base.device),
        eval_loss_before=progress.first_eval_loss,
        eval_loss=progress.reported_loss,
        validation_loss=progress.best_loss if prepared.split.validation else None,
        best_step=progress.best_step,
    )
    with stop.heard(f"step {recorder.last_saved} is saved", f"Type: florilegium resume {quoted(run.path)}"):
        verdict, rows = verdict_of(ready, run, view, tuned)
    manifest = replace(manifest, results=results, verdict=verdict.to_json() if verdict else None)
    write_json(run.manifest, manifest.to_json())
    card = adapter_card(config, manifest, recorder.samples_at(progress.best_step), prepared.base.folder)
    recorder.place.check()
    save_adapter(tuned.model, prepared.base, run.adapter, facts, card, state)
    if recorder.accelerator is not None:
        for tracker in recorder.accelerator.trackers:  # `end_training` would leave the other processes, too
            tracker.finish()
    _write_page(prepared, config, run, view)
    return Trained(run.path, tuned, manifest, recorder.samples, verdict, tuple(rows))


def verdict_of(
    ready: ReadyRun, run: RunDirectory, view: ProgressView, tuned: Tuned
) -> tuple[Verdict | None, list[Generated]]:
    """The verdict, or None where none was asked for or the texts could not be written: the run is no worse for it.
    Several processes write them in shares."""
    config, prepared = ready.plan.config, ready.prepared
    if not config.verdict_texts or not tuned.first_words or prepared.stages:
        return None, []
    try:
        known = prepared.held_out_quotes or prepared.training_quotes
        length, name = ready.plan.length, str(run.path)
        filled = filled_share(tuned.template, prepared.training_quotes)
        config_file = str(run.config) if config.lora_init in MADE_OF_THE_BASE else ""
        return draw_verdict(
            tuned, config.verdict_texts, config.seed, length, name, known, filled, config_file, view.underway
        )
    except Interrupted:
        raise
    except FlorilegiumError as error:
        view.say(f"verdict  not drawn: {error.cause}")
        return None, []


def _write_page(prepared: Prepared, config: TrainConfig, run: RunDirectory, view: ProgressView) -> None:
    """data.json and report.html. The adapter is on disk by now: a page that finds no room, on
    disk or in memory, takes nothing from it."""
    report = report_on(prepared.rows, prepared.split, config.held_out, config.seed, config.split_by)
    found = json.dumps(report.to_json(), ensure_ascii=False)
    try:
        # Places name files, and files lie in somebody's home folder.
        write_text(run.data_report, without_home(found) + "\n")
        view.say(f"report   {write_report(run.path)}")
    except (ResourceError, ImportError, MemoryError, RuntimeError) as error:
        view.say(f"report   not written: {error}; later: florilegium report {quoted(run.path)}")
