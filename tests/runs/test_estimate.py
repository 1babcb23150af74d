"""What a run will take, told before anything is downloaded: held to what loading and steps really took."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from florilegium.cli.main import main
from florilegium.config import TrainConfig, make_config
from florilegium.data import read_rows_of
from florilegium.errors import ModelError, UsageError
from florilegium.model import card_memory, load_base
from florilegium.model.gpus import CARDS, find_by_device_name, find_gpu
from florilegium.model.memory_plan import peak_bytes
from florilegium.model.skeleton import read_skeleton
from florilegium.runs.estimate import estimate
from florilegium.runs.prepare import prepare
from florilegium.runs.rates import product_share
from florilegium.runs.recorder import NullView
from florilegium.runs.setup import make_ready
from florilegium.runs.train import train_config
from florilegium.training import plan_length

SIZES = {"bloom-560m": (1024, 24, 16), "bloom-7b1": (4096, 30, 32), "bloom-176b": (14336, 70, 112)}


def config_of(name: str) -> dict[str, object]:
    width, layers, heads = SIZES[name]
    return {
        "model_type": "bloom",
        "architectures": ["BloomForCausalLM"],
        "hidden_size": width,
        "n_layer": layers,
        "n_head": heads,
        "vocab_size": 250880,
    }


@pytest.fixture
def bloom(tmp_path: Path) -> Path:
    """A folder of bloom-7b1 with its config.json and nothing else: no weights, no tokenizer."""
    return folder_of("bloom-7b1", tmp_path)


def folder_of(name: str, parent: Path) -> Path:
    folder = parent / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_of(name)))
    return folder


def held_bytes(model: torch.nn.Module) -> int:
    """What the tensors of a loaded base take, bitsandbytes' own among them."""
    total = 0
    for parameter in model.parameters():
        total += parameter.numel() * parameter.element_size()
        scale = getattr(parameter, "SCB", None)
        total += 0 if scale is None else scale.numel() * scale.element_size()
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            inner = state.state2
            parts = (state.absmax, state.code, state.offset, inner.absmax, inner.code)
            total += sum(part.numel() * part.element_size() for part in parts)
    return total


@pytest.mark.parametrize("bits", [8, 4, 16, 32])
def test_the_weights_take_what_was_said(bits: int) -> None:
    base = load_base("seedling", bits=bits, device=torch.device("cpu"))
    said = read_skeleton(TrainConfig(bits=bits)).base_bytes(bits)
    assert said == pytest.approx(held_bytes(base.model), rel=0.005)


@pytest.mark.parametrize(
    ("bits", "tokens", "full", "middle", "copies", "measured"),
    [  # peaks that PyTorch counted on an H200 and an H100 (docs/benchmarks.md)
        (8, 1024, 30, 30, 0, 10.63),
        (8, 1024, 30, 30, 30, 21.90),
        (8, 1024, 0, 30, 0, 8.76),
        (8, 2048, 0, 20, 0, 9.06),
        (4, 2048, 0, 8, 0, 6.24),
        (8, 8192, 30, 30, 0, 27.2),
        (8, 8192, 30, 30, 30, 38.6),
    ],
)
def test_the_forecast_is_what_was_measured(
    bloom: Path, bits: int, tokens: int, full: int, middle: int, copies: int, measured: float
) -> None:
    skeleton = read_skeleton(TrainConfig(model=str(bloom), bits=bits))
    assert skeleton.count.trained == 7_864_320 and skeleton.count.total == 7_076_880_384
    shape = skeleton.shape(bits, reads_int8=bits == 8)
    assert shape is not None
    forecast = peak_bytes(shape, tokens, full, middle, copies) / 2**30
    assert -0.01 < forecast / measured - 1 < 0.03


def test_a_card_is_found_by_name_and_by_memory() -> None:
    assert find_gpu("h100").is_hopper and find_gpu("RTX 4090") == find_gpu("4090") == find_gpu("rtx4090")
    assert find_gpu("24").memory == find_gpu("24GB").memory == 24 * 2**30 and find_gpu("24").tflops is None
    for name, card in {
        "NVIDIA GeForce RTX 4060 Ti": "RTX 4060 Ti",
        "NVIDIA H100 80GB HBM3": "H100",
        "Tesla T4": "T4",
        "NVIDIA A100-SXM4-80GB": "A100",
        "NVIDIA A10G": "A10G",
        "NVIDIA L40S": "L40S",
        "NVIDIA L40": "L40",
        "NVIDIA H100 PCIe": "H100 PCIe",
        "NVIDIA H100 NVL": "H100 NVL",
        "NVIDIA GH200 480GB": "GH200",
        "NVIDIA H200 NVL": "H200 NVL",
        "NVIDIA H200": "H200",
        "NVIDIA GeForce RTX 5070 Ti": "RTX 5070 Ti",
        "NVIDIA RTX 6000 Ada Generation": "RTX 6000 Ada",
        "NVIDIA A40": "A40",
        "NVIDIA RTX A6000": "A6000",
        "NVIDIA A100-SXM4-40GB": "A100-40GB",
        "Tesla V100-SXM2-32GB": "V100-32GB",
    }.items():
        found = find_by_device_name(name)
        assert found is not None and found.name == card, name
    for other in ("Radeon", "NVIDIA L400", "NVIDIA T400 4GB", "NVIDIA A1000"):
        assert find_by_device_name(other) is None, other
    for wrong in ("H900", "", "0", "-3", "24TB"):
        with pytest.raises(UsageError):
            find_gpu(wrong)


