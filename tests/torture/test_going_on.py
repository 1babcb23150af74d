"""Going on with changed settings: each change is applied and said, or refused, and never ignored."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from florilegium.config import read_config
from florilegium.runs.changes import CHANGEABLE
from tests.tiny import save_tiny
from tests.torture.conftest import different_bits, train_arguments, weights
from tests.warm import Warm

APPLIED = {
    "learning_rate": 0.0001,
    "lr_schedule": "linear",
    "warmup_ratio": 0.5,
    "weight_decay": 0.1,
    "max_grad_norm": 0.01,
    "max_steps": 14,
    "lora_dropout": 0.0,
    "neftune_alpha": 5.0,
    "micro_batch_tokens": 128,
    "gpu_memory_limit": 8.0,
    "memory": "lean",
    "parallel": "data",
    "pipeline_stages": 2,
    "kernels": "off",
    "early_stopping_patience": 1,
    "eval_every": 3,
    "save_every": 3,
    "keep_checkpoints": 1,
    "log_every": 4,
    "verdict_texts": 3,
}
REFUSED = {
    "lora_rank": 8,
    "lora_alpha": 8.0,
    "bits": 8,
    "seed": 3,
    "batch_size": 4,
    "template": "{quote} :: {tags}",
    "loss_on": "tags",
    "chat": True,
    "rslora": True,
    "max_length": 64,
    "held_out": 0.3,
    "validation": 0.5,
    "lora_plus_ratio": 4.0,
    "optimizer": "adamw-8bit",
    "target_modules": "dense",
    "lora_init": "gaussian",
    "skip_bad_rows": True,
    "batching": "tile-aligned",
}
SAME_BITS = {
    "memory",
    "parallel",
    "pipeline_stages",
    "kernels",
    "eval_every",
    "save_every",
    "keep_checkpoints",
    "log_every",
    "verdict_texts",
    "micro_batch_tokens",
    "gpu_memory_limit",
    "early_stopping_patience",
}


@pytest.fixture(scope="module")
def stopped(reference: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """A copy of a run that stands at step 10 of 12."""

    def copy() -> Path:
        run = tmp_path_factory.mktemp("stopped") / "run"
        shutil.copytree(reference(), run)
        shutil.rmtree(run / "adapter")
        shutil.rmtree(run / "checkpoints" / "step-00000012")
        return run

    return copy


def flag(name: str, value: object) -> list[str]:
    return ["--" + name.replace("_", "-")] + ([] if value is True else [str(value)])


def test_every_change_is_applied_or_refused_and_said(
    warm: Warm, tiny: Path, quotes: Path, stopped: Callable[[], Path], reference: Callable[..., Path], tmp_path: Path,
    amount: Callable[[int, int], int], figure: Callable[[str, str], None],
) -> None:  # fmt: skip
    applied = list(APPLIED.items()) if amount(0, 1) else list(APPLIED.items())[:3]
    for number, (name, value) in enumerate(applied):
        run = stopped()
        by_hand = number % 2  # written into config.yaml, or given as a flag
        if by_hand:
            edit_config(run, name, value)
        child = warm.run(["resume", run, *([] if by_hand else flag(name, value))], cwd=tmp_path)
        assert child.code == 0 and f"changed {name} from " in child.err and f" to {value}" in child.err, (
            name,
            child.err,
        )
        events = (run / "events.jsonl").read_text()
        assert f"changed {name} from" in events and read_config(run / "config.yaml")[name] == value
        if name not in SAME_BITS:
            assert different_bits(weights(run), weights(reference())) > 0, (
                f"{name} was said to be applied, and changed nothing"
            )
    refused = list(REFUSED.items()) if amount(0, 1) else list(REFUSED.items())[:5]
    for number, (name, value) in enumerate(refused):
        run = stopped()
        before = sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*") if p.name != "config.yaml")
        if number % 2:
            edit_config(run, name, value)
        child = warm.run(["resume", run, *([] if number % 2 else flag(name, value))], cwd=tmp_path)
        assert (
            child.code == 2
            and "cannot change when resuming" in child.last_line
            and name.replace("_", "-") in child.last_line
        ), child.err
        assert sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*") if p.name not in ("config.yaml", ".lock")) == [
            entry for entry in before if entry[0].name != ".lock"
        ]
    _other_rows_and_base(warm, tiny, quotes, stopped, tmp_path)
    text = f"{len(applied)} settings applied and said, {len(refused)} refused, by flag and by hand"
    text += "; device, report_to, epochs, compute too; other rows refused (exit 3), another base refused (exit 4); 0 ignored"
    figure("changed settings", text)


def edit_config(run: Path, name: str, value: object) -> None:
    path = run / "config.yaml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{name}:")]
    path.write_text("\n".join([*lines, f"{name}: {json.dumps(value)}"]) + "\n")


def _other_rows_and_base(warm: Warm, tiny: Path, quotes: Path, stopped: Callable[[], Path], tmp_path: Path) -> None:
    """The paths are the same, what lies there is not."""
    rows, base = tmp_path / "rows.jsonl", tmp_path / "base"
    shutil.copy(quotes, rows)
    shutil.copytree(tiny, base)
    run = tmp_path / "own"
    child = warm.run(train_arguments(base, rows, run), cwd=tmp_path)
    assert child.code == 0, child.err
    shutil.rmtree(run / "adapter")
    rows.write_text(quotes.read_text().replace("Be kind", "Be good"))
    child = warm.run(["resume", run], cwd=tmp_path)
    assert child.code == 3 and "has changed since" in child.last_line
    shutil.copy(quotes, rows)
    shutil.rmtree(base)
    save_tiny(base, seed=1)
    child = warm.run(["resume", run], cwd=tmp_path)
    assert child.code == 4 and "has changed since" in child.last_line


def same_but_for_the_lock(run: Path) -> list[tuple[str, bytes]]:
    return sorted((str(p), p.read_bytes()) for p in run.rglob("*") if p.is_file() and p.name != ".lock")


def on_another_machine(run: Path) -> None:
    """As if the run had been begun on a GPU: its config and its checkpoints say so, and name paths that only run
    there."""
    edit_config(run, "device", "cuda")
    edit_config(run, "kernels", "flex-attention,fused-blocks")
    for manifest in run.glob("checkpoints/*/manifest.json"):
        facts = json.loads(manifest.read_text())
        facts["run"]["settings"] |= {"device": "cuda", "kernels": "flex-attention,fused-blocks"}
        manifest.write_text(json.dumps(facts))


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU says")
def test_device(warm: Warm, stopped: Callable[[], Path], reference: Callable[..., Path], tmp_path: Path) -> None:
    for by_hand in (False, True):  # from the CPU to whatever is there, which is the CPU: the same bits
        run = stopped()
        if by_hand:
            edit_config(run, "device", "auto")
        child = warm.run(["resume", run, *([] if by_hand else flag("device", "auto"))], cwd=tmp_path)
        assert child.code == 0 and "changed device from cpu to auto" in child.err, child.err
        assert "changed device from cpu to auto" in (run / "events.jsonl").read_text()
        assert read_config(run / "config.yaml")["device"] == "cpu"  # what it came to
        assert different_bits(weights(run), weights(reference())) == 0
    run = stopped()
    before = same_but_for_the_lock(run)
    child = warm.run(["resume", run, *flag("device", "cuda")], cwd=tmp_path)
    assert child.code == 4 and "no CUDA GPU found" in child.last_line and "--device cpu" in child.last_line, child.err
    assert same_but_for_the_lock(run) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU says")
def test_a_run_of_a_machine_with_a_gpu(
    warm: Warm, stopped: Callable[[], Path], reference: Callable[..., Path], tmp_path: Path
) -> None:
    for device in ("cpu", "auto"):
        run = stopped()
        on_another_machine(run)
        before = same_but_for_the_lock(run)
        child = warm.run(["resume", run], cwd=tmp_path)
        assert child.code == 4 and "no CUDA GPU found" in child.last_line, child.err
        assert same_but_for_the_lock(run) == before
        child = warm.run(["resume", run, *flag("device", device)], cwd=tmp_path)
        assert child.code == 0 and f"changed device from cuda to {device}" in child.err, child.err
        # its paths do not run here: they are chosen anew
        assert "changed kernels from flex-attention,fused-blocks to auto" in child.err
        assert (
            read_config(run / "config.yaml")["device"] == "cpu"
            and "fused-blocks" not in read_config(run / "config.yaml")["kernels"]
        )
        assert different_bits(weights(run), weights(reference())) == 0


@pytest.mark.parametrize("by_hand", [False, True])
def test_report_to(
    warm: Warm, stopped: Callable[[], Path], reference: Callable[..., Path], tmp_path: Path, by_hand: bool
) -> None:
    run = stopped()
    if by_hand:
        edit_config(run, "report_to", "tensorboard")
    before = same_but_for_the_lock(run)
    child = warm.run(["resume", run, *([] if by_hand else flag("report_to", "tensorboard"))], cwd=tmp_path)
    if importlib.util.find_spec("tensorboard"):
        assert child.code == 0 and "changed report_to from none to tensorboard" in child.err, child.err
        assert list(run.rglob("events.out.tfevents.*")) and different_bits(weights(run), weights(reference())) == 0
    else:
        assert (
            child.code == 2 and "needs the package tensorboard" in child.last_line and "pip install" in child.last_line
        ), child.err
        assert same_but_for_the_lock(run) == before
    run = stopped()
    child = warm.run(["resume", run, *flag("report_to", "a-board")], cwd=tmp_path)
    assert child.code == 2 and "It takes none, or any of tensorboard" in child.last_line


def test_a_tracker_that_is_there_is_told(
    warm: Warm, stopped: Callable[[], Path], reference: Callable[..., Path], tmp_path: Path
) -> None:
    """A package of that name that writes down what it is told: from the step on where the run goes on, and back to
    none."""
    (tmp_path / "trackio.py").write_text(TRACKIO)
    (tmp_path / "trackio-1.0.dist-info").mkdir()
    (tmp_path / "trackio-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: trackio\nVersion: 1.0\n")
    told, before = tmp_path / "told.jsonl", ("install", {"name": "trackio", "folder": str(tmp_path)})
    run = stopped()
    child = warm.run(
        ["resume", run, *flag("report_to", "trackio")], cwd=tmp_path, before=before, env={"TOLD": str(told)}
    )
    assert child.code == 0 and "changed report_to from none to trackio" in child.err, child.err
    rows = [json.loads(line) for line in told.read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [11, 12] and any("eval_loss" in row for row in rows)
    assert different_bits(weights(run), weights(reference())) == 0
    shutil.rmtree(run / "adapter")
    told.unlink()
    more = [*flag("report_to", "none"), *flag("max_steps", 14)]
    child = warm.run(["resume", run, *more], cwd=tmp_path, before=before, env={"TOLD": str(told)})
    assert child.code == 0 and "changed report_to from trackio to none" in child.err and not told.exists(), child.err


TRACKIO = """
import json, os
def _tell(**row):
    with open(os.environ["TOLD"], "a") as file:
        file.write(json.dumps(row) + "\\n")
