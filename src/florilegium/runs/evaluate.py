"""`florilegium evaluate RUN [--base]`: everything that can be said about a run in figures, the base model beside it.

    losses         of held-out rows, the quote's part and the tags' apart; of general text, before and after
    tags           written for the held-out quotes (greedily), against the rows' own; and what always naming frequent tags would get
    free texts     written from nothing with fixed seeds: form, stopping, is_repetitive, variety, copies of training rows
    relevance      do the tags that were written fit their quotes

Of several processes (torchrun) each measures and writes a share, to the same figures. The rows are read again and split
again as the run did it, and must be the same (the digest in manifest.json). The answer is one JSON object,
`evaluation.json` in the run's folder, and report.html there is written anew. A figure is `{"value", "low", "high"}`: a 95%
bootstrap interval."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from florilegium.config import make_config, read_run_config, settings_of_run
from florilegium.config.installed import installed_version
from florilegium.config.processes import read_place
from florilegium.data import read_rows_of, split_by_config
from florilegium.errors import DataError, ResourceError, UsageError
from florilegium.evaluation import GENERAL, read_general, spreads
from florilegium.generation.tuned import load
from florilegium.report import write_report
from florilegium.runs.controls import Compared
from florilegium.runs.evaluator import EvalData, Evaluator
from florilegium.runs.moved import found_again
from florilegium.runs.recorder import NullView, ProgressView
from florilegium.runs.repeats import repeat
from florilegium.runs.samples import shared_by
from florilegium.runs.selection import selection_of
from florilegium.runs.time_left import TimeLeft, evaluation_phases
from florilegium.storage.atomic_files import Remedy, write_json
from florilegium.storage.run_directory import RunDirectory, adapter_folder, find_run
from florilegium.training import joined

# How figures were measured: those of two evaluations that differ in it are not put together.
MEASURED_BY = ("version", "most_rows", "generations", "sampling", "general")


_REMEDY = Remedy("To keep the figures, copy the run to a folder that can be written", "`florilegium evaluate`")


class EvaluationReport(Compared):
    """evaluation.json. `leaks` are near-duplicate pairs across training and held-out rows."""

    version: str
    held_out_rows: int
    validation_rows: int
    selection: dict[str, object]
    split_by: str
    leaks: int
    most_rows: int
    generations: int
    sampling: dict[str, object]
    interval: str
    general: str
    forgetting: dict[str, object]
    elapsed_seconds: float
    repeats: dict[str, object] | None


class UnsavedEvaluation(ResourceError):
    """The figures, where the run's folder did not take them: hours of work that can still be shown."""

    def __init__(self, error: ResourceError, report: EvaluationReport) -> None:
        super().__init__(error.cause, error.fix)
        self.report = report