@pytest.mark.parametrize(
    ("sold", "card"),
    [
        ("A100-80GB", "A100"),
        ("A100 40GB", "A100-40GB"),
        ("H100 80GB", "H100"),
        ("H200-141GB", "H200"),
        ("RTX A6000", "A6000"),
        ("rtx 4090 24gb", "RTX 4090"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
    ],
)
def test_a_card_is_found_by_the_name_it_is_sold_under(sold: str, card: str) -> None:
    assert find_gpu(sold).name == card
    for wrong in ("RTX 3080 12GB", "A100-96GB", "H100-24GB"):
        with pytest.raises(UsageError):
            find_gpu(wrong)


def test_the_link_of_this_machine_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is streamed from main memory had no rate where the card was not named."""
    monkeypatch.setattr(card_memory, "free_memory", lambda: 8 << 30)
    for name, capability, link in (("NVIDIA GeForce RTX 4060", (8, 9), 15.75), ("NVIDIA RTX 9000", (9, 0), 63.0)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda name=name: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda found=capability: found)
        assert card_memory.this_card().link == link


def test_time_follows_what_was_measured_on_that_card(bloom: Path, english_quotes: Path) -> None:
    """21,476 tokens/s on an H100 at 22 GiB: within a tenth."""
    config = TrainConfig(data=str(english_quotes), model=str(bloom), gpu_memory_limit=22.0)
    found = estimate(config, read_rows_of(config), "H100")
    assert found.step_seconds is not None and not found.tokens_counted
    assert 0.9 < found.tokens_per_row * 16 / found.step_seconds / 21_476 < 1.1
    assert found.num_steps == 426 and found.memory.fits
    shares = [product_share(width) for width in (320, 1024, 1536, 2048, 4096, 14336)]
    assert shares == sorted(shares)


def test_the_time_is_that_of_the_whole_run(tmp_path: Path) -> None:
    """Of held-out rows as often as the run measures them, of samples and of the verdict; not of the steps alone."""
    asked = {"device": "cpu", "max_steps": 5, "eval_every": 2, "output": str(tmp_path / "run"), "verdict_texts": 0}
    config = make_config(asked)
    rows = read_rows_of(config)
    found, longer = (estimate(c, rows, "H100") for c in (config, replace(config, verdict_texts=20)))
    assert found.step_seconds and found.beside_seconds and longer.beside_seconds and found.seconds
    assert found.seconds == pytest.approx(5 * found.step_seconds + found.beside_seconds)
    rarely = estimate(replace(config, eval_every=5), rows, "H100")
    assert rarely.beside_seconds == pytest.approx(found.beside_seconds / 2)  # two evaluations, and four
    assert 0.001 < found.beside_seconds < 10  # of a small model on a fast card
    assert longer.beside_seconds > found.beside_seconds and found.to_json()["beside_seconds"] == found.beside_seconds
    length = plan_length(found.num_rows, config)
    measured = []
    view = NullView()
    view.evaluated = lambda metrics, is_best: measured.append(metrics.step)  # type: ignore[method-assign]
    train_config(config, view, rows)
    assert measured == [0, 2, 4, 5] and length.evaluations == 4


@pytest.mark.parametrize("direction", ["quote", "both"])
def test_the_steps_are_those_of_the_run(direction: str) -> None:
    """Trained both ways each row comes twice."""
    config = make_config({"direction": direction, "device": "cpu"})
    rows = read_rows_of(config)
    found = estimate(config, rows)
    plan = make_ready(prepare(config, NullView(), rows)).plan
    assert (found.num_steps, found.config.epochs) == (plan.length.num_steps, plan.config.epochs)
    assert found.tokens_counted and found.num_rows == (4404 if direction == "both" else 2202)


def test_what_does_not_fit_is_told_with_what_would(
    bloom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["estimate", "--model", str(bloom), "--gpu", "8", "--memory", "lean"]) == 5
    out, err = capsys.readouterr()
    assert "7,069,016,064 parameters" in out and "--bits 4 --memory lean: 5." in out, out
    assert "does not fit" in err and "Use --bits 4 --memory fast, which needs 6." in err
    assert main(["estimate", "--model", str(bloom), "--gpu", "24", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["memory"]["fits"] and found["weight_bytes"] == pytest.approx(7.55 * 2**30, rel=0.01)
    giant = folder_of("bloom-176b", tmp_path)
    assert main(["train", "--dry-run", "--model", str(giant), "--gpu", "8"]) == 5
    assert "a card of 140 GB (H200) with --bits 4 --memory lean" in capsys.readouterr().err
    assert main(["train", "--model", str(bloom), "--gpu", "24"]) == 2 and "--dry-run" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_other_families_and_the_processor_get_an_estimate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    llama = tmp_path / "llama"
    llama.mkdir()
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4}
    (llama / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 1000, **sizes}))
    assert main(["estimate", "--model", str(llama), "--gpu", "T4"]) == 0
    out = capsys.readouterr().out
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in out and "about" in out
    assert main(["estimate", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "its 28 MB are here" in out and "from a matmul timed on this CPU" in out
    assert main(["estimate", "--for", "generate", "--batch", "64", "--gpu", "H200"]) == 0
    assert "64 texts at once" in capsys.readouterr().out


def test_every_card_can_be_named() -> None:
    assert len({card.name for card in CARDS}) == len(CARDS)
    for card in CARDS:
        assert find_gpu(card.name) == card


class _Hub(BaseHTTPRequestHandler):
    """As much of the Hub as has bloom-176b: its description, its config.json. `asked` lists the paths."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/api/models/"):
            sizes = [{"rfilename": f"model-{i}.safetensors", "size": 5_000_000_000} for i in range(70)]
            answer: object = {"id": "bigscience/bloom", "siblings": sizes, "sha": "0" * 40}
        elif self.path.endswith("/config.json"):
            answer = config_of("bloom-176b")
        else:
            self.send_error(404)
            return
        data = json.dumps(answer).encode()
        self.send_response(200)
        for name, value in {"X-Repo-Commit": "0" * 40, "ETag": '"abc"', "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def hub() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), {"asked": asked}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()


def test_a_model_too_large_is_refused_before_it_is_downloaded(tmp_path: Path) -> None:
    """In a process of its own: the Hub client reads its address when it is imported."""
    import os
    import subprocess
    import sys

    with hub() as (address, asked):
        env = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
        env.pop("HF_TOKEN", None)

        train, estimate = "train --device cpu --bits 32", "estimate --gpu H200 --bits 4"
        commands = [[*command.split(), "--model", "bigscience/bloom"] for command in (train, estimate)]
        code = f"from florilegium.cli.main import main; print([main(command) for command in {commands}])"
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.stdout.endswith("[5, 0]\n"), done.stderr
        assert "bigscience/bloom does not fit: its weights take 656.6 GiB in 32 bits" in done.stderr
        assert "350.0 GB" in done.stdout
    assert asked and not [path for path in asked if "safetensors" in path]
    assert not (tmp_path / "runs").exists()


def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    config = TrainConfig(model=str(tmp_path / "nothing"))
    with pytest.raises(ModelError, match="no model folder"):
        read_skeleton(config)


def test_each_card_of_a_pipeline_has_its_own_blocks(bloom: Path) -> None:
    """And the activations of as many micro-batches as are under way there; a step waits for the first to come through."""
    config = make_config({"model": str(bloom), "batch_size": 128, "memory": "fast"})
    rows = read_rows_of(config)
    one = estimate(config, rows, "H100")
    two = estimate(
        make_config({"model": str(bloom), "batch_size": 128, "memory": "fast", "parallel": "pipeline"}), rows, "H100", 2
    )
    assert two.cards is not None and [str(stage) for stage in two.cards.stages] == ["1-18", "19-30"]
    assert two.memory.needed == max(two.cards.needed) < one.memory.needed
    # both hold the embedding, which is the head too
    assert sum(two.cards.needed) > one.memory.needed
    assert one.step_seconds is not None and two.step_seconds is not None
    assert 0.5 < two.step_seconds / one.step_seconds < 1.5
    assert two.to_json()["cards"] == {
        "number": 2,
        "parallel": "pipeline",
        "stages": ["1-18", "19-30"],
        "needed_bytes": list(two.cards.needed),
    }


def test_copies_share_a_step(bloom: Path) -> None:
    config = make_config({"model": str(bloom), "batch_size": 128, "memory": "fast"})
    rows = read_rows_of(config)
    one, two = (estimate(config, rows, "H100", gpus) for gpus in (1, 2))
    assert two.cards is not None and two.cards.stages == () and two.cards.needed == (two.memory.needed,) * 2
    assert one.step_seconds is not None and two.step_seconds is not None
    assert two.memory.needed < one.memory.needed and 0.45 < two.step_seconds / one.step_seconds < 0.6


def test_a_base_larger_than_a_card_is_estimated_on_two(bloom: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["estimate", "--model", str(bloom), "--gpu", "8", "--lora-rank", "16", "--memory", "lean"]
    assert main(given) == 5 and main([*given, "--gpus", "2"]) == 0
    assert "that is the fullest of 2, a pipeline: blocks 1-18 " in capsys.readouterr().out
    assert main([*given, "--parallel", "pipeline"]) == 2
    assert "Add --gpus N" in capsys.readouterr().err
