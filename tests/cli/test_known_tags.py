"""`generate --known-tags`: no tag but those of the run's rows, each once; where they are not known, why, before loading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import florilegium
from florilegium.cli.main import main
from florilegium.generation import known_tags, tuned
from tests.tiny import save_tiny

TAGS = ("sea", "home", "river")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps: what it writes freely is noise."""
    folder = tmp_path_factory.mktemp("known")
    save_tiny(folder / "base", heads=4, head_dim=16)
    rows = [{"quote": f"Be kind to the {a}, {b}.", "tags": [a, b]} for a in TAGS for b in TAGS if a != b]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    florilegium.train(
        folder / "rows.jsonl", model=str(folder / "base"), output=str(folder / "run"), max_steps=2, bits=32, device="cpu",
        split_by="random", verdict_texts=0,
    )  # fmt: skip
    return folder / "run"


def written(run: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[dict[str, object]]:
    given = ["generate", "--label", "Be kind to the sea.", "--json", "-n", "4", "--seed", "3", "--run", str(run)]
    assert main([*given, *more]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_tag_is_one_of_the_rows_and_stands_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    free = written(run, capsys, "--max-new-tokens", "12")
    assert any(set(row["tags"]) - set(TAGS) for row in free), "else the flag would show nothing"  # type: ignore[call-overload]
    for row in written(run, capsys, "--max-new-tokens", "12", "--known-tags"):
        tags = row["tags"]
        assert isinstance(tags, list) and set(tags) <= set(TAGS) and len(set(tags)) == len(tags)
        assert row["finished"] and row["text"] == f"Be kind to the sea. ->: {', '.join(tags)}".strip()


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    assert main(["generate", "--known-tags", *words]) == code
    return capsys.readouterr().err


def test_where_they_are_not_known_it_says_why_before_anything_is_loaded(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the base was loaded")

    monkeypatch.setattr(tuned, "load_base", never)
    assert "--about" in refused(capsys, 2, "--about", "sea", "--run", str(run))
    (run / "adapter").rename(tmp_path / "adapter")
    try:
        assert "only a run's folder names them" in refused(capsys, 2, "--run", str(tmp_path / "adapter"))
    finally:
        (tmp_path / "adapter").rename(run / "adapter")
    known_tags._read.cache_clear()
    rows = run.parent / "rows.jsonl"
    rows.rename(tmp_path / "rows.jsonl")
    try:
        assert f"no such file: {rows}" in refused(capsys, 3, "--run", str(run))
    finally:
        (tmp_path / "rows.jsonl").rename(rows)