class Run:
    config = {}
    def log(self, values, step=None, **more): _tell(step=step, **values)
    def finish(self): pass
config = {}
def init(*arguments, **named): return Run()
def log(values, step=None, **more): _tell(step=step, **values)
def finish(): pass
"""


def test_epochs(warm: Warm, stopped: Callable[[], Path], tmp_path: Path) -> None:
    """More of them are more steps; where --max-steps decides they would change nothing, and that is refused."""
    run = stopped()
    before = same_but_for_the_lock(run)
    child = warm.run(["resume", run, *flag("epochs", 9)], cwd=tmp_path)
    assert child.code == 2 and "--epochs" in child.last_line and "--max-steps" in child.last_line, child.err
    assert same_but_for_the_lock(run) == before
    edit_config(run, "max_steps", None)
    child = warm.run(["resume", run, *flag("epochs", 3)], cwd=tmp_path)
    assert child.code == 0 and "changed max_steps from 12 to None" in child.err, child.err
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows) == json.loads((run / "manifest.json").read_text())["planned_steps"] > 12


def test_compute(warm: Warm, stopped: Callable[[], Path], reference: Callable[..., Path], tmp_path: Path) -> None:
    child = warm.run(["resume", stopped(), *flag("dtype", "bfloat16")], cwd=tmp_path)
    assert child.code == 2 and "computes in float32" in child.last_line, child.err  # weights of 32 bits
    run = tmp_path / "eight"
    shutil.copytree(reference(8), run)
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    child = warm.run(["resume", run, *flag("dtype", "bfloat16")], cwd=tmp_path)
    assert child.code == 0 and "changed dtype from float32 to bfloat16" in child.err, child.err
    assert different_bits(weights(run), weights(reference(8))) > 0


def test_a_run_from_before_there_were_orders(
    warm: Warm, stopped: Callable[[], Path], reference: Callable[..., Path], tmp_path: Path
) -> None:
    """Neither its config nor its checkpoints name one: it goes on as it began, and another is refused."""
    run = stopped()
    config = run / "config.yaml"
    config.write_text(
        "".join(
            line for line in config.read_text().splitlines(True) if not line.startswith(("batching:", "validation:"))
        )
    )
    for manifest in run.glob("checkpoints/*/manifest.json"):
        held = json.loads(manifest.read_text())
        assert held["run"]["settings"].pop("batching") == "shuffled"
        assert held["run"]["settings"].pop("validation") == 0.3  # nor were held-out rows parted then
        manifest.write_text(json.dumps(held))
    child = warm.run(["resume", run, *flag("batching", "tile-aligned")], cwd=tmp_path)
    assert child.code == 2 and "--batching cannot change when resuming (this run uses shuffled)" in child.last_line, (
        child.err
    )
    child = warm.run(["resume", run, *flag("batching", "auto")], cwd=tmp_path)
    assert child.code == 0 and "batching: shuffled" in config.read_text(), child.err
    assert "validation: 0.0" in config.read_text()
    assert different_bits(weights(run), weights(reference())) == 0


def test_what_may_change_is_what_is_tested() -> None:
    assert set(CHANGEABLE) - set(APPLIED) == {"device", "report_to", "epochs", "dtype"}  # by the tests above


def test_resuming_at_the_end_changes_nothing(warm: Warm, reference: Callable[..., Path], tmp_path: Path) -> None:
    """Killed between the last checkpoint and the adapter."""
    run = tmp_path / "run"
    shutil.copytree(reference(), run)
    shutil.rmtree(run / "adapter")
    child = warm.run(["resume", run], cwd=tmp_path)
    assert child.code == 0 and different_bits(weights(run), weights(reference())) == 0
    card, right = (run / "adapter" / "README.md").read_text(), (reference() / "adapter" / "README.md").read_text()
    assert card.split("## As it came out")[1] == right.split("## As it came out")[1]
    assert warm.run(["resume", run], cwd=tmp_path).code == 2  # it is finished


TEARS = ['{"step": 3, "lo', '{"step": "x"}\n', "\0\0\0\0", '{"a":' * 3000]
# other JSON that is no row, other bytes that are no JSON
ALIKE = ["null\n", "7\n", "\udcff"]


@pytest.mark.parametrize("tear", [*TEARS, *(pytest.param(tear, marks=pytest.mark.slow) for tear in ALIKE)])
def test_a_torn_log_is_mended(
    warm: Warm, stopped: Callable[[], Path], reference: Callable[..., Path], tmp_path: Path, tear: str
) -> None:
    run = stopped()
    for name in ("metrics.jsonl", "samples.jsonl"):
        with (run / name).open("a", errors="surrogateescape") as file:
            file.write(tear)
    child = warm.run(["resume", run], cwd=tmp_path)
    assert child.code == 0, child.err
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == list(range(1, 13))
