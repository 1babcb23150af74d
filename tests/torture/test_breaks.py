"""`python -m tests.torture.breaks` breaks each guard and wants to see a test go red; here only that its list fits the
code."""

from __future__ import annotations

import pytest

from tests.torture.breaks import BREAKS, ROOT, Break


@pytest.mark.parametrize("what", BREAKS, ids=[what.name for what in BREAKS])
def test_every_break_still_finds_its_place(what: Break) -> None:
    code = (ROOT / "src" / "florilegium" / what.file).read_text()
    assert code.count(what.old) == 1 and what.new not in (what.old, None)
    test, _, name = what.test.partition("::")
    assert (f"def {name}(" if name else "def test_") in (ROOT / "tests" / "torture" / test).read_text()
