"""What a streamed token costs the server's event loop: microseconds of its thread's own processor time, and the functions
in which they are spent.

    python -m bench.serve.loop [--streams 64] [--tokens 128] [--rounds 3] [--profile 25]

Server and engine run in this process, as `florilegium serve` runs them, with the demo model on the CPU; the clients in
another. Processor time of one thread, not time on the clock: what else the machine does hardly counts. With `--profile`
the time is cProfile's, two to three times as long; the shares are what it is for."""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bench.serve.model import make_demo
from bench.serve.rounds import Child, Round
from florilegium.generation.tuned import load
from florilegium.serve.run import serve
from florilegium.serve.settings import ServeSettings, listen
from florilegium.signals import StopRequest

os.environ["HF_HUB_OFFLINE"] = "1"
LENGTH = 512


def ask(port: int, loop_seconds: Callable[[], float], flags: argparse.Namespace) -> None:
    """In a thread of its own: rounds of streams, then the signal that ends the server."""
    clients = Child("bench.serve.clients", "127.0.0.1", str(port))
    try:
        clients.run(Round.of(flags.streams, 1, 4))
        for _ in range(flags.rounds):
            began = loop_seconds()
            written = clients.run(Round.of(flags.streams, 1, flags.tokens))
            each = (loop_seconds() - began) / written.tokens * 1e6
            print(f"{flags.streams} streams, {written.tokens:,} tokens: {each:.1f} us a token in the event loop; "
                  f"{written.rate:,.0f} tokens/s", flush=True)  # fmt: skip
    finally:
        clients.end()
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", type=int, metavar="LINES", help="print the functions that took longest")
    flags = parser.parse_args()
    settings = ServeSettings(port=0, max_length=LENGTH, slots=flags.streams)
    stop, sock = StopRequest(), listen(settings)
    signal.signal(signal.SIGTERM, stop.handle)
    clock = time.pthread_getcpuclockid(threading.get_ident())  # this thread's, which will be the event loop's
    profile = cProfile.Profile(time.thread_time) if flags.profile else None
    asking = threading.Thread(target=ask, args=(sock.getsockname()[1], lambda: time.clock_gettime(clock), flags))
    with tempfile.TemporaryDirectory() as folder:
        run = make_demo(Path(folder), deviation=0.2)  # texts of full length
        if profile:
            profile.enable()
        serve(
            [run],
            lambda run, bases: load(run, bases=bases, device="cpu"),
            settings,
            sock,
            stop,
            lambda _: asking.start(),
        )
    asking.join()
    if profile:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(flags.profile)


if __name__ == "__main__":
    main()