def evaluate(
    run: str | Path = "latest",
    *,
    base: bool = False,
    data: str | None = None,
    model: str | None = None,
    general: str | Path | None = None,
    generations: int = 200,
    rows: int = 500,
    seed: int = 0,
    known_tags: bool = False,
    bits: int | None = None,
    device: str = "auto",
    repeats: int = 0,
    view: ProgressView | None = None,
) -> EvaluationReport:
    """The figures of `run`, also written to its `evaluation.json`. `base` measures the base model too; `data` and
    `model` say where the run's rows and base lie now; at most `rows` held-out rows are used, `generations` free texts
    written. `known_tags` also asks for the probability of each tag of the training rows. With `repeats` the run is
    trained again so often with other seeds, each evaluated likewise.

    Raises UsageError when there is no such run, DataError when its rows are gone, changed or none was held out,
    UnsavedEvaluation with the report where the disk refuses it, and what loading raises."""
    view, began = view or NullView(), time.monotonic()
    if generations < 1 or rows < 1:
        raise UsageError(f"--{'generations' if generations < 1 else 'rows'} is below 1", "It takes 1 or more")
    if repeats < 0:
        raise UsageError("--repeats is below 0", "It takes 1 or more: two repeats make three seeds")
    directory = find_run(str(run))
    adapter_folder(directory)
    if repeats and read_place().world > 1:
        raise UsageError("--repeats trains, and here several processes evaluate together", "Start one process for it")
    with joined(device) as distributed:
        view = view if distributed.is_first else NullView()
        with distributed.first_then_others():
            material = read_eval_data(directory, data, rows)
            paragraphs = read_general(Path(general) if general else GENERAL)
            tuned = load(directory, model=model, bits=bits, device=device, progress=view.loading)
        for note in tuned.notes:
            view.say(f"note: {note}")
        phases = evaluation_phases(len(material.held_out), generations, has_base=base)
        writer, settings = shared_by(tuned, distributed), tuned.sampling(seed=seed)
        evaluator = Evaluator(writer, material, settings, generations, TimeLeft(view, phases), known_tags)
        measured = evaluator.measure(use_base=False), evaluator.measure(use_base=True) if base else None
        compared = evaluator.compare(*measured)
        lost = evaluator.forgetting(paragraphs)
        distributed.wait()
    chosen = selection_of(
        RunDirectory(directory).read_metrics(),
        len(material.split.validation),
        len(material.held_out),
        compared["tuned"]["loss"],
    )
    report: EvaluationReport = {
        "version": installed_version("florilegium"),
        "held_out_rows": len(material.held_out),
        "validation_rows": len(material.split.validation),
        "selection": chosen.to_json(),
        "split_by": material.config.split_by,
        "leaks": material.split.leaks,
        "most_rows": rows,
        "generations": generations,
        "sampling": asdict(evaluator.settings),
        "interval": "95%, bootstrap over rows, 1,000 resamples; Wilson for shares of texts",
        **compared,
        "general": str(Path(general).name) if general else "bundled",
        "forgetting": asdict(lost),
        "elapsed_seconds": round(time.monotonic() - began, 1),
        "repeats": None,
    }
    if repeats:

        def again(path: Path) -> Mapping[str, object]:
            before = RunDirectory(path).read_evaluation() if RunDirectory(path).evaluation.exists() else {}
            if all(before.get(name) == value for name, value in report.items() if name in MEASURED_BY):
                return before
            return evaluate(
                path,
                general=general,
                generations=generations,
                rows=rows,
                seed=seed,
                bits=bits,
                device=device,
                view=view,
            )

        config = replace(material.config, data=data or material.config.data, model=model or material.config.model)
        others = repeat(directory, config, repeats, again, view)
        found = spreads([report, *others.values()])
        report["repeats"] = {"seeds": [config.seed, *others], "metrics": [asdict(one) for one in found]}
    if not distributed.is_first:
        return report
    try:
        write_json(RunDirectory(directory).evaluation, report, _REMEDY)
        view.say(f"report {write_report(directory, _REMEDY)}")
    except ResourceError as error:
        raise UnsavedEvaluation(error, report) from error
    return report


def read_eval_data(directory: Path, data: str | None = None, most_rows: int = 500) -> EvalData:
    """The run's rows, read and split again. Raises ModelError for a folder that is no run, DataError for other rows
    than it was made on."""
    run = RunDirectory(directory).check()
    config = make_config(settings_of_run(read_run_config(run.config)), source=str(run.config))
    config = found_again(config, directory)
    rows = read_rows_of(config, data)
    digest = run.data_digest()
    if digest and digest != rows.digest:
        raise DataError(
            f"{data or config.data} does not hold the rows that {directory} was trained on",
            "Name their file with --data",
        )
    split = split_by_config(config, rows)
    if not split.held_out:
        raise DataError(
            f"{directory} has no held-out rows, so there is nothing to measure on",
            "Train again with --held-out 0.1 and more rows",
        )
    tested, validation = _thinned(split.test, most_rows), _thinned(split.validation, most_rows)
    training, held_out, chosen = ([rows.quotes[i] for i in own] for own in (split.training, tested, validation))
    return EvalData(config, rows, split, training, held_out, [rows.places[i] for i in tested], chosen)


def _thinned(numbers: Sequence[int], most: int) -> Sequence[int]:
    """At most `most` of them, evenly spread."""
    return numbers[:: max(1, -(-len(numbers) // most))]
