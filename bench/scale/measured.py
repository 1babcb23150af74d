"""Training on 1, 2, ... N processes of this machine, one command after the other: tokens/s, efficiency, bytes that are
summed a step, and how far the losses are from those of one process.

    python -m bench.scale.measured --model bigscience/bloom-7b1 --cards 1 2 4 8 [--rows-per-card 16 154] [--steps 50]
    python -m bench.scale.measured --size 7b1 --cards 1 2 --parts       how long each part of a step takes, by process
    python -m bench.scale.measured --device cpu --cards 1 2 --steps 12                 the same on processors, to try it
    python -m bench.scale.measured --size 7b1 ...            random weights in a real folder, made on the card
    python -m bench.scale.measured --size 7b1 --cards 1 2 --parallel pipeline     blocks on two cards, beside one card
    python -m bench.scale.measured --size 7b1 --cards 2 --parallel pipeline       the same where one card does not hold it

`weak`: each card has --rows-per-card rows a step, whatever their number: what efficiency is taken of. `same`: a step of
all has the rows that one card's has, so that losses can be compared. Rates are the median of the second half of the
steps, when every kernel is compiled. A line of JSON for each command; `parts` are those of `timed.py`. Of a pipeline
`sent_bytes` are the hidden states of a step and their gradients over all links, padding left out, and `peak_bytes` are each
card's; one card runs with its own kernels beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.common.checkpoint import QUOTES, make_checkpoint


@dataclass(frozen=True)
class Measured:
    """A run: its median rate, the bytes of a step's sum, and the loss of each step; of a pipeline what is sent instead,
    and which blocks lie where."""

    cards: int
    rows: int
    tokens_per_second: float
    summed_bytes: int
    losses: tuple[float, ...]
    peak_bytes: tuple[int, ...]
    sent_bytes: int = 0
    stages: tuple[str, ...] = ()
    seconds: float = 0.0  # of the command
    parts: tuple[dict[str, float], ...] = ()  # of a step, by process


def command(chosen: argparse.Namespace, cards: int, given: list[str], output: Path) -> list[str]:
    """The command with these arguments on `cards` processes, which leave the parts of their steps in `output`-parts."""
    if not chosen.parts:
        return [sys.executable, "-m", "florilegium", *given, f"--gpus={cards}"]
    (parts := output.with_name(f"{output.name}-parts")).mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={cards}"] if cards > 1 else []
    return [sys.executable, *launcher, "-m", "bench.scale.timed", str(parts), *given]


def run(chosen: argparse.Namespace, cards: int, rows: int, output: Path) -> Measured:
    """`florilegium train` on `cards` processes with `rows` rows a step."""
    options = [f"--model={chosen.model}", f"--batch-size={rows}", f"--max-steps={chosen.steps}", f"--output={output}"]
    options += [f"--eval-every={chosen.steps}", "--held-out=0", "--split-by=random", "--lora-dropout=0", "--seed=0"]
    options += [f"--device={chosen.device}", "--verdict-texts=0", "--log-every=1", *chosen.options]
    options += [f"--parallel={chosen.parallel}"] if cards > 1 else []
    began = time.monotonic()
    asked = command(chosen, cards, ["train", str(chosen.data), *options], output)
    subprocess.run(asked, check=True, stdout=subprocess.DEVNULL)
    seconds = round(time.monotonic() - began, 1)
    left = sorted(output.with_name(f"{output.name}-parts").glob("*.json"), key=lambda path: int(path.stem))
    parts = tuple(json.loads(path.read_text()) for path in left)
    steps = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    steps = [step for step in steps if "tokens_per_second" in step]
    manifest = json.loads((output / "manifest.json").read_text())
    rate = statistics.median(step["tokens_per_second"] for step in steps[len(steps) // 2 :])
    losses, peaks = tuple(step["loss"] for step in steps), (manifest["peak_memory_bytes"],)
    if stages := tuple(manifest.get("stages", ())):
        tokens = statistics.median(step["tokens"] for step in steps)
        width = 4 if manifest["compute"] != "bfloat16" else 2
        sent = int(2 * (cards - 1) * tokens * width * manifest["base"]["hidden_size"])
        return Measured(cards, rows, rate, 0, losses, tuple(manifest["stage_peak_bytes"]), sent, stages, seconds)
    summed = 4 * manifest["trained_parameters"] if cards > 1 else 0
    return Measured(cards, rows, rate, summed, losses, peaks, seconds=seconds, parts=parts)


def compare(chosen: argparse.Namespace, each: int, folder: Path) -> None:
    """With `each` rows a card and step."""
    if 1 not in chosen.cards:
        for cards in chosen.cards:
            print(json.dumps(asdict(run(chosen, cards, each * cards, folder / f"{cards}"))), flush=True)
        return
    first = run(chosen, 1, each, folder / "one")
    print(json.dumps(asdict(first)), flush=True)
    for cards in (count for count in chosen.cards if count > 1):
        weak = run(chosen, cards, each * cards, folder / f"weak-{cards}")
        same = run(chosen, cards, each, folder / f"same-{cards}")
        line = {
            **asdict(weak),
            "losses": None,
            "efficiency": round(weak.tokens_per_second / cards / first.tokens_per_second, 4),
            "largest_loss_difference": max(abs(a - b) for a, b in zip(same.losses, first.losses, strict=True)),
        }
        print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="seedling")
    parser.add_argument("--size", help="make random weights of this size (560m to 7b1) in place of --model")
    parser.add_argument("--data", type=Path, default=QUOTES)
    parser.add_argument("--cards", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows-per-card", type=int, nargs="+", default=[16])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--parallel", default="auto", choices=("auto", "data", "pipeline"))
    parser.add_argument("--parts", action="store_true", help="time the parts of a step, too")
    parser.add_argument("options", nargs="*", help="further options of florilegium train, after --")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if chosen.size:
            make_checkpoint(folder / "model", chosen.size, chosen.data)
            chosen.model = str(folder / "model")
        for rows in chosen.rows_per_card:
            (folder / f"{rows}").mkdir()
            compare(chosen, rows, folder / f"{rows}")


if __name__ == "__main__":
    main()
