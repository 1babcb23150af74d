"""`--notify` says to the terminal how a command ended; a log, and who did not ask, get nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from florilegium.cli.main import main
from florilegium.cli.notify import notifying, ring
from florilegium.errors import Interrupted, UsageError
from tests.cli.screens import Screen


def terminal(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """In the test itself: between a fixture and its test pytest takes stderr for its own."""
    monkeypatch.setattr(sys, "stderr", found := Screen(True))
    return found


@pytest.mark.parametrize(
    "error,came",
    [
        (None, "done"),
        (KeyboardInterrupt(), "stopped"),
        (Interrupted("saved"), "stopped"),
        (UsageError("x", "y"), "failed"),
    ],
)
def test_how_it_ended(monkeypatch: pytest.MonkeyPatch, error: BaseException | None, came: str) -> None:
    screen = terminal(monkeypatch)
    try:
        with notifying(True, "train"):
            if error is not None:
                raise error
    except BaseException as raised:
        assert raised is error
    assert screen.getvalue() == f"\x1b]9;florilegium train: {came} after 10 s\x07\x07"


def test_who_did_not_ask_is_not_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with notifying(False, "train"):
        pass
    assert screen.getvalue() == ""


def test_a_command_rings_at_its_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    screen = terminal(monkeypatch)
    assert main(["evaluate", str(tmp_path / "nosuch"), "--notify"]) != 0
    assert "\x1b]9;florilegium evaluate: failed after 10 s\x07\x07" in screen.getvalue()


def test_a_log_holds_no_escape_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Screen(False), Screen(False)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    ring("done")
    assert out.getvalue() == err.getvalue() == ""
    out.is_terminal = True
    ring("a\x1b]0;title\x07b")
    assert out.getvalue() == "\x1b]9;a ]0;title b\x07\x07"
