"""`python -m tests.torture.breaks` breaks each guard and wants to see a test go red; here only that its list fits the
code."""

from __future__ import annotations

import pytest

from tests.torture.breaks import BREAKS, RECORD, ROOT, Break, recorded


@pytest.mark.parametrize("what", BREAKS, ids=[what.name for what in BREAKS])
def test_every_break_still_finds_its_place(what: Break) -> None:
    code = (ROOT / "src" / "florilegium" / what.file).read_text()
    assert code.count(what.old) == 1 and what.new not in (what.old, None)
    test, _, name = what.test.partition("::")
    assert (f"def {name}(" if name else "def test_") in (ROOT / "tests" / "torture" / test).read_text()


def test_every_break_was_seen() -> None:
    """`python -m tests.torture.breaks NAME` runs a new one and adds its line."""
    seen = recorded()
    missing = [what.name for what in BREAKS if what.test.rpartition("/")[2] not in seen.get(what.name, "")]
    assert not missing and f"{len(BREAKS)} of {len(BREAKS)}." in RECORD.read_text(encoding="utf-8"), missing
