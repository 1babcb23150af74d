"""Every row of the README's table of training on one GPU, in one run on one card: minutes, and 80 GB for the rows that
want them.

    python -m bench.train.table [--size 7b1] [--rows stock fast packed lean nf4 all-linear ... load epoch] [--show]

Each row is a command of its own process, which --show prints and does not run. `epoch` is the time from typing
`florilegium train` to the adapter and its report, first with no compiled kernels at hand, then with them. Prints each
command's JSON as it comes, then the table."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.common.checkpoint import QUOTES, make_checkpoint

STEPS = ["steps", "--tokens"]
ROWS = {
    "stock": [
        "vs_stock",
        "--sides",
        "ours",
        "notebook",
        "tuned",
        "floor",
        "--memory-limit",
        "22",
        "--stock-steps",
        "20",
    ],
    "fast": ["gpu", "--sides", "ours", "--memory", "fast"],
    "packed": [*STEPS, "8192", "--plans", "fast", "copies"],
    "lean": [*STEPS, "2048", "--plans", "0,20,0"],
    "nf4": [*STEPS, "2048", "--plans", "0,8,0", "--bits", "4"],
    "all-linear": [
        "gpu",
        "--sides",
        "ours",
        "tuned",
        "--memory-limit",
        "22",
        "--stock-steps",
        "20",
        "--target-modules",
        "all-linear",
    ],
    "all-linear-steps": [
        *STEPS,
        "1024",
        "8192",
        "--plans",
        "copies",
        "fast",
        "25,30,0",
        "--target-modules",
        "all-linear",
    ],
    "all-linear-rows": [*STEPS, "8192", "--length", "4096", "--plans", "copies", "--target-modules", "all-linear"],
    "load": ["load"],
}


def command_of(row: str, size: str) -> list[str]:
    script, *options = ROWS[row]
    return [sys.executable, "-m", f"bench.train.{script}", "--size", size, *options]


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def measured(row: str, size: str) -> list[dict[str, Any]]:
    done = subprocess.run(command_of(row, size), stdout=subprocess.PIPE, text=True)
    found = objects(done.stdout)
    if not found:
        done.check_returncode()
    for line in found:
        print(json.dumps({"row": row, **line}), flush=True)
    return found


def epoch(size: str) -> list[dict[str, Any]]:
    """Seconds of one epoch on a checkpoint of this size, cold and warm."""
    found = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_checkpoint(folder / "model", size, QUOTES)
        caches = {
            name: str(folder / name) for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH")
        }
        for name in ("cold", "warm"):
            command = [
                sys.executable,
                "-m",
                "florilegium",
                "train",
                str(QUOTES),
                "--model",
                str(folder / "model"),
                "--epochs",
                "1",
            ]
            began = time.perf_counter()
            subprocess.run(
                [*command, "--output", str(folder / name)],
                check=True,
                stdout=subprocess.DEVNULL,
                env=os.environ | caches,
            )
            found.append({"side": f"one epoch, {name}", "seconds": round(time.perf_counter() - began, 1)})
            print(json.dumps({"row": "epoch", **found[-1]}), flush=True)
    return found


def line_of(row: str, found: dict[str, Any]) -> str:
    """A row in Markdown: what was run, tokens/s or seconds, the peak."""
    what = found.get("side") or f"{found['positions']:,} positions, plan {found['plan']}, {found['bits']} bits"
    if "checkpointed" in found:
        what += f", {found['rows_at_a_time']} rows at a time with{'' if found['checkpointed'] else 'out'} checkpoints"
    rate = f"{found['seconds']} s" if "seconds" in found else f"{found['tokens_per_second']:,.0f}"
    for trouble in {"missing", "out_of_memory", "failed"} & set(found):
        rate = f"{trouble.replace('_', ' ')}: {found[trouble]}"
    peak = f"{found['peak_gib']:.1f} GiB" if "peak_gib" in found else ""
    tflops = f"{found['tflops']:.0f}" if "tflops" in found else ""
    share = f"{found['of_peak']:.0%}" if found.get("of_peak") else ""
    return f"| {row}: {what} | {rate} | {tflops} | {share} | {peak} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="7b1")
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, "epoch"], default=[*ROWS, "epoch"])
    parser.add_argument("--show", action="store_true", help="print the commands and run none")
    arguments = parser.parse_args()
    if arguments.show:
        for row in ROWS:
            if row in arguments.rows:
                print(" ".join(["python", *command_of(row, arguments.size)[1:]]))
        return
    lines = []
    for row in arguments.rows:
        try:
            found = epoch(arguments.size) if row == "epoch" else measured(row, arguments.size)
            lines += [line_of(row, one) for one in found]
        # what it said is on the terminal; the other rows are worth having
        except subprocess.CalledProcessError as error:
            lines.append(f"| {row}: failed with exit code {error.returncode} | | | | |")
    print(
        "\n| | tokens/s that are not padding | TFLOP/s | share of peak | peak memory |\n|---|---|---|---|---|",
        *lines,
        sep="\n",
    )


if __name__ == "__main__":
    main()
