"""A number that is none: in a weight, the loss, a gradient or the input, at any step; none of them reaches the disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from florilegium.errors import DivergedError
from florilegium.training import load_checkpoint, newest_valid
from florilegium.training.guards import check_snapshot, check_step, check_tensors
from tests.torture.conftest import different_bits, train_arguments, weights
from tests.warm import Warm

KINDS = ("weight", "loss", "gradient", "input")


def test_no_number_at_any_step(
    warm: Warm, tiny: Path, quotes: Path, reference: Callable[..., Path], tmp_path: Path, amount: Callable[[int, int], int],
    figure: Callable[[str, str], None],
) -> None:  # fmt: skip
    steps = amount(12, 50)
    # Each kind at even and odd steps: a weight that is none behind an even one is there when a checkpoint is due.
    chosen = [(step, KINDS[(step + step // 4) % 4]) for step in range(1, steps + 1)]
    if steps < 50:
        chosen = [(1, "loss"), (2, "gradient"), (5, "weight"), (12, "input")]
    late = 0
    for number, (step, kind) in enumerate(chosen):
        value = ("nan", "inf", "-inf")[number % 3]
        run = tmp_path / f"run-{step}"
        more = ["--held-out", "0"] if number % 5 == 4 else []  # then no look would notice
        arguments = train_arguments(tiny, quotes, run, *more, steps=steps)
        options = {"kind": kind, "step": step, "value": value}
        child = warm.run(arguments, cwd=tmp_path, before=("put_a_number_that_is_none", options))
        assert child.code == (0 if kind == "weight" and step == 1 else 6), (kind, step, child.err)
        if child.code == 0:  # there is no step before the first one after which a weight could be changed
            continue
        assert child.last_line.startswith("florilegium: ") and "Traceback" not in child.err
        assert kind == "weight" or str(step) in child.last_line, child.last_line
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert all(row[k] == row[k] for row in rows for k in ("loss", "grad_norm") if k in row)
        late = max(late, max(row["step"] for row in rows) - (step - 1))
        assert not (run / "adapter").exists()
        checkpoint, skipped = newest_valid(run / "checkpoints") if (run / "checkpoints").is_dir() else (None, [])
        # a weight that is none is there before its save
        last_save = (step - 1) // 2 * 2 if kind != "weight" else (step - 2) // 2 * 2
        assert (int(checkpoint.name[5:]) if checkpoint else 0) == last_save and not skipped, (kind, step)
        if checkpoint:
            assert all(bool(torch.isfinite(t).all()) for t in load_checkpoint(checkpoint).adapter.values())
        if not more and number % 6 == 1:
            resumed = warm.run(["resume", run], cwd=tmp_path)
            assert resumed.code == 0 and different_bits(weights(run), weights(reference(steps=steps))) == 0, resumed.err
    assert late <= 1
    text = f"{len(chosen)} steps of {steps}, four places: stopped {late} steps late at most, last good one kept"
    figure("no number", f"{text}, exit 6, 0 NaN adapters")


def test_a_base_that_holds_none_is_told_before_the_first_step(
    warm: Warm, tiny: Path, quotes: Path, tmp_path: Path
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny, tmp_path / "base")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] = torch.nan
    save_file(tensors, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    for more in ([], ["--held-out", "0"]):
        run = tmp_path / f"run{len(more)}"
        child = warm.run(train_arguments(tmp_path / "base", quotes, run, *more), cwd=tmp_path)
        assert child.code == 6 and "Traceback" not in child.err, child.err
        assert run.exists() == bool(more)  # where the first look fails there is nothing to resume
        assert not (run / "adapter").exists() and not list(run.glob("checkpoints/step-*"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_guards(value: float) -> None:
    check_step(1, 2.0, 3.0)
    for numbers in ((value, 1.0), (1.0, value)):
        with pytest.raises(DivergedError, match="diverged at step 7 .*the update was skipped"):
            check_step(7, *numbers)
    bad = torch.zeros(1000)
    bad[500] = value
    check_tensors({"large": torch.full((10,), 3e38)}, "fine: only its sum is too large")
    with pytest.raises(DivergedError, match="tensor b contains NaN or infinity"):
        check_tensors({"a": torch.zeros(3), "b": bad}, "the adapter")
    good = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(3)}}}
    check_snapshot(3, {"a": torch.zeros(1)}, {}, good)
    for adapter, best, optimizer in (
        ({"a": bad}, {}, good),
        ({}, {"a": bad}, good),
        ({}, {}, {"state": {0: {"exp_avg": bad}}}),
    ):
        with pytest.raises(DivergedError, match="at step 3"):
            check_snapshot(3, adapter, best, optimizer)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_kind_of_tensor_hides_one(value: float) -> None:
    """Scalars, empty ones, numbers whose squares overflow, whole numbers and several widths stand side by side in an
    optimiser's state."""
    good = {
        "empty": torch.zeros(0, 4), "scalar": torch.tensor(7.0), "step": torch.tensor(7), "bytes": torch.arange(9, dtype=torch.uint8),
        "large": torch.full((300,), 3e38), "half": torch.full((9,), 3e4, dtype=torch.float16),
        "bfloat": torch.ones(5, dtype=torch.bfloat16), "double": torch.full((5,), 1e300, dtype=torch.float64),
    }  # fmt: skip
    check_tensors(good, "all of them")
    check_tensors({}, "none of them")
    for name in ("scalar", "large", "half", "bfloat", "double"):
        bad = good[name].clone()
        bad.view(-1)[-1] = value
        with pytest.raises(DivergedError, match=f"it was not saved: tensor {name} contains"):
            check_tensors({**good, name: bad, "later": bad.clone()}, "it")
