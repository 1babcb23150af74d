"""Work of many parts that processes with a copy of the model each share: a process does its part, and all have all of it.

    loaded = replace(loaded, sharing=Shares(distributed, stop))
    loaded.by_all(sizes, work)            held-out rows measured, texts written: as one process would, in the same order

Every process calls it with the same parts. What one of them runs into (no memory for its share, a signal) is told to the
others before any of them leaves, and is raised in all: none waits for one that is gone."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from florilegium.errors import (
    DataError,
    DivergedError,
    FlorilegiumError,
    Interrupted,
    ModelError,
    ResourceError,
    UsageError,
)
from florilegium.signals import StopRequest
from florilegium.tokens.deal import deal
from florilegium.training.distributed import Distributed

KINDS = {kind.__name__: kind for kind in (UsageError, DataError, ModelError, ResourceError, DivergedError)}
Numbers = list[float]


@dataclass(frozen=True)
class Shares:
    """The processes of `distributed`. A signal that `stop` heard ends a share at once, and with it those of all."""

    distributed: Distributed
    stop: StopRequest | None = None

    def by_all(self, sizes: Sequence[int], work: Callable[[Sequence[int]], list[Numbers]]) -> list[Numbers]:
        """What `work` finds for each part, in their order, in every process. `sizes` say what a part costs; `work` is
        given the numbers of the parts that are this process's. Raises what any process's `work` raised."""
        shares = deal(sizes, self.distributed.world)
        own = self._tried(lambda: work(shares[self.distributed.rank]))
        answers = [json.loads(text) for text in self.distributed.texts(json.dumps(own))]
        for answer in answers:
            if isinstance(answer, dict):
                raise _error_of(answer)
        found = {
            number: part
            for share, answer in zip(shares, answers, strict=True)
            for number, part in zip(share, answer, strict=True)
        }
        return [found[number] for number in range(len(sizes))]

    def _tried(self, work: Callable[[], list[Numbers]]) -> list[Numbers] | dict[str, str | int]:
        """What `work` finds, or the failure that the others are told of."""
        heard = self.stop.heard("", "") if self.stop is not None and self.stop.deferring else contextlib.nullcontext()
        try:
            with heard:
                return work()
        except Interrupted as error:
            return {"signal": error.exit_code - 128}
        except FlorilegiumError as error:
            return {"kind": type(error).__name__, "cause": error.cause, "fix": error.fix}


def _error_of(told: dict[str, str | int]) -> FlorilegiumError:
    if "signal" in told:
        return Interrupted("stopped by a signal", signal_number=int(told["signal"]))
    return KINDS.get(str(told["kind"]), ResourceError)(str(told["cause"]), str(told["fix"]))
