"""What a person sees. Progress and words go to stderr, results to stdout; plain lines where stderr is no terminal.

Text that a model wrote or a file held is shown without control characters: an escape sequence in a quote must not reach
the terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from florilegium.cli.consoles import ProgressConsole, ResultConsole
from florilegium.cli.loading import ModelLoading
from florilegium.cli.screen import fitted, printable
from florilegium.cli.underway import Underway
from florilegium.errors import clock, counted, roughly

if TYPE_CHECKING:
    from florilegium.data import Template
    from florilegium.generation import Generated
    from florilegium.training import EvalMetrics, StepMetrics


def gigabytes(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


# from which width of the terminal on a number is shown beside the bar
_FROM_WIDTH = {"loss": 0, "speed": 72, "memory": 92, "eta": 0}
_LONG_BAR_FROM = 110
TIMED_STEPS, WORTH_TELLING = 6, 15.0  # the steps from which the time is told, and the seconds that are worth a line
SLOW_STEPS, SLOW = 3, 20.0  # where steps take so many seconds together, fewer do


class TerminalView:
    """Watches a run: lines first, then a bar with labelled numbers, as many as the terminal's width holds. `stop` clears
    the bar."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = ProgressConsole(soft_wrap=True)
        self.quiet = quiet
        self.live: Live | None = None  # what moves at the foot of the screen: these three, as far as they are there
        self.waiting: Waiting | None = None
        self.bar: Progress | None = None
        self.beside = Underway()
        self.tokens, self.seconds, self.last_line = 0, 0.0, 0.0
        self.first_seconds = 0.0  # of the first step, in which kernels are compiled
        self.is_time_told = False
        self.done_before: int | None = None  # steps of a run that is resumed
        self.was_worse = False  # whether the evaluation before was not the best one
        self.model: ModelLoading | None = None  # while one is loaded

    def loading(self, done: int, total: int) -> None:
        """`done` of `total` bytes of the model are read."""
        if not self.quiet:
            self.model = self.model or ModelLoading()
            self.model(done, total)

    def compiling(self, count: Callable[[], tuple[int, int]]) -> None:
        """Kernels are compiled from now on, until the first figure; `count` says how many are, and of how many."""
        if self.console.is_terminal and not self.quiet and self.live is None:
            self.waiting = Waiting(count)
            self._show()

    def underway(self, what: str, done: int, total: int) -> None:
        """Beside the steps, `what` is `done` of `total`."""
        if not self.console.is_terminal or self.quiet:
            return
        if self.beside.tell(what, done, total):
            self._show()
        elif self.bar is None and self.waiting is None:
            self.stop()

    def say(self, line: str) -> None:
        self._loaded()
        if not self.quiet:
            with contextlib.suppress(OSError):  # a log on a full disk, a terminal that is gone: no reason to end a run
                shown = printable(line)
                if self.console.is_terminal:
                    shown = fitted(shown, self.console.width, indent=9)  # under what follows the line's name
                self.console.print(Text(shown))

    def step(self, metrics: StepMetrics, num_steps: int) -> None:
        if self.quiet:
            return
        if self.done_before is None:
            self.done_before = metrics.step - 1
        self.tokens += metrics.result.tokens
        self.seconds += metrics.result.tokens / metrics.tokens_per_second
        self._say_time(metrics.step - self.done_before, num_steps - self.done_before)
        if not self.console.is_terminal:
            self._plain(metrics, num_steps)
            return
        if self.bar is None:
            self._start(num_steps, metrics.step - 1)
        labelled = self._labelled(metrics, num_steps)
        numbers = " ".join(labelled[name] for name, width in _FROM_WIDTH.items() if self.console.width >= width)
        assert self.bar is not None, "just started"
        self.bar.update(self.task, completed=metrics.step, numbers=numbers)
        if metrics.step >= num_steps:
            self.stop()

    def evaluated(self, metrics: EvalMetrics, is_best: bool) -> None:
        if self.bar is None:
            self.stop()
        step = metrics.step
        note = "  (before training)" if not step else "  (best so far)" if is_best and self.was_worse else ""
        self.was_worse = not is_best
        self.say(f"step {step:>5}  held-out loss {metrics.eval_loss:.4f}{note}")

    def sample(self, step: int, prompt: str, row: Generated) -> None:
        if step and not prompt:  # of the three prompts that are kept in samples.jsonl, the freest one is shown
            self.say(f"            {one_row(as_line(row), 96)}")

    def stop(self) -> None:
        self._loaded()
        if self.live is not None:
            self.live.stop()
            self.live = self.bar = self.waiting = None

    def _show(self) -> None:
        if self.live is None:
            self._loaded()
            self.live = Live(get_renderable=self._foot, console=self.console, refresh_per_second=5, transient=True)
            self.live.start()

    def _foot(self) -> Group:
        parts = (self.bar, None if self.waiting is None else self.waiting.line(), self.beside.line())
        return Group(*(part for part in parts if part is not None))

    def _loaded(self) -> None:
        """Whatever is said next comes after the weights."""
        if self.model is not None:
            self.model.done()
            self.model = None

    def _say_time(self, done: int, planned: int) -> None:
        """How long the run will take, once, from its first steps."""
        if done == 1:
            self.first_seconds = self.seconds
        timed = self.seconds - self.first_seconds
        if not self.is_time_told and (done >= TIMED_STEPS or (done >= SLOW_STEPS and timed >= SLOW)):
            self.is_time_told = True
            seconds = timed / (done - 1) * planned
            if seconds >= WORTH_TELLING:
                self.say(f"time     about {roughly(seconds)} for {counted(planned, 'step')}, from the first {done}")

    def _labelled(self, metrics: StepMetrics, num_steps: int) -> dict[str, str]:
        """The numbers of a step, each with its name. The time left is that of the steps seen so far."""
        seconds_a_step = self.seconds / max(1, metrics.step - (self.done_before or 0))
        return {
            "loss": f"loss {metrics.result.loss:.3f}",
            "speed": f"{self.tokens / self.seconds:,.0f} tokens/s",
            "memory": f"memory {metrics.result.peak_memory_bytes / 2**30:.1f} GiB",
            "eta": f"ETA {clock(seconds_a_step * (num_steps - metrics.step))}",
        }

    def _start(self, num_steps: int, done: int) -> None:
        self.stop()
        bar = BarColumn(bar_width=10 if self.console.width < _LONG_BAR_FROM else 24)
        numbers = TextColumn("{task.fields[numbers]}")
        self.bar = Progress(TextColumn("training"), bar, MofNCompleteColumn(), numbers, console=self.console)
        self.task = self.bar.add_task("training", total=num_steps, completed=done, numbers="")
        self._show()

    def _plain(self, metrics: StepMetrics, num_steps: int) -> None:
        """A line every few seconds, for logs."""
        now = time.monotonic()
        if now - self.last_line < 5 and metrics.step != num_steps:
            return
        self.last_line = now
        self.say(f"step {metrics.step:>5}/{num_steps}  " + "  ".join(self._labelled(metrics, num_steps).values()))


