"""What surrounds a run changes nothing in it: no variable of a launcher, and nothing else that goes on in the process."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import florilegium

# As `accelerate launch`, torchrun with one process, DeepSpeed and a shell may leave them.
VARIABLES = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4", "ACCELERATE_MIXED_PRECISION": "fp16", "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_USE_CPU": "true", "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
    "ACCELERATE_TORCH_DEVICE": "meta", "ACCELERATE_USE_MEGATRON_LM": "true", "ACCELERATE_CPU_AFFINITY": "1",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true", "ACCELERATE_FP8_BACKEND": "TE", "FSDP_OFFLOAD_PARAMS": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true", "FSDP_VERSION": "2", "FORK_LAUNCHED": "1", "WORLD_SIZE": "1", "RANK": "0",
    "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "x", "GROUP_RANK": "0", "PEFT_DEBUG_WITH_RANDOM_SEED": "3", "TOKENIZERS_PARALLELISM": "true",
    "TZ": "Asia/Kolkata", "LANG": "tr_TR.UTF-8", "LC_ALL": "C", "COLUMNS": "1", "TERM": "dumb", "PYTHONHASHSEED": "7",
    "TRANSFORMERS_VERBOSITY": "debug", "DATASETS_VERBOSITY": "debug", "HF_DATASETS_OFFLINE": "1", "NO_COLOR": "1",
}  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    words = ["sea", "home", "river", "boat", "hope", "time", "door", "kind"]
    texts = [{"quote": f"Be kind to the {word}, {other}.", "tags": [word]} for word in words for other in words[:3]]
    path.write_text("".join(json.dumps(row) + "\n" for row in texts))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def train(tiny: Path, rows: Path, folder: Path) -> Callable[..., str]:
    """A short run; the digest of its adapter and of every figure that is no time."""

    def trained(name: str, **settings: Any) -> str:
        output = folder / name
        given = {"max_steps": 3, "bits": 32, "split_by": "random", "device": "cpu", "verdict_texts": 2, **settings}
        florilegium.train(rows, model=str(tiny), output=str(output), **given)
        return digest(output)

    return trained


def digest(run: Path) -> str:
    parts = hashlib.sha256((run / "adapter" / "adapter_model.safetensors").read_bytes())
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        parts.update(repr([row.get(key) for key in ("step", "loss", "grad_norm", "tokens", "eval_loss")]).encode())
    parts.update((run / "samples.jsonl").read_bytes())
    return parts.hexdigest()


@pytest.fixture(scope="module")
def plain(train: Callable[..., str]) -> str:
    return train("plain")


# Those that one tool sets together: where a group changes a run, `make slow` says which of them it was.
GROUPS = {
    "accelerate": [name for name in VARIABLES if name.startswith("ACCELERATE_")],
    "torchrun": ["WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "GROUP_RANK"],
    "launch": [name for name in VARIABLES if name.startswith(("FSDP_", "FORK_"))],
    "libraries": [name for name in VARIABLES if name.startswith(("PEFT_", "TOKENIZERS_", "TRANSFORMERS_", "DATASETS_", "HF_"))],
    "shell": ["TZ", "LANG", "LC_ALL", "COLUMNS", "TERM", "PYTHONHASHSEED", "NO_COLOR"],
}  # fmt: skip
ALONE = {name: [name] for name in VARIABLES}


@pytest.mark.parametrize(
    "names",
    [*GROUPS.values(), *(pytest.param(names, marks=pytest.mark.slow) for names in ALONE.values())],
    ids=[*GROUPS, *ALONE],
)
def test_no_variable_changes_a_run(
    train: Callable[..., str], plain: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in names:
        monkeypatch.setenv(name, VARIABLES[name])
    assert train(",".join(names)[:80]) == plain


def test_each_variable_is_in_a_group() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(VARIABLES)


def test_all_of_them_at_once_with_a_tracker(
    train: Callable[..., str], plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accelerate is made where there are trackers, and must not see them either."""
    pytest.importorskip("tensorboard")
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert train("all", report_to="tensorboard") == plain


def test_an_accelerator_of_the_caller_changes_nothing(train: Callable[..., str], plain: str) -> None:
    """Its state is one for the process."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(True)
    try:
        other = Accelerator(cpu=True, gradient_accumulation_steps=4, mixed_precision="bf16")
        with other.accumulate(torch.nn.Linear(1, 1)):
            assert train("theirs") == plain
    finally:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()


def test_two_trainings_at_once_are_each_as_alone(train: Callable[..., str], plain: str) -> None:
    other = train("other", seed=5)
    found = together(lambda: train("first"), lambda: train("second", seed=5))
    assert found == [plain, other]


def test_training_while_others_load_and_write(train: Callable[..., str], plain: str, folder: Path) -> None:
    run = folder / "plain"
    alone = text_of(run)

    def many() -> set[str]:
        return {text_of(run) for _ in range(3)}

    assert together(lambda: train("beside"), many, many) == [plain, {alone}, {alone}]
    assert text_of(run) == alone


def test_a_default_dtype_of_another_threads_load_changes_nothing(
    train: Callable[..., str], plain: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformers sets it for the process while it makes a 16-bit base. Loads wait for one another; steps and texts do not."""
    from florilegium.runs import train as running

    make_trainer = running.make_trainer

    def while_another_loads(*given: Any) -> Any:
        torch.set_default_dtype(torch.bfloat16)
        return make_trainer(*given)

    noisy = train("noisy", neftune_alpha=5.0)
    tuned = florilegium.load(folder / "plain", device="cpu")
    before = tuned.generate("Be kind", max_new_tokens=6, seed=3)[0].text
    monkeypatch.setattr(running, "make_trainer", while_another_loads)
    try:
        assert train("while another loads") == plain
        assert torch.get_default_dtype() == torch.bfloat16
        torch.set_default_dtype(torch.float32)
        assert train("noisy while another loads", neftune_alpha=5.0) == noisy
        assert tuned.generate("Be kind", max_new_tokens=6, seed=3)[0].text == before
    finally:
        torch.set_default_dtype(torch.float32)


def test_loading_draws_nothing(plain: str, folder: Path) -> None:
    """The caller's random numbers go on as if nothing had been loaded or written."""
    torch.manual_seed(11)
    before = torch.get_rng_state()
    text_of(folder / "plain")
    assert torch.equal(torch.get_rng_state(), before)


def text_of(run: Path) -> str:
    return florilegium.load(run, device="cpu").generate("Be kind", temperature=0.0, max_new_tokens=6)[0].text


def together(*work: Callable[[], Any]) -> list[Any]:
    """What each gives, in threads that start at once."""
    found: list[Any] = [None] * len(work)

    def run(place: int, one: Callable[[], Any]) -> None:
        found[place] = one()

    threads = [threading.Thread(target=run, args=(place, one)) for place, one in enumerate(work)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
