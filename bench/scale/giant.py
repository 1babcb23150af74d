"""A whole run of a giant on one card, as a person types it: BLOOM-176B, or a BLOOM of Poro-34B's shape, quantised, random
(`bench/common/stored_model.py`: no weight takes disk), on rows of english_quotes.

    python -m bench.scale.giant 176b --bits 4 --steps 24 --minutes 9
    python -m bench.scale.giant poro-34b --bits 4 8 --limits 48 24 --steps 12 --minutes 8 --whole
    python -m bench.scale.giant tiny --bits 8 --steps 4                                     to try it without a card

For each bit width and --limits (GiB of the card, as of a smaller one): `train`, stopped by a signal once half of the
steps are done (--whole: not), `resume`, then a line of JSON: seconds of the load, tokens/s of the steps, peak beside
forecast. What a command prints comes as it is printed, with the seconds since the beginning in front. Where the weights do
not fit under the limit the run is `--memory offload`. After --minutes nothing more is begun, and what runs is stopped as
by a signal: its figures so far are printed all the same. The run's folder is kept (--output)."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.common.checkpoint import QUOTES
from bench.common.commands import BEGAN, Command, run_until, say, steps_of
from bench.common.stored_model import SHAPES, VOCABULARIES, make_stored

FLORILEGIUM = "bench.common.stored_model"  # its command line, which reads holes
BESIDE = 3.0  # GiB beside the weights, from which a run's blocks need not lie in main memory
SHARED_MEMORY = Path("/dev/shm")  # a hole read there takes no memory
SAYINGS = Path(__file__).resolve().parents[2] / "src" / "florilegium" / "seedling" / "sayings.jsonl"
READ = re.compile(r"^read ([\d.]+) GB in ([\d.]+) s", re.M)


def place_for_models() -> Path:
    return Path(tempfile.mkdtemp(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None))


def rows_file() -> Path:
    return QUOTES if QUOTES.is_file() else SAYINGS


def figures(run: Path, what: dict[str, object], commands: list[Command]) -> dict[str, object]:
    """What a run's folder says of it, as far as it came."""
    path = run / "manifest.json"
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    rows = steps_of(run / "metrics.jsonl")
    # the first steps of each process compile and record
    rates = sorted(row["tokens_per_second"] for row in rows)[len(rows) // 4 :]
    peak = max((row["peak_memory_bytes"] for row in rows), default=0)
    forecast = manifest.get("forecast_bytes", 0)
    loads = READ.findall("".join(line for command in commands for line in command.lines))
    return {
        **what,
        "exit_codes": [command.code for command in commands],
        "loads": [{"gb": float(size), "seconds": float(seconds)} for size, seconds in loads],
        "steps": len(rows),
        "planned": manifest.get("planned_steps"),
        "tokens_per_second": round(statistics.median(rates), 1) if rates else None,
        "losses": [rows[0]["loss"], rows[-1]["loss"]] if rows else [],
        "held_out": [manifest.get("eval_loss_before"), manifest.get("eval_loss")],
        "peak_gib": round(peak / 2**30, 2),
        "forecast_gib": round(forecast / 2**30, 2),
        "above_peak": f"{100 * (forecast / peak - 1):+.1f}%" if peak and forecast else None,
        "adapter": (run / "adapter" / "adapter_model.safetensors").is_file(),
        "report": (run / "report.html").is_file(),
    }


def whole_run(chosen: argparse.Namespace, folder: Path, bits: int, limit: float | None, end: float) -> None:
    """One run, stopped and resumed, and its figures. `end`: of `time.monotonic`."""
    run = chosen.output / f"{chosen.size}-{bits}-{'card' if limit is None else f'{limit:g}'}"
    train = ["train", str(rows_file()), "--model", str(folder), "--output", str(run), "--bits", str(bits)]
    # evaluated at both ends alone; each step has a line of metrics
    train += ["--max-steps", str(chosen.steps), "--eval-every", "100000", "--log-every", "1", "--verdict-texts", "0"]
    if limit is not None:
        train += ["--gpu-memory-limit", f"{limit:g}"]
        # chosen by itself too; but a machine may say that it has less main memory than it gives
        train += ["--memory", "offload"] if weights_gib(folder) > limit - BESIDE else []
    halfway = chosen.steps + 1 if chosen.whole else max(1, chosen.steps // 2)
    commands = [
        run_until(
            end, FLORILEGIUM, *train, *chosen.train, is_enough=lambda: len(steps_of(run / "metrics.jsonl")) >= halfway
        )
    ]
    if commands[0] is not None and commands[0].code in (130, 143):
        commands.append(run_until(end, FLORILEGIUM, "resume", str(run)))
    what: dict[str, object] = {"size": chosen.size, "bits": bits, "limit_gib": limit}
    say(json.dumps(figures(run, what, [command for command in commands if command is not None])))


def weights_gib(folder: Path) -> float:
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    return float(index["metadata"]["total_size"]) / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SHAPES)
    parser.add_argument("--bits", type=int, nargs="+", choices=(4, 8), default=[4])
    parser.add_argument("--limits", type=float, nargs="+", help="GiB; default: the whole card")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--minutes", type=float, default=9, help="in all")
    parser.add_argument("--whole", action="store_true", help="no stop half way")
    parser.add_argument("--output", type=Path, help="where the runs are kept; default: a new folder")
    parser.add_argument("--train", nargs=argparse.REMAINDER, default=[], help="last: more settings of train")
    chosen = parser.parse_args()
    chosen.output = chosen.output or Path(tempfile.mkdtemp())
    end, place = BEGAN + 60 * chosen.minutes, place_for_models()
    try:
        for bits in chosen.bits:
            folder = place / f"bits{bits}"
            shape, vocabulary = SHAPES[chosen.size], VOCABULARIES[chosen.size]
            # without a card Transformers reads the files, and finds zeros in a hole
            size = make_stored(folder, shape, vocabulary, bits, rows_file(), holes=torch.cuda.is_available())
            say(f"{folder}: a {chosen.size} in {bits} bits, {size / 1e9:.1f} GB of tensors; rows of {rows_file().name}")
            for limit in chosen.limits or [None]:
                whole_run(chosen, folder, bits, limit, end)
    finally:
        shutil.rmtree(place)
    say(f"runs are in {chosen.output}")


if __name__ == "__main__":
    main()
