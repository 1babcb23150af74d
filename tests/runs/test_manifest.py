"""manifest.json, written and read again: before the first step, at the end, and that of the run that 556613a made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from florilegium.model.identity import BaseFacts
from florilegium.runs.manifest import DataFacts, RunManifest, RunResults
from florilegium.runs.resume import read_manifest_of_run
from florilegium.storage.atomic_files import write_json
from florilegium.storage.run_directory import RunDirectory

OLD = Path(__file__).parent / "run_of_556613a"
BEGUN = RunManifest(
    version="0.1.0", libraries={"torch": "2"}, fast=["chunked-loss"], base=BaseFacts("tiny", "bloom", 32, shape={"head_dim": 8}),
    data=DataFacts(source="~/q.csv", digest="d", rows=9), template="{quote}", direction="both", planned_steps=2, tile=256,
)  # fmt: skip
ENDED = replace(
    BEGUN,
    processes=2,
    stages=["1-3", "4-5"],
    forgotten={"run": "old", "rows": 3},
    results=RunResults(2, 100, 1.5, 66.7, 1 << 30, 4.5, 4.25, None, 2),
    verdict={"works": True},
)
LAST = "tile processes stages forgotten steps tokens elapsed_seconds tokens_per_second peak_memory_bytes"
LOSSES = "eval_loss_before eval_loss validation_loss best_step verdict"


@pytest.mark.parametrize("manifest", [BEGUN, ENDED], ids=["begun", "ended"])
def test_what_is_written_is_read_again(tmp_path: Path, manifest: RunManifest) -> None:
    run = RunDirectory(tmp_path)
    write_json(run.manifest, manifest.to_json())
    assert read_manifest_of_run(run) == manifest and run.data_digest() == "d"


def test_what_is_not_known_is_not_written() -> None:
    assert list(BEGUN.to_json())[-2:] == ["planned_steps", "tile"]
    assert " ".join(ENDED.to_json()).endswith(f"{LAST} {LOSSES}") and ENDED.to_json()["validation_loss"] is None


def test_that_of_an_earlier_version_is_read() -> None:
    found, written = read_manifest_of_run(RunDirectory(OLD)), json.loads((OLD / "manifest.json").read_text())
    assert found and found.results and (found.results.steps, found.direction, found.tile) == (2, "quote", None)
    later = {"direction": "quote", "validation_rows": 0, "validation_loss": None}
    assert found.to_json() == {**written, **later}
