"""What the precision of the base costs the task: the same rows trained on a float32, an int8 and an NF4 base, over seeds.

    python -m bench.quality.precision [DATA] [--model MODEL] [--seeds 0 1 2] [--bits 32 8 4] [--steps 60] [--rows 200]
    python -m bench.quality.precision quotes.jsonl --model FOLDER --steps 24 --held-out 0.03 --samples 20

A seed decides the split, the adapter's start and the order of rows, the same for each base. Printed: the loss of the
words of test rows, the micro F1 of tags written for them, the share of unconditional samples that copy a training row;
each over all seeds with its interval over rows and its standard deviation between seeds; then the paired differences
from the first base. What was measured is kept in --folder, and not measured again: a run that was stopped goes on."""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from florilegium.config import SamplingSettings, make_config
from florilegium.evaluation import TrainingTexts, paired_differences, share, sums_of_rows
from florilegium.evaluation.confidence import ratio
from florilegium.evaluation.metrics import Metric
from florilegium.evaluation.paired import LINES, PairedLine
from florilegium.runs.evaluate import read_eval_data
from florilegium.runs.evaluator import Evaluator
from florilegium.runs.recorder import NullView
from florilegium.runs.time_left import TimeLeft
from florilegium.runs.train import train_config

NAMES = {32: "float32", 16: "bfloat16", 8: "int8", 4: "NF4"}
SHOWN = [line for line in LINES if line.name in ("loss of the words", "loss of tag words", "tag micro F1")]
Side = Mapping[str, Any]  # {"by_row": what `sums_of_rows` makes, "copied": a flag for each sample}


def measure(flags: argparse.Namespace, bits: int, seed: int) -> Side:
    """Trains and measures one base with one seed, or reads what was measured."""
    folder = Path(flags.folder) / f"{NAMES[bits]}-{seed}"
    kept = folder.with_suffix(".json")
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    values = {"data": flags.data, "model": flags.model, "bits": bits, "seed": seed, "max_steps": flags.steps}
    values |= {"batch_size": flags.batch_size, "held_out": flags.held_out, "output": str(folder), "force": True}
    values |= {
        "verdict_texts": 0,
        "device": flags.device,
        "eval_every": flags.steps,
        "learning_rate": flags.learning_rate,
    }
    trained = train_config(make_config(values), NullView())
    material = read_eval_data(folder, most_rows=flags.rows)
    evaluator = Evaluator(trained.tuned, material, SamplingSettings(seed=seed), flags.samples, TimeLeft(NullView(), []))
    measured = evaluator.measure(use_base=False)
    template = material.rows.template
    main, last = template.main_column, template.columns[-1]
    texts = [str(quote[main]) for quote in material.held_out]
    wanted = [list(quote[last]) for quote in material.held_out] if measured.tags is not None else None
    index = TrainingTexts(material.main_texts)
    side = {
        "by_row": sums_of_rows(texts, measured.rows, measured.tags, wanted),
        "copied": [index.overlap(text).copied for text in measured.texts],
        "training_rows": len(material.training),
    }
    kept.write_text(json.dumps(side))
    return side


def pooled(sides: Sequence[Side], line: PairedLine) -> Metric | None:
    """The metric over all seeds, a row that stands in several test sets drawn as a whole."""
    sums: defaultdict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
    for side in sides:
        found = side["by_row"]
        for key, above, below in zip(found["row"], found[line.above], found[line.below], strict=True):
            sums[key] += (line.factor * above, below)
    both = np.stack([sums[key] for key in sorted(sums)])
    return ratio(both[:, 0], both[:, 1])


def difference_of_shares(one: Sequence[bool], other: Sequence[bool]) -> Metric:
    """other - one with Newcombe's interval (1998) of Wilson's two: no copy on either side leaves an interval, too."""
    first, second = share(one), share(other)
    assert first is not None and second is not None
    change = second.value - first.value
    low = np.hypot(second.value - second.low, first.high - first.value)
    high = np.hypot(second.high - second.value, first.value - first.low)
    return Metric(change, float(change - low), float(change + high))


def table(measured: Mapping[int, Sequence[Side]]) -> Iterator[str]:
    """The printed lines: each base, then each but the first minus the first."""
    yield f"{'':<10}{'':<20}{'value':>8}  {'95% over rows':<20}{'between seeds':>14}"
    for bits, sides in measured.items():
        for line in SHOWN:
            found, seeds = pooled(sides, line), [pooled([side], line) for side in sides]
            spread = f"sd {statistics.stdev([m.value for m in seeds if m]):.4f}" if len(seeds) > 1 else ""
            yield _row(NAMES[bits], line.name, found, spread)
        yield _row(NAMES[bits], "copies", share([flag for side in sides for flag in side["copied"]]), "")
    first, *others = measured
    for bits in others:
        name = f"{NAMES[bits]} minus {NAMES[first]}"
        pairs = list(zip(measured[first], measured[bits], strict=True))
        seeds = [paired_differences([(a["by_row"], b["by_row"])]) for a, b in pairs]
        yield f"\n{name}, paired"
        for found in paired_differences([(a["by_row"], b["by_row"]) for a, b in pairs]):
            if found.name in {line.name for line in SHOWN}:
                by_seed = [f"{d.change.value:+.4f}" for one in seeds for d in one if d.name == found.name]
                verdict = found.verdict(NAMES[first], NAMES[bits])
                yield _row("", found.name, found.change, f"by seed {' '.join(by_seed)}: {verdict}", "+")
        flags = [[flag for side in measured[b] for flag in side["copied"]] for b in (first, bits)]
        change = difference_of_shares(*flags)
        verdict = "no difference seen" if change.low <= 0 <= change.high else "a difference"
        yield _row("", "copies", change, verdict, "+")


def _row(base: str, name: str, metric: Metric | None, note: str, sign: str = "") -> str:
    if metric is None:
        return f"{base:<10}{name:<20}{'none':>8}"
    interval = f"{metric.low:{sign}.4f} to {metric.high:{sign}.4f}"
    return f"{base:<10}{name:<20}{metric.value:>{sign}8.4f}  {interval:<20}{'':>3}{note}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="sample")
    parser.add_argument("--model", default="seedling")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bits", type=int, nargs="+", default=[32, 8, 4], choices=NAMES)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, help="default: as `train` chooses it")
    parser.add_argument("--held-out", type=float, default=0.1)
    parser.add_argument("--rows", type=int, default=200, help="test rows that are measured, at most")
    parser.add_argument("--samples", type=int, default=50, help="unconditional samples, searched for copies")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", default="runs/precision")
    flags = parser.parse_args()
    Path(flags.folder).mkdir(parents=True, exist_ok=True)
    measured: dict[int, list[Side]] = {bits: [] for bits in flags.bits}
    for seed in flags.seeds:
        for bits in flags.bits:
            measured[bits].append(measure(flags, bits, seed))
            by_row = measured[bits][-1]["by_row"]
            print(f"{NAMES[bits]}, seed {seed}: {len(by_row['row'])} test rows", flush=True)
    print(f"\n{flags.data} on {flags.model}, {flags.steps} steps of {flags.batch_size} rows, seeds {flags.seeds}\n")
    print("\n".join(table(measured)))


if __name__ == "__main__":
    main()
