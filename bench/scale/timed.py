"""`florilegium train` with its steps timed in parts, on each process's own device: where the time goes that N cards lose.

    python -m bench.scale.timed OUT train quotes.jsonl --model M ...                       one card
    torchrun --standalone --nproc-per-node 2 -m bench.scale.timed OUT train ...            two; `measured.py --parts` does it

Marks are put into the stream (CUDA events; on processors the clock), so the host waits for nothing more than it does
otherwise. A process leaves OUT/RANK.json, the median milliseconds of the second half of its steps:

    inputs   from the end of one step until the next one's rows have been copied: what the host is late
    replay   forward and backward, a recorded graph or not
    gather   the gradients into one flat tensor
    wait     for the slowest process: a sum of one number, made only here
    sum      of the gradients, when all are there
    spread   the sums back into the gradients
    update   norm, clipping, AdamW
    step     all of it; positions: of this process's rows, padding included; host: until a step was asked for

The marks of a step lie between `begin` and `end` of `take_step`, in this order."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from florilegium.cli.main import main as florilegium
from florilegium.config.processes import read_place
from florilegium.fast.training import cuda_graph
from florilegium.training import loop, step
from florilegium.training.distributed import Distributed

LARGE = 1000  # numbers: sums of fewer are not those of gradients
PARTS = ("inputs", "replay", "gather", "wait", "sum", "spread", "update")  # each from the mark before it


class Marks:
    """What was marked in each step, the oldest first."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def mark(self, name: str) -> None:
        if name == "inputs" and name in self.steps[-1]:  # of a second micro-batch
            return
        if torch.cuda.is_initialized():
            at: Any = torch.cuda.Event(enable_timing=True)
            at.record()
        else:
            at = time.perf_counter()
        self.steps[-1][name] = at

    def medians(self) -> dict[str, float]:
        """Milliseconds of each part, over the second half of the steps."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        found: dict[str, list[float]] = {}
        for before, now in list(zip(self.steps, self.steps[1:], strict=False))[len(self.steps) // 2 :]:
            last = before["end"]
            for name in PARTS:
                if name in now:
                    found.setdefault(name, []).append(between(last, now[name]))
                    last = now[name]
            found.setdefault("step", []).append(between(before["end"], now["end"]))
            found.setdefault("positions", []).append(now["positions"])
            found.setdefault("host", []).append(now["host"])
        return {name: round(statistics.median(values), 3) for name, values in found.items()}


def between(first: Any, second: Any) -> float:
    """Milliseconds."""
    return float(1e3 * (second - first)) if isinstance(first, float) else float(first.elapsed_time(second))


def install(marks: Marks) -> None:
    """Puts the marks around the parts of `take_step`."""
    take, gradients = loop.take_step, (step._gradients_replayed, step._gradients_as_written)
    add_up, sum_, fill = step.sum_step, Distributed.sum_, cuda_graph._Recorded.fill

    def take_step(trainer: Any, batches: Any, whole: Any = None) -> Any:
        began = time.perf_counter()
        marks.steps.append({"positions": sum(batch.tokens_BT.numel() for batch in batches)})
        started = take(trainer, batches, whole)
        marks.mark("update")
        marks.steps[-1] |= {"end": marks.steps[-1]["update"], "host": 1e3 * (time.perf_counter() - began)}
        return started

    def marked(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            result = function(*given, **named)
            marks.mark(name)
            return result

        return call

    def sum_in_parts(distributed: Distributed, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.numel() < LARGE:
            return sum_(distributed, tensor)
        marks.mark("gather")
        torch.distributed.all_reduce(torch.zeros(1, device=tensor.device))
        marks.mark("wait")
        return marked(sum_, "sum")(distributed, tensor)

    loop.take_step = take_step
    step._gradients_replayed, step._gradients_as_written = (marked(function, "replay") for function in gradients)
    step.sum_step = marked(add_up, "spread")
    cuda_graph._Recorded.fill = marked(fill, "inputs")  # type: ignore[method-assign]
    Distributed.sum_ = sum_in_parts  # type: ignore[method-assign]


def main() -> None:
    folder, marks = Path(sys.argv[1]), Marks()
    install(marks)
    code = florilegium(sys.argv[2:])
    if len(marks.steps) > 3:
        (folder / f"{read_place().rank}.json").write_text(json.dumps(marks.medians()))
    sys.exit(code)


if __name__ == "__main__":
    main()
