"""The run directory: what a training run leaves behind, and the one place that knows its files by name.

    runs/NAME/
        config.yaml        every setting, resolved: `florilegium train --config` repeats the run
        manifest.json      versions, seeds, digests of base, tokenizer, data and template; at the end the results
        metrics.jsonl      one object a logged step, and one an evaluation
        samples.jsonl      what the model wrote as it learned
        events.jsonl       what happened to the run: resumed from where, settings changed, memory running out
        data.json          the rows' counts and the data quality checks
        evaluation.json    what `florilegium evaluate` measured
        report.html        the page, and loss.png beside it
        adapter/           the result, in PEFT's layout
        checkpoints/       step-00000100/ ...: to resume from after a stop
        training_ngrams.safetensors    hashed 8-word runs of the training rows, to tell a new quote from a copy

How the folder is made and held: `run_lock.py`. How files are written: `atomic_files.py`."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from florilegium.errors import ModelError, counted, nearest
from florilegium.storage.json_lines import read_lines
from florilegium.storage.paths import check_path

RUNS = Path("runs")
NAMED = 6  # runs that a message names
MAX_JSON_BYTES = 64 << 20  # data.json of a million bad rows stays below it


@dataclass(frozen=True)
class RunDirectory:
    """The files of the run at `path`, by name, and what can be read of them. A file that is missing or damaged reads as
    empty: a report can be made of a run that was stopped."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples.jsonl"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def data_report(self) -> Path:
        return self.path / "data.json"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def training_ngrams(self) -> Path:
        return self.path / "training_ngrams.safetensors"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def is_run(self) -> bool:
        return os.path.isfile(self.config)  # false, too, for a folder that may not be looked into

    @property
    def has_config(self) -> bool:
        """Whether anything lies where the settings should; `check` says whether they can be read."""
        return os.path.lexists(self.config)

    @property
    def has_started(self) -> bool:
        """Whether there is anything that a training wrote."""
        return any(map(os.path.exists, (self.metrics, self.checkpoints, self.adapter)))

    @property
    def has_adapter(self) -> bool:
        return os.path.isfile(self.adapter / "adapter_config.json")

    def check(self) -> RunDirectory:
        """Itself. Raises ModelError for a folder that is no run, or one whose settings are gone."""
        if self.is_run:
            return self
        if os.path.lexists(self.config):
            raise ModelError(f"{self.config} is not a plain file", "Put back the one that the run wrote")
        if self.has_started:
            raise ModelError(
                f"{self.path} has lost its config.yaml: its rows and settings are not known",
                "Put back the one that the run wrote, or train a new run",
            )
        raise ModelError(
            f"{self.path} is not a run: it has no config.yaml",
            _others(self.path.name) or "Name a folder that `florilegium train` made",
        )

    def read_manifest(self) -> dict[str, object]:
        return read_object(self.manifest)

    def data_digest(self) -> str | None:
        """Of the rows that the run was trained on."""
        match self.read_manifest().get("data"):
            case {"digest": str(digest)}:
                return digest
        return None

    def read_data_report(self) -> dict[str, object]:
        return read_object(self.data_report)

    def read_evaluation(self) -> dict[str, object]:
        return read_object(self.evaluation)

    def read_metrics(self) -> list[dict[str, object]]:
        return read_lines(self.metrics)

    def read_samples(self) -> list[dict[str, object]]:
        return read_lines(self.samples)


def read_object(path: Path) -> dict[str, object]:
    """A JSON object of bounded size, or an empty one where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if path.is_file() and path.stat().st_size <= MAX_JSON_BYTES:  # a FIFO has no bytes, and is waited for
            found = json.loads(path.read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else {}
    return {}


def find_run(name: str) -> Path:
    """The run or adapter folder that `name` means: `latest`, a path, or a name under runs/. Raises ModelError, with the
    names of those that are there, and for a folder that may not be looked into."""
    if name == "latest":
        adapters = list(RUNS.glob("*/adapter/adapter_config.json"))
        if not adapters:
            raise ModelError("there is no finished run in runs/", _others("") or "Make one with `florilegium train`")
        return max(adapters, key=lambda p: p.stat().st_mtime).parent.parent
    given = check_path(name, "the run")
    for path in (given, RUNS / given):
        if os.path.isdir(path):
            return _may_be_read(path)
    raise ModelError(f"no run or adapter at {name}", _others(given.name) or "Make one with `florilegium train`")


def names_a_base(name: str) -> bool:
    """Whether `name` means a model, and no run or adapter: a folder with a config.json and no adapter, the demo model,
    or, where nothing is at that path, what may be a Hub id."""
    given = Path(name).expanduser()
    for path in (given, RUNS / given):
        if path.is_dir():
            has_adapter = any((folder / "adapter_config.json").exists() for folder in (path, path / "adapter"))
            return (path / "config.json").is_file() and not has_adapter and not RunDirectory(path).is_run
    return name == "seedling" or (name.count("/") == 1 and not name.startswith((".", "/", "~", f"{RUNS}/")))


def _may_be_read(folder: Path) -> Path:
    """The folder. Raises ModelError where its files may not be listed, or not opened."""
    try:
        os.listdir(folder)
        os.stat(os.path.join(folder, "."))
    except PermissionError:
        raise ModelError(
            f"{folder}: permission denied", f"Make it readable: chmod u+rx {shlex.quote(str(folder))}"
        ) from None
    return folder


def _others(name: str) -> str:
    """The runs that are here, the newest first, and the one that was meant."""
    runs = [path for path in RUNS.glob("*") if RunDirectory(path).is_run]
    names = [path.name for path in sorted(runs, key=lambda path: path.stat().st_mtime, reverse=True)]
    if not names:
        return ""
    shown = ", ".join(name if RunDirectory(RUNS / name).has_adapter else f"{name} (stopped)" for name in names[:NAMED])
    more = f" and {counted(len(names) - NAMED, 'other')}" if len(names) > NAMED else ""
    return f"{nearest(name, names)} Runs here: {shown}{more}".strip()


def adapter_folder(path: Path) -> Path:
    """The adapter inside a run, or the folder itself if it is one. Raises ModelError."""
    for folder in (path / "adapter", path):
        if (folder / "adapter_config.json").is_file():
            return folder
    if RunDirectory(path).is_run:
        raise ModelError(f"{path} has not finished", f"Type: florilegium resume {shlex.quote(str(path))}")
    fix = f"Name a run that finished, or a folder with adapter_config.json. {_others(path.name)}"
    raise ModelError(f"{path} holds no adapter", fix.strip())