class Waiting:
    """The line that moves while kernels are compiled. How many there are shows as they are asked for: the time left is a
    guess, and there is none before the first is done."""

    def __init__(self, count: Callable[[], tuple[int, int]], now: Callable[[], float] = time.monotonic) -> None:
        self.count, self.now, self.began = count, now, now()
        self.before, _ = count()  # compiled for another run of this process

    def line(self) -> Text:
        done, total = (number - self.before for number in self.count())
        if done >= total:
            return Text("preparing the first step ...")
        left = (self.now() - self.began) / done * (total - done) if done else None
        eta = "" if left is None else f"  ETA {clock(left)}"
        return Text(f"compiling kernels  {done} of {total}{eta}")


def working(what: str) -> contextlib.AbstractContextManager[Any]:
    """A line on stderr that moves while something takes its time; nothing where stderr is no terminal."""
    console = ProgressConsole()
    return console.status(Text(printable(what))) if console.is_terminal else contextlib.nullcontext()


def as_line(row: Generated) -> str:
    """A generated quote in one line, its tags marked; the text as it is where no quote is in it."""
    if row.quote is None:
        return row.text
    values = (v if isinstance(v, str) else "  ".join(f"#{item}" for item in v) for v in row.quote.values())
    return "  ".join(value for value in values if value)


def one_row(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def print_quote(row: Generated, template: Template, label: str = "") -> None:
    """A generated quote for people, on stdout."""
    console = ResultConsole()
    text = Text()
    if label:
        text.append(f"{label}  ", style="dim")
    if row.quote is None:
        text.append(printable(row.text))
        text.append("  [no tags found]", style="dim")
    else:
        for name, value in row.quote.items():
            if isinstance(value, list):
                text.append("\n    ")
                text.append("  ".join(f"#{printable(item)}" for item in value) or "(no tags)", style="cyan")
            else:
                text.append(("" if name == template.columns[0] else "\n    ") + printable(value), style="bold")
    notes = [] if row.finished else ["cut at --max-new-tokens"]
    notes += ["copies a training row"] if row.novel is False else []
    if notes:
        text.append(f"  [{', '.join(notes)}]", style="yellow")
    console.print(text, soft_wrap=not console.is_terminal)  # in a file a text is one line, however long
