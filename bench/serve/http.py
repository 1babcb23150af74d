"""What HTTP costs: `florilegium serve` asked by one client and by 64, beside its own engine called without HTTP and a
plain `generate` loop of Transformers; the same texts on the same checkpoint with an adapter live, in one run.

    python -m bench.serve.http [--size 7b1] [--bits 8] [--no-stock] [--json]
    python -m bench.serve.http --cpu [--no-stock]          the demo model, without a GPU

Server, engine and clients are processes of their own, and rounds alternate; the median round counts, and waits are those
of all rounds. Streams of server-sent events, sampling at the server's defaults, 256 new tokens a text. Random weights in
a real checkpoint folder. *First token* is from sending the request to the first event; *between tokens* from one event
of a text to its next. Stock writes fewer tokens, all clients' in one batch."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from urllib.parse import urlsplit

from bench.common.gpu_model import SIZES
from bench.serve.model import make_demo, make_model
from bench.serve.rounds import Child, Round, Written

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

LENGTH = 512
Rounds = list[Written]


@contextlib.contextmanager
def child(module: str, *arguments: str | Path) -> Iterator[Child]:
    one = Child(module, *arguments)
    try:
        yield one
    finally:
        one.end()


def many(clients: Sequence[Child], round: Round) -> Written:
    """All client processes at once, a share of the clients each."""
    busy = [(one, part) for one, part in zip(clients, round.split(len(clients)), strict=True) if part.clients]
    for one, part in busy:
        one.send(part)
    return reduce(Written.joined, [Written(**one.line()) for one, _ in busy])


def measure(adapter: Path, flags: argparse.Namespace) -> dict[int, tuple[Rounds, Rounds]]:
    """By the number of clients: rounds of the engine, and of the server."""
    device, slots = ("cpu" if flags.cpu else "cuda"), max(flags.clients)
    sized = ("--slots", str(slots), "--max-length", str(LENGTH))
    found: dict[int, tuple[Rounds, Rounds]] = {}
    with contextlib.ExitStack() as held:
        engine = held.enter_context(
            child("bench.serve.without_http", "engine", adapter, device, str(slots), str(LENGTH))
        )
        server = held.enter_context(
            child("florilegium", "serve", adapter, "--port", "0", "--json", "--device", device, *sized)
        )
        at = urlsplit(server.ready["url"])
        number = 1 if flags.cpu else 8
        clients = [
            held.enter_context(child("bench.serve.clients", str(at.hostname), str(at.port))) for _ in range(number)
        ]
        for count in flags.clients:
            round = Round.of(count, 4 if count == 1 else 1, flags.tokens)
            pairs = [(engine.run(round), many(clients, round)) for _ in range(flags.rounds + 2)]
            found[count] = (
                [one for one, _ in pairs[2:]],
                [other for _, other in pairs[2:]],
            )  # at first kernels are compiled
    return found


def measure_stock(adapter: Path, flags: argparse.Namespace) -> dict[int, Rounds]:
    with child("bench.serve.without_http", "stock", adapter, "cpu" if flags.cpu else "cuda") as stock:
        stock.run(Round.of(1, 1, 4))
        return {count: [stock.run(Round.of(count, 1, flags.stock_tokens))] for count in flags.clients}


def rate(rounds: Rounds) -> float:
    return statistics.median(one.rate for one in rounds)


def percentiles(rounds: Rounds, name: str) -> tuple[float, float]:
    """Milliseconds, of all rounds: the median and the 99th in a hundred."""
    values = sorted(1000 * value for one in rounds for value in getattr(one, name))
    return statistics.median(values), values[min(len(values) - 1, len(values) * 99 // 100)]


def same(engine: Rounds, server: Rounds) -> str:
    pairs = [(a.texts[seed], b.texts[seed]) for a, b in zip(engine, server, strict=True) for seed in a.texts]
    return f"{sum(one == other for one, other in pairs)} of {len(pairs)}"


def table(found: dict[int, tuple[Rounds, Rounds]], stock: dict[int, Rounds], cpu: bool) -> Iterator[str]:
    yield "| | engine | HTTP | HTTP beside engine | wanted | stock generate |\n|---|---|---|---|---|---|"
    for count, (engine, server) in found.items():
        who, own = ("one client" if count == 1 else f"{count} clients"), stock.get(count, [])
        wanted = 0.9 if cpu or count > 1 else 0.95
        beside = f"{rate(own):,.1f}" if own else ""
        share = rate(server) / rate(engine)
        yield f"| {who}, tokens/s | {rate(engine):,.1f} | {rate(server):,.1f} | {share:.1%} | {wanted:.0%} | {beside} |"
        for name, what in (("first", "first token"), ("between", "between tokens")):
            for place, which in enumerate(("median", "p99")):
                one, other = percentiles(engine, name)[place], percentiles(server, name)[place]
                beside = f"{percentiles(own, name)[place]:.2f}" if own else ""
                least = "+5" if (name, place, count) == ("first", 0, 1) else ""
                yield f"| {who}, {what}, {which}, ms | {one:.2f} | {other:.2f} | {other - one:+.2f} | {least} | {beside} |"
        yield f"| {who}, texts that are the same | | {same(engine, server)} | | all | |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="7b1")
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--cpu", action="store_true", help="the demo model on the CPU")
    parser.add_argument("--clients", type=int, nargs="+", help="how many at once (1 64; on the CPU 1 16)")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--stock-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-stock", action="store_true")
    parser.add_argument("--json", action="store_true", help="tokens/s of each round, as one JSON object")
    flags = parser.parse_args()
    flags.clients = flags.clients or ([1, 16] if flags.cpu else [1, 64])
    with tempfile.TemporaryDirectory() as folder:
        adapter = make_demo(Path(folder)) if flags.cpu else make_model(Path(folder) / "base", flags.size, flags.bits)
        found = measure(adapter, flags)
        stock = {} if flags.no_stock else measure_stock(adapter, flags)
    if flags.json:
        rates = {n: [[round(one.rate, 1) for one in side] for side in sides] for n, sides in found.items()}
        print(json.dumps(rates))
        return
    there = [name for name in ("uvloop", "httptools") if importlib.util.find_spec(name)]
    print(f"{where(flags)}, Python {sys.version.split()[0]}, uvicorn {' and '.join(there) or 'alone'}\n")
    print("\n".join(table(found, stock, flags.cpu)))


def where(flags: argparse.Namespace) -> str:
    import torch

    if flags.cpu:
        return f"demo model on {os.cpu_count()} CPU cores, torch {torch.__version__}"
    return f"bloom-{flags.size} in {flags.bits} bits, {torch.cuda.get_device_name()}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
