"""What is on the screen while a model is loaded: how far, how long still, and nothing when it is done."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from florilegium.cli.loading import ModelLoading
from florilegium.cli.main import main
from florilegium.cli.progress import TerminalView, Waiting
from florilegium.training import EvalMetrics
from tests.cli.screens import Screen

CLEAR = "\r\x1b[2K"


def load_slowly(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool) -> str:
    """What stderr gets of 14 GB, a gigabyte each second."""
    screen = Screen(is_terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    seconds = iter(float(second) for second in range(16))
    with ModelLoading(lambda: next(seconds)) as progress:
        for gigabyte in range(15):
            progress(gigabyte * 10**9, 14 * 10**9)
    return screen.getvalue()


def test_a_terminal_shows_how_far_and_how_long_still(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = load_slowly(monkeypatch, is_terminal=True)
    assert seen.startswith(f"{CLEAR}loading the model ...{CLEAR}loading the model  0.0 of 14.0 GB{CLEAR}")
    assert f"{CLEAR}loading the model  7.0 of 14.0 GB  ETA 0:07{CLEAR}" in seen
    assert "\n" not in seen and seen.endswith(CLEAR)
    assert max(len(line) for line in seen.split(CLEAR)) <= 60


def test_a_log_gets_a_line_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_slowly(monkeypatch, is_terminal=False) == "loading the model  9.0 of 14.0 GB  ETA 0:05\n"


def test_what_loads_at_once_is_not_talked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Screen(False))
    with ModelLoading(lambda: 0.0) as progress:
        progress(10**10, 10**10)
    assert screen.getvalue() == ""
    hours = iter(3600.0 * hour for hour in range(9))
    with ModelLoading(lambda: next(hours)) as progress:  # a small one, on a machine that is busy
        progress(64, 27_000_000)
    assert screen.getvalue() == ""


def test_what_came_before_the_first_byte_says_nothing_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Screen(False))
    seconds = iter((0.0, 600.0, 630.0))
    with ModelLoading(lambda: next(seconds)) as progress:
        progress(64, 4 * 10**9)
        progress(10**9, 4 * 10**9)
    assert screen.getvalue().splitlines() == [
        "loading the model  0.0 of 4.0 GB",
        "loading the model  1.0 of 4.0 GB  ETA 1:30",
    ]


def test_what_a_run_says_next_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Screen(True))
    view = TerminalView()
    view.loading(10**9, 10**10)
    assert view.model is not None
    view.model._said -= 60
    view.loading(5 * 10**9, 10**10)
    view.say("model    it")
    assert "loading the model" in screen.getvalue()
    assert screen.getvalue().split(CLEAR)[-1].strip() == "model    it"


def test_a_stop_after_loading_has_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, tmp_path: Path
) -> None:
    train = ["train", "--model", str(tiny), "--bits", "32", "--max-steps", "1", "--verdict-texts", "0"]
    assert main([*train, "--output", str(tmp_path / "run")]) == 0

    def show(view: TerminalView, done: int, total: int) -> None:  # by whichever thread has read a tensor
        view.model = view.model or ModelLoading()
        view.model._said -= 60
        view.model(10**9, 10**10)

    def stop(*_: object, **__: object) -> None:  # the first thing after loading, in the thread that a Ctrl-C stops
        raise KeyboardInterrupt

    monkeypatch.setattr(TerminalView, "loading", show)
    monkeypatch.setattr("florilegium.runs.evaluate.evaluation_phases", stop)
    monkeypatch.setattr(sys, "stderr", screen := Screen(True))
    assert main(["evaluate", str(tmp_path / "run")]) == 130
    assert "loading the model  1.0 of 10.0 GB" in screen.getvalue()
    assert screen.getvalue().endswith(f"{CLEAR}florilegium: stopped by SIGINT\n")


def test_kernels_that_are_compiled_are_counted() -> None:
    seconds = iter((100.0, 110.0))
    counts = iter([(5, 5), (5, 43), (24, 43), (43, 43)])
    waiting = Waiting(lambda: next(counts), lambda: next(seconds))
    assert waiting.line().plain == "compiling kernels  0 of 38"
    assert waiting.line().plain == "compiling kernels  19 of 38  ETA 0:10"
    assert waiting.line().plain == "preparing the first step ..."


def test_the_wait_for_kernels_ends_with_the_first_figure() -> None:
    screen = io.StringIO()
    view = TerminalView()
    view.console = Console(file=screen, force_terminal=True, width=80, highlight=False, soft_wrap=True)
    view.compiling(lambda: (1, 5))
    view.say("plan     a line above it")
    assert view.live is not None and "compiling kernels  1 of 5" not in screen.getvalue()
    view.live.refresh()
    view.evaluated(EvalMetrics(0, 0.0, 6.5), is_best=True)
    assert view.live is None and "held-out loss 6.5" in screen.getvalue()
    view.compiling(lambda: (0, 0))
    view.stop()
    assert view.live is None
    log = TerminalView()
    log.console = Console(file=io.StringIO(), width=80)
    log.compiling(lambda: (1, 5))
    assert log.live is None
