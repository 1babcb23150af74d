"""How a run on several cards ends when one process is killed, and that fewer cards go on with it.

    python -m bench.scale.ends --size 560m --cards 2                data parallel, then a pipeline
    python -m bench.scale.ends --device cpu --cards 2               the same on processors, to try it

A run of --cards processes is started as a user starts it (`florilegium train --gpus N`). When its first checkpoint is there
one process gets SIGKILL: never the launcher, rank 1 the first time and rank 0 the second. Then `florilegium resume` goes on
to the end on one card. A line of JSON for each: seconds until all had ended, the exit code, what was told, processes left
behind, and whether the resumed run has an adapter. Exits with 1 unless all ended within 30 seconds with one line."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.common.checkpoint import QUOTES, make_checkpoint

WITHIN = 30  # seconds
STEPS, SAVE_EVERY = 60, 5


def processes_of(launcher: int) -> dict[int, int]:
    """The process of each rank, by Linux's /proc."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            given = dict(e.partition("=")[::2] for e in (folder / "environ").read_text().split("\0"))
        except (OSError, UnicodeDecodeError):  # it has ended meanwhile
            continue
        if parent == launcher and "RANK" in given:
            found[int(given["RANK"])] = int(folder.name)
    return found


def wait_for_checkpoint(run: Path, child: subprocess.Popen[str]) -> None:
    while not list(run.glob("checkpoints/step-*/manifest.json")):
        if child.poll() is not None:
            raise SystemExit(f"the run ended before its first checkpoint:\n{child.communicate()[1][-2000:]}")
        time.sleep(0.05)


def killed(chosen: argparse.Namespace, parallel: str, rank: int, run: Path) -> dict[str, object]:
    """A run of which the process of `rank` is killed, and what the others do then."""
    given = [sys.executable, "-m", "florilegium", "train", str(chosen.data), f"--model={chosen.model}"]
    given += [f"--output={run}", f"--max-steps={STEPS * 1000}", f"--save-every={SAVE_EVERY}", "--held-out=0"]
    given += ["--split-by=random", "--verdict-texts=0", f"--device={chosen.device}", f"--gpus={chosen.cards}"]
    child = subprocess.Popen(
        [*given, f"--parallel={parallel}"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    wait_for_checkpoint(run, child)
    there = processes_of(child.pid)
    began = time.monotonic()
    os.kill(there[rank], signal.SIGKILL)
    said = child.communicate(timeout=120)[1]
    return {
        "parallel": parallel,
        "killed": rank,
        "seconds": round(time.monotonic() - began, 1),
        "exit_code": child.returncode,
        "told": [line for line in said.splitlines() if line.startswith("florilegium:")],
        "left_behind": sum(Path(f"/proc/{process}").exists() for process in there.values()),
    }


def resumed(chosen: argparse.Namespace, run: Path, parallel: str) -> dict[str, object]:
    """The run, from its last checkpoint to a few steps further, on one card."""
    saved = max(int(path.parent.name[5:]) for path in run.glob("checkpoints/step-*/manifest.json"))
    given = [sys.executable, "-m", "florilegium", "resume", str(run), f"--max-steps={saved + 10}"]
    given += ["--parallel=data"] if parallel == "pipeline" else []
    done = subprocess.run(given, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {step["step"]: round(step["loss"], 4) for step in steps if step.get("loss") is not None}
    around = {number: loss for number, loss in losses.items() if saved - 3 < number <= saved + 3}
    return {
        "resumed_at": saved,
        "resume_exit_code": done.returncode,
        "resume_said": [line for line in done.stderr.splitlines() if "processes" in line or "florilegium:" in line],
        "losses_around": around,
        "has_adapter": (run / "adapter" / "adapter_model.safetensors").exists(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="seedling")
    parser.add_argument("--size", help="make random weights of this size (560m to 7b1) in place of --model")
    parser.add_argument("--data", type=Path, default=QUOTES)
    parser.add_argument("--cards", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--parallel", nargs="+", default=["data", "pipeline"], choices=("data", "pipeline"))
    chosen = parser.parse_args()
    well = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if chosen.size:
            make_checkpoint(folder / "model", chosen.size, chosen.data)
            chosen.model = str(folder / "model")
        for number, parallel in enumerate(chosen.parallel):
            run = folder / parallel
            found = killed(chosen, parallel, (1 + number) % chosen.cards, run)
            found |= resumed(chosen, run, parallel)
            print(json.dumps(found), flush=True)
            ended = found["seconds"] <= WITHIN and len(found["told"]) == 1 and not found["left_behind"]  # type: ignore[operator,arg-type]
            well = well and ended and bool(found["has_adapter"])
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
