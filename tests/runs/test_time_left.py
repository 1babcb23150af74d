"""The time that an evaluation has left, on a clock of its own."""

from __future__ import annotations

from florilegium.runs.recorder import NullView
from florilegium.runs.time_left import Phase, TimeLeft, evaluation_phases


class Lines(NullView):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_the_time_left_is_that_of_the_parts_to_come_at_the_speed_of_those_done() -> None:
    view, now = Lines(), [100.0]
    told = TimeLeft(view, [Phase("a", 1.0), Phase("b", 2.0), Phase("c", 3.0)], clock=lambda: now[0])
    now[0] += 50  # loading counts for nothing
    told.start("a", "a  first")
    now[0] += 10
    told.say("note: something else")
    told.start("b", "b  second")  # 10 s for 1, so 50 s for 5
    now[0] += 20
    told.start("c", "c  third")
    assert view.lines == [
        "a  first",
        "note: something else",
        "b  second  (about 50 s left)",
        "c  third  (about 30 s left)",
    ]


def test_quick_work_and_parts_that_are_left_out_are_passed_over() -> None:
    view, now = Lines(), [0.0]
    told = TimeLeft(view, [Phase("a", 1.0), Phase("b", 2.0), Phase("c", 2.0)], clock=lambda: now[0])
    told.start("a", "a")
    now[0] += 0.5
    told.start("b", "b")
    now[0] += 0.1
    told.start("c", "c")
    told.start("a", "a again")
    assert view.lines == ["a", "b", "c", "a again"]


def test_a_first_part_that_is_next_to_nothing_tells_nothing() -> None:
    """Two held-out rows, then 200 samples."""
    view, now = Lines(), [0.0]
    told = TimeLeft(view, [Phase("a", 0.03), Phase("b", 10.0), Phase("c", 10.0)], clock=lambda: now[0])
    for line, seconds in (("a", 2.0), ("b", 20.0), ("c", 0.0)):
        told.start(line, line)
        now[0] += seconds
    assert view.lines == ["a", "b", "c  (about 20 s left)"]


def test_the_phases_are_those_that_are_said() -> None:
    names = [phase.name for phase in evaluation_phases(81, 200, has_base=True)]
    assert len(names) == len(set(names)) == 10 and "tuned samples" in names and "base copies" in names
    assert len(evaluation_phases(81, 200, has_base=False)) == 6
