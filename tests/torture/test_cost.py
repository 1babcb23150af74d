"""What the care costs: a checkpoint of bloom-7b1's adapter, its memory, the guards in a step."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load, save

from florilegium.storage.safetensors_io import tensor_bytes, tensor_pieces
from florilegium.training import Progress, Snapshot, load_checkpoint, save_checkpoint
from florilegium.training.checkpoint import CHECKPOINT_REST
from florilegium.training.guards import check_step

LAYERS, WIDTH, RANK = 30, 4096, 16


def snapshot(step: int = 1, layers: int = LAYERS) -> Snapshot:
    """As large as bloom-7b1's: 7,864,320 numbers in 60 matrices, the best ones too, and two moments for each."""
    name = "base_model.model.transformer.h.{}.self_attention.query_key_value.lora_{}.weight"
    shapes = {name.format(i, m): (RANK, WIDTH) if m == "A" else (3 * WIDTH, RANK) for i in range(layers) for m in "AB"}
    adapter = {name: torch.randn(shape) for name, shape in shapes.items()}
    moments = [
        {"step": torch.tensor(1.0), "exp_avg": torch.randn(s), "exp_avg_sq": torch.rand(s)} for s in shapes.values()
    ]
    groups = [{"lr": 1e-4, "betas": (0.9, 0.999), "params": list(range(len(moments)))}]
    optimizer = {"state": dict(enumerate(moments)), "param_groups": groups}
    best = {name: tensor.clone() for name, tensor in adapter.items()}
    return Snapshot(Progress(step=step), adapter, best, optimizer, {"last_epoch": step}, {"cpu": torch.get_rng_state()})


def test_a_checkpoint_of_7b1(tmp_path: Path, figure: Callable[[str, str], None]) -> None:
    whole = snapshot()
    assert sum(t.numel() for t in whole.adapter.values()) == 7_864_320
    seconds, plain, as_much = [], [], os.urandom(7_864_320 * 16 + CHECKPOINT_REST)
    for step in range(1, 10):
        whole.progress.step = step
        began = time.perf_counter()
        folder = save_checkpoint(tmp_path, whole, keep=2)
        seconds.append(time.perf_counter() - began)
        plain.append(_plain_write(tmp_path, as_much))
    again = load_checkpoint(folder)
    assert all(torch.equal(again.adapter[name], tensor) for name, tensor in whole.adapter.items())
    size = sum(path.stat().st_size for path in folder.iterdir())
    predicted = 7_864_320 * 16 + CHECKPOINT_REST
    assert abs(predicted - size) < 0.1 * size, (predicted, size)
    peak = _peak_of_a_save()
    share = _guards_microseconds()
    best, middle, disk, usual = min(seconds), statistics.median(seconds), min(plain), statistics.median(plain)
    text = f"{size / 2**20:.0f} MiB saved in {best:.2f} s at best, {middle:.2f} s in the middle of 9 (writing as much with one flush, "
    text += f"in turn: {disk:.2f} and {usual:.2f} s, so {middle / usual:.1f} times as long), {peak:.1f} MiB of memory above the tensors"
    text += f", forecast within {100 * abs(predicted - size) / size:.1f}%; guards {share:.2f} us a step on the CPU"
    text += "; on a GPU: bench/train/steps.py --guards"
    figure("cost", text)
    assert peak < 8
    assert best < max(1, 4 * disk), (seconds, plain)  # a second, unless the disk alone takes a good part of it


def _plain_write(folder: Path, data: bytes) -> float:
    """What the disk alone takes, to compare with."""
    began = time.perf_counter()
    with (folder / "plain").open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    (folder / "plain").unlink()
    return seconds


def _peak_of_a_save() -> float:
    """MiB by which the largest resident size of a fresh process grows in a save."""
    code = "import tests.torture.test_cost as t; t.print_peak()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
        check=True,
    )
    return float(done.stdout.split()[-1])


def print_peak() -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), snapshot(1, layers=1), keep=2)  # what the first save imports and allocates once
        whole = snapshot(2)
        Path("/proc/self/clear_refs").write_text("5")  # from here on the system looks for the peak anew
        before = _kilobytes("VmRSS")
        save_checkpoint(Path(folder), whole, keep=2)
        print((_kilobytes("VmHWM") - before) / 1024)


def _kilobytes(what: str) -> int:
    """Not getrusage: there a process begins with the peak of the one that started it, which is above all that a save
    could take."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def _guards_microseconds() -> float:
    """Microseconds a step that the guards take: two numbers are looked at that the step has fetched anyway."""
    began = time.perf_counter()
    for step in range(100_000):
        check_step(step, 2.5, 0.7)
    return (time.perf_counter() - began) * 10


def test_the_files_are_those_of_the_library() -> None:
    """Odd shapes, all dtypes, nothing at all: what the library reads is what we wrote, and as long as what it
    writes."""
    tensors = {
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "bool": torch.tensor([True, False, True]),
        "byte": torch.arange(7, dtype=torch.int8),
        "half": torch.randn(3, 5, dtype=torch.bfloat16),
        "wide": torch.randn(2, 3, dtype=torch.float64),
        "slice": torch.randn(6, 6)[::2, 1:4],
        "é“name”": torch.arange(5),
        "unsigned": torch.arange(9, dtype=torch.uint8),
    }
    for some in (tensors, {}):
        data = b"".join(bytes(piece) for piece in tensor_pieces(some, {"format": "pt"}))
        read = load(data)
        assert read.keys() == some.keys() and all(torch.equal(read[name], tensor) for name, tensor in some.items())
        assert all(read[name].dtype == tensor.dtype for name, tensor in some.items())
        theirs = save({name: tensor.contiguous() for name, tensor in some.items()}, {"format": "pt"})
        assert abs(len(theirs) - len(data)) <= 16 + 40 * len(some)
        assert tensor_bytes(some) <= len(data)
