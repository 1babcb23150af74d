"""What is exported: an adapter, its base, and what its run wrote down about it. Whatever of a run's own files is missing
or broken is left out: an adapter alone can be exported too."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from florilegium.config import read_config
from florilegium.data import Template
from florilegium.errors import ModelError, UsageError
from florilegium.export.card import RunFigures
from florilegium.export.origin import Origin, origin_of
from florilegium.model.adapter_facts import AdapterFacts, read_facts, template_of
from florilegium.model.adapter_origin import where_it_lies
from florilegium.model.hub import locate
from florilegium.model.identity import BaseFacts, same_weights, weights_digest
from florilegium.model.untrusted import read_json
from florilegium.model.weight_files import find_weights
from florilegium.storage.run_directory import RunDirectory

SHOWN_SAMPLES = 6


@dataclass(frozen=True)
class Subject:
    """`base_folder` holds the base's 16-bit weights (None: they are not asked for); `other_weights` says that they are
    not the very ones of the training. `config`, `figures`, `evaluation` are of the run's files, each empty where it is not there."""

    name: str
    adapter: Path
    base: Origin
    base_folder: Path | None
    other_weights: bool
    template: Template
    config: Mapping[str, object]
    figures: RunFigures | None
    evaluation: Mapping[str, object]
    samples: list[str]

    @property
    def weights(self) -> Path:
        """The folder of the base's weights, for those that `read_subject` made."""
        assert self.base_folder is not None
        return self.base_folder

    @property
    def run(self) -> Path | None:
        """The run's folder, or None for an adapter alone."""
        return self.adapter.parent if RunDirectory(self.adapter.parent).is_run else None


def describe(directory: Path, adapter: Path) -> Subject:
    """The subject of a card alone: its base need not be at hand, and is not fetched. Raises UsageError where nothing
    says which base it is."""
    facts = read_facts(adapter)
    name = _base_name(facts, adapter)
    is_here = name == "seedling" or Path(name).expanduser().is_dir()
    origin = origin_of(name, locate(name) if is_here else None, local=facts.base_is_local)
    return Subject(
        _run_name(directory, adapter),
        adapter,
        origin,
        None,
        False,
        template_of(facts),
        *_run_files(RunDirectory(adapter.parent)),
    )


def _base_name(facts: AdapterFacts, adapter: Path) -> str:
    """The base that the adapter names: its own file, or PEFT's, which is all that adapters of others have."""
    config = read_json(adapter / "adapter_config.json", f"the adapter_config.json in {adapter}")
    name = where_it_lies(facts, adapter) or config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise UsageError(f"{adapter} does not say which base it is for", "Name it with --model")
    return name


def read_subject(directory: Path, adapter: Path, model: str | None) -> Subject:
    """The subject of an export. `model` names the base if it has moved, or was given in int8. Raises UsageError where
    nothing says which base it is, ModelError where the base is gone or another."""
    facts = read_facts(adapter)
    name = model or _base_name(facts, adapter)
    folder = locate(name, facts.revision if model is None else None)
    found = BaseFacts(digest=weights_digest(find_weights(folder, name)))
    other = bool(facts.base.digest) and not same_weights(found, facts.base)
    if other and model is None:
        raise ModelError(
            f"the base {name} has other weights than the adapter was trained on",
            "Name the folder that has them with --model",
        )
    origin = origin_of(name, folder, local=facts.base_is_local if model is None else None)
    return Subject(
        _run_name(directory, adapter),
        adapter,
        origin,
        folder,
        other,
        template_of(facts),
        *_run_files(RunDirectory(adapter.parent)),
    )


def _run_name(directory: Path, adapter: Path) -> str:
    return (adapter.parent if directory != adapter else directory).resolve().name


def _run_files(run: RunDirectory) -> tuple[Mapping[str, object], RunFigures | None, Mapping[str, object], list[str]]:
    """config, figures, evaluation, the last samples; empty where `run` is no run."""
    if not run.is_run:
        return {}, None, {}, []
    config: Mapping[str, object] = {}
    with contextlib.suppress(UsageError):
        config = read_config(run.config)
    rows = [row for row in run.read_samples() if isinstance(row.get("text"), str)]
    last = [str(row["text"]) for row in rows if row.get("step") == rows[-1].get("step")]
    manifest, figures = run.read_manifest(), None
    with contextlib.suppress(ValueError):
        figures = RunFigures.from_json(manifest) if manifest else None
    return config, figures, run.read_evaluation(), last[:SHOWN_SAMPLES]
