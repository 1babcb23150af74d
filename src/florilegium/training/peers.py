"""Whether the other processes are still there, while this one waits for a GPU.

gloo tells at once when a connection closes. NCCL does not: a kernel that waits for a process that was killed waits for
ever, and Python waits for the kernel in a call that no signal ends. So a thread of each process listens to the next one, in
a ring and by gloo, for the number that it sends when it leaves, and for a sign of life until then. A connection that closes
before means that it is gone; so does silence, where a cable was cut or a machine vanished and nothing closes. The process
before is told so at once.

    with Peers(rank, world, tells) as peers:
        peers.lost = ...       what to say then: made when it is needed, told by whichever process is first

The main thread may find out for itself, and then says so and leaves as from any error: it has GRACE seconds for that."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType

import torch

from florilegium.errors import FlorilegiumError, Interrupted, ResourceError

GRACE = 6  # seconds; torchrun ends everything after 30
BEAT = 30.0  # seconds between two signs of life
# Nothing else holds up a thread for so long: C code that keeps Python from running takes seconds, here and there a minute.
# A process that is stopped (SIGSTOP) for longer is given up. gloo closes a connection that timed out, so there is no
# second try.
SILENCE = timedelta(minutes=5)
WELL, BADLY, ALIVE = 0, 1, 2


class PeerLost(ResourceError):
    """Another process of the run is gone, or does not answer."""


def someone_is_gone() -> FlorilegiumError:
    return PeerLost("another process of this run has ended (killed?)")


class Peers:
    """The next process in the ring, listened to. `tells` says whether this process is the one to tell of an error. All
    processes make theirs at once."""

    def __init__(self, rank: int, world: int, tells: Callable[[BaseException], bool]) -> None:
        self.tells, self.lost = tells, someone_is_gone
        self.next, self.before = (rank + 1) % world, (rank - 1) % world
        group = torch.distributed.new_group(backend="gloo", timeout=SILENCE)
        assert not isinstance(group, int), "this process is one of them"
        self.group = group
        self.left, self.gone = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._listen, name="peers", daemon=True)
        self.beat = threading.Thread(target=self._live, name="signs of life", daemon=True)

    def __enter__(self) -> Peers:
        self.thread.start()
        self.beat.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Leaves the ring: after an error at once, else when the next process leaves, too."""
        well = error is None or isinstance(error, Interrupted)  # a stop is agreed on
        self.left.set()
        self.beat.join(GRACE)  # what it sends arrives before
        self._tell_before(WELL if well else BADLY)
        if well:
            self.thread.join(GRACE)

    def wait_until(self, done: Callable[[], bool]) -> None:
        """Returns when `done`, asked a few times a second, says so. Raises PeerLost when another process is gone."""
        try:
            while not done():
                if self.gone.wait(0.2):
                    raise someone_is_gone()
        except RuntimeError as error:  # the store went with rank 0
            raise someone_is_gone() from error

    def _listen(self) -> None:
        heard = self._next_word()
        while heard == ALIVE:
            heard = self._next_word()
        if heard == WELL or self.left.is_set():
            return
        self.gone.set()
        self._tell_before(BADLY)
        if not self.left.wait(GRACE):
            self._end()

    def _next_word(self) -> int:
        heard = torch.full((1,), BADLY, dtype=torch.uint8)
        with contextlib.suppress(RuntimeError):
            torch.distributed.recv(heard, self.next, self.group)
        return int(heard)

    def _live(self) -> None:
        while not self.left.wait(BEAT):
            self._tell_before(ALIVE)

    def _tell_before(self, how: int) -> None:
        with contextlib.suppress(RuntimeError):  # it may be gone as well
            work = torch.distributed.isend(torch.full((1,), how, dtype=torch.uint8), self.before, self.group)
            if work is not None:
                work.wait(timedelta(seconds=GRACE))

    def _end(self) -> None:
        """From this thread: the main one waits for a kernel that will not end."""
        error = self.lost()
        if self.tells(error):
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.write(f"florilegium: {error}\n")
                sys.stderr.flush()
        os._exit(error.exit_code)
