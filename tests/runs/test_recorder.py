"""What a run wrote down, read again at its end."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from florilegium.runs.recorder import Recorder
from florilegium.storage.run_directory import RunDirectory


@pytest.mark.parametrize("kept,texts", [(20, ["b", "c"]), (40, ["d"]), (30, ["d"])])
def test_the_cards_samples_are_those_of_the_adapter_that_was_kept(kept: int, texts: list[str], tmp_path: Path) -> None:
    rows = [(0, "a"), (20, "b"), (20, "c"), (40, "d")]
    lines = (json.dumps({"step": step, "prompt": "", "text": text}) + "\n" for step, text in rows)
    (tmp_path / "samples.jsonl").write_text("".join(lines))
    recorder = cast(Recorder, SimpleNamespace(run=RunDirectory(tmp_path)))
    assert Recorder.samples_at(recorder, kept) == texts


def test_a_run_without_samples_has_none(tmp_path: Path) -> None:
    assert Recorder.samples_at(cast(Recorder, SimpleNamespace(run=RunDirectory(tmp_path))), 0) == []
