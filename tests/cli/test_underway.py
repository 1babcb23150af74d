"""What a run does beside its steps moves, and says how long it still takes."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

import florilegium
from florilegium.cli.progress import TerminalView
from florilegium.cli.underway import Underway
from florilegium.config import SamplingSettings
from florilegium.generation import Request, TokenEvent
from florilegium.generation.telling import telling
from florilegium.runs.recorder import NullView
from florilegium.training import StepMetrics
from florilegium.training.metrics import StepResult
from tests.tiny import PAGES


class Told(NullView):
    def __init__(self) -> None:
        self.parts: dict[str, list[tuple[int, int]]] = {}

    def underway(self, what: str, done: int, total: int) -> None:
        self.parts.setdefault(what, []).append((done, total))


def test_the_time_left_is_of_the_share_that_is_done_or_of_the_last_time() -> None:
    now = [100.0]
    part = Underway(now=lambda: now[0])
    assert part.line() is None
    for seconds, done, shown in (
        (0.0, 0, None),
        (0.2, 0, None),  # it may be over at once
        (5.0, 0, "evaluating 80 rows  0:05 so far"),
        (10.0, 20, "evaluating 80 rows  25%  ETA 0:30"),
        (20.0, 60, "evaluating 80 rows  75%  ETA 0:07"),
    ):
        now[0] = 100.0 + seconds
        assert part.tell("evaluating 80 rows", done, 80)
        line = part.line()
        assert (line and line.plain) == shown
    now[0] = 125.0
    assert not part.tell("evaluating 80 rows", 80, 80) and part.line() is None
    now[0] = 200.0
    part.tell("writing samples", 0, 9)
    now[0] = 210.0
    line = part.line()
    assert line and line.plain == "writing samples  0:10 so far"
    part.tell("evaluating 80 rows", 0, 80)
    now[0] = 215.0
    line = part.line()
    assert line and line.plain == "evaluating 80 rows  ETA 0:20"  # the last time it took 25 s


def test_it_stands_under_the_bar_and_goes_with_it() -> None:
    now = [0.0]
    screen = io.StringIO()
    view = TerminalView()
    view.console = Console(file=screen, force_terminal=True, width=60, highlight=False, soft_wrap=True)
    view.beside = Underway(now=lambda: now[0])

    def foot() -> str:
        page = Console(file=io.StringIO(), width=60)
        page.print(view._foot())
        return str(page.file.getvalue())  # type: ignore[attr-defined]  # a StringIO

    view.underway("evaluating 64 held-out rows", 0, 64)
    now[0] = 4.0
    assert view.live is not None and foot().strip() == "evaluating 64 held-out rows  0:04 so far"
    view.underway("evaluating 64 held-out rows", 64, 64)
    assert view.live is None
    result = StepResult(3.0, 0.5, 1e-4, tokens=500, padding_share=0.0, peak_memory_bytes=1 << 30)
    view.step(StepMetrics(1, 1.0, result, tokens_per_second=500.0, elapsed_seconds=1.0), 10)
    view.underway("evaluating 64 held-out rows", 0, 64)
    now[0] = 6.0
    bar, line = foot().splitlines()
    assert "1/10" in bar and line == "evaluating 64 held-out rows  ETA 0:02"
    view.underway("evaluating 64 held-out rows", 64, 64)
    assert view.bar is not None and len(foot().splitlines()) == 1
    view.underway("writing samples", 0, 9)
    view.stop()
    assert view.live is None
    log = TerminalView()
    log.console = Console(file=io.StringIO(), width=80)
    log.underway("writing samples", 0, 9)
    assert log.live is None


def test_a_text_that_ends_early_counts_as_written() -> None:
    asked = [Request([1], number, SamplingSettings(max_new_tokens=4)) for number in range(2)]
    events = [TokenEvent(0, 7, False), TokenEvent(1, 7, False), TokenEvent(0, None, True), TokenEvent(1, 7, False)]
    told: list[tuple[int, int]] = []
    assert list(telling(events, asked, lambda done, total: told.append((done, total)))) == events
    assert told == [(0, 8), (1, 8), (2, 8), (5, 8), (6, 8), (8, 8)]


def test_a_run_tells_all_that_it_does_between_its_steps(tiny: Path, tmp_path: Path) -> None:
    """Each part from nothing to its end, without a step back."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"quote": "q {i} is kind", "tags": ["a"]}}\n' for i in range(40)))
    told, run = Told(), tmp_path / "run"
    split = {"split_by": "random", "held_out": 0.3, "validation": 0.5}  # two sets are evaluated, as one
    settings = {"max_steps": 2, "eval_every": 1, "verdict_texts": 3, "output": str(run), **split}
    florilegium.train(rows, model=str(tiny), view=told, **settings)
    held_out = next(name for name in told.parts if "held-out" in name)
    assert list(told.parts) == [held_out, "writing samples", "writing 3 texts for the verdict"]
    for name, shares in told.parts.items():
        begun = [i for i, (done, _) in enumerate(shares) if not done]
        times = [shares[i:j] for i, j in zip(begun, [*begun[1:], len(shares)], strict=True)]
        assert len(times) == (1 if "verdict" in name else 3)  # before training, and after each step
        for one in times:
            assert one == sorted(one) and one[-1][0] == one[-1][1], (name, one)
    told = Told()
    florilegium.evaluate(run, generations=3, rows=4, general=PAGES, view=told)
    assert {"writing tags", "writing 3 texts, tuned"} == told.parts.keys()
    assert all(shares[-1][0] == shares[-1][1] for shares in told.parts.values())
