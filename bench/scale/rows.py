"""What rows cost as they grow: reading, near-duplicates, tokens, the order of steps, packing; measured at growing sizes
on this machine, and drawn on to a billion.

    python -m bench.scale.rows [--sizes 10000 100000] [--to 1000000000]

Each size is a process of its own, so that its peak of memory is its own. A stage whose seconds grow as rows to the power
of 1.0 is linear; what its peak comes to at `--to` rows says whether it would fit at all. Rows are those that
`bench.data.million_rows` makes up.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.data.million_rows import make

STAGES = ("read", "near-duplicates", "tokens", "order", "packing")


def measure(path: Path) -> dict[str, tuple[float, float]]:
    """CPU seconds and the peak in MiB so far, stage by stage, of training on the rows of `path` up to the first step."""
    from florilegium.config import TrainConfig
    from florilegium.data import make_split, read_rows
    from florilegium.model.hub import locate, read_config
    from florilegium.model.tokenizer_loader import load_tokenizer
    from florilegium.tokens import PackPlan, encode, pack
    from florilegium.training.loop import batch_sampler

    folder = locate("seedling", None)
    tokenizer = load_tokenizer(folder, read_config(folder, "seedling"), "seedling")
    found: dict[str, tuple[float, float]] = {}
    began = time.process_time()

    def done(stage: str) -> None:
        nonlocal began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found[stage] = (time.process_time() - began, peak)
        began = time.process_time()

    done("imports")
    rows = read_rows(path)
    done("read")
    split = make_split(rows.quotes, 0.1, 0, authors=rows.authors)
    done("near-duplicates")
    quotes = [rows.quotes[i] for i in split.training]
    examples = encode(tokenizer, rows.template, quotes).examples
    done("tokens")
    sampler = batch_sampler(examples, TrainConfig(batching="shuffled"))
    order = [sampler.step(number) for number in range(sampler.steps_per_epoch)]
    done("order")
    for step in order:
        pack([examples[i] for i in step], PackPlan(8192, 256, 8192))
    done("packing")
    return found


def measured_apart(size: int) -> dict[str, tuple[float, float]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        make(path, size)
        command = [sys.executable, "-m", "bench.scale.rows", "--measure", str(path)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {stage: (seconds, peak) for stage, (seconds, peak) in json.loads(done.stdout.splitlines()[-1]).items()}


def report(sizes: list[int], to: int) -> list[dict[str, float | str]]:
    """A line a stage: seconds and MiB at each size, the power by which seconds grow, and both drawn on to `to` rows. Memory
    of a stage is what it added to the peak."""
    found = [measured_apart(size) for size in sizes]
    lines: list[dict[str, float | str]] = []
    for number, stage in enumerate(STAGES):
        before = ("imports", *STAGES)[number]
        seconds = [one[stage][0] for one in found]
        added = [max(0.0, one[stage][1] - one[before][1]) for one in found]
        power = math.log(max(seconds[-1], 1e-9) / max(seconds[0], 1e-9)) / math.log(sizes[-1] / sizes[0])
        line: dict[str, float | str] = {"stage": stage, "power": round(power, 2)}
        for size, second, mib in zip(sizes, seconds, added, strict=True):
            line |= {f"{size:,} rows s": round(second, 2), f"{size:,} rows MiB": round(mib)}
        line[f"{to:,} rows h"] = round(seconds[-1] * to / sizes[-1] / 3600, 1)
        line[f"{to:,} rows GiB"] = round(added[-1] * to / sizes[-1] / 1024)
        lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--to", type=int, default=1_000_000_000)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps(measure(chosen.measure)))
        return
    for line in report(chosen.sizes, chosen.to):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
