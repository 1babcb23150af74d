"""Python's collector of cycles rests while rows are read, split and examined, and is as it was afterwards."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from florilegium.data import make_split, read_rows, report_on
from florilegium.data.collector import without_collector
from florilegium.errors import UsageError


@pytest.fixture(params=[True, False], ids=["on", "off"])
def before(request: pytest.FixtureRequest) -> Iterator[bool]:
    on: bool = request.param
    (gc.enable if on else gc.disable)()
    yield on
    gc.enable()


def test_it_is_as_it_was_afterwards(before: bool, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"quote": "Row {i} is here.", "tags": ["t"]}}\n' for i in range(30)))
    rows = read_rows(path)
    assert gc.isenabled() is before
    split = make_split(rows.quotes, 0.1)
    assert gc.isenabled() is before
    report_on(rows, split, 0.1, 0, "near-duplicates")
    assert gc.isenabled() is before
    with pytest.raises(UsageError):
        make_split(rows.quotes, 2.0)
    assert gc.isenabled() is before


def test_it_rests_within_and_within_that() -> None:
    with without_collector():
        with without_collector():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_splitting_and_examining_make_nothing_that_only_it_could_free(tmp_path: Path) -> None:
    """What the pause rests on: ten times the rows leave no more cycles behind."""
    found = []
    for count in (300, 3000):
        path = tmp_path / f"{count}.jsonl"
        lines = (
            f'{{"quote": "Row {i} tells of {i * 7919 % 1009} things.", "tags": ["t", "u"]}}\n' for i in range(count)
        )
        path.write_text("".join(lines))
        gc.collect()
        rows = read_rows(path)
        split = make_split(rows.quotes, 0.1)
        report_on(rows, split, 0.1, 0, "near-duplicates")
        found.append(gc.collect())
    assert found[1] < found[0] + 300
