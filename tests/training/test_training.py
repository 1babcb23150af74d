"""A run from rows to adapter on a tiny BLOOM in int8: what it leaves, that it repeats itself, and that a stop changes
nothing."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import florilegium
from florilegium.config import make_config
from florilegium.report.quote_cards import prompt_cards
from florilegium.runs.recorder import NullView
from florilegium.storage.run_directory import RunDirectory
from florilegium.tokens import PackPlan, pack
from florilegium.training import Progress, StepMetrics, Trainer, load_checkpoint, newest_valid
from florilegium.training.checkpoint import find_problem

QUOTES = [
    {"quote": f"{a} {b} {c}.", "tags": [b, c]}
    for a in ("Be kind to", "Time is", "Leave open", "The sea and", "A boat on")
    for b in ("hope", "kindness", "river")
    for c in ("home", "sea", "door", "time")
]


@pytest.fixture(scope="module")
def quotes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "quotes.jsonl"
    path.write_text("".join(json.dumps(q) + "\n" for q in QUOTES))
    return path


def settings(tiny: Path, output: Path, **more) -> dict:
    return {
        "model": str(tiny),
        "output": str(output),
        "epochs": 2.0,
        "batch_rows": 8,
        "evaluate_every": 5,
        "verdict_texts": 0,
        **more,
    }


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def finished(tiny: Path, quotes: Path, tmp_path_factory: pytest.TempPathFactory):
    return florilegium.train(quotes, **settings(tiny, tmp_path_factory.mktemp("runs") / "first"))


def test_samples_keep_their_prompts_whatever_the_columns_are_called(tiny: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trained = florilegium.train(
        tmp_path / "rows.jsonl", **settings(tiny, tmp_path / "run", evaluate_every=1, max_steps=1, epochs=None)
    )
    assert trained.tuned.template.text == "{prompt} ->: {completion}"
    samples = RunDirectory(trained.directory).read_samples()
    assert all(set(row["columns"]) == {"prompt", "completion"} for row in samples)
    cards = prompt_cards(samples)
    assert cards[0].prompt == "" and "None" not in {one.prompt for one in cards}
    assert all(one.before and (one.before.step, one.after.step) == (0, 1) for one in cards)


def test_leaves_a_run_directory(finished) -> None:
    run = finished.directory
    assert {p.name for p in run.iterdir()} >= {
        "config.yaml",
        "manifest.json",
        "metrics.jsonl",
        "samples.jsonl",
        "adapter",
        "checkpoints",
    }
    assert {p.name for p in (run / "adapter").iterdir()} >= {
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md", "florilegium.json",
    }  # fmt: skip
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [r for r in rows if "loss" in r]
    wanted = "step epoch loss learning_rate grad_norm tokens tokens_per_second padding_share peak_memory_bytes elapsed_seconds"
    assert all(r.keys() >= set(wanted.split()) for r in steps) and [r["step"] for r in steps] == list(
        range(1, len(steps) + 1)
    )
    looks = [r["step"] for r in rows if "eval_loss" in r]
    assert looks[0] == 0 and looks[-1] == steps[-1]["step"]
    assert finished.figures["eval_loss"] < finished.figures["eval_loss_before"]
    mode = (run / "adapter" / "adapter_model.safetensors").stat().st_mode & 0o777
    umask = os.umask(0o022)  # it cannot be read without being set
    os.umask(umask)
    assert mode == 0o666 & ~umask
    assert not [p for p in run.rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".pth")]
    card = (run / "adapter" / "README.md").read_text()
    assert "More Information Needed" not in card and str(Path.home()) not in card


def test_stock_peft_loads_the_adapter_with_the_same_logits(finished, tiny: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from florilegium.model import hidden_states, load_base
    from florilegium.tokens import Example

    adapter = finished.directory / "adapter"
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32), adapter).eval()
    base = load_base(str(tiny), bits=32, device=torch.device("cpu"))
    ours = florilegium.model.load_adapter(base, adapter)
    ids = [5, 60, 7, 200, 9, 33]
    (batch,) = pack([Example(ids, [True] * 6)], PackPlan())
    with torch.no_grad():
        hidden = hidden_states(florilegium.model.LoadedModel(base, ours), batch)[0, :5]
        theirs = stock(torch.tensor([ids])).logits[0, :5]
        assert torch.allclose(hidden @ ours.get_output_embeddings().weight.T, theirs, atol=1e-5)
        bare = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)(torch.tensor([ids])).logits[0, :5]
    assert not torch.allclose(bare, theirs, atol=1e-3)  # the adapter does something


def test_same_seed_same_bits_and_another_seed_others(finished, tiny: Path, quotes: Path, tmp_path: Path) -> None:
    again = florilegium.train(quotes, **settings(tiny, tmp_path / "again"))
    assert same(weights(finished.directory), weights(again.directory))
    other = florilegium.train(quotes, **settings(tiny, tmp_path / "other", seed=1))
    assert not same(weights(finished.directory), weights(other.directory))


class StopAt(NullView):
    """Sends the process a signal after step `at`, as a person would."""

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, metrics: StepMetrics, num_steps: int) -> None:
        import os
        import signal

        if metrics.step == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("step", [1, 5, 8])
def test_a_stop_saves_and_resume_gives_the_same_bits(
    finished, tiny: Path, quotes: Path, tmp_path: Path, step: int
) -> None:
    with pytest.raises(florilegium.Interrupted) as stopped:
        florilegium.train(quotes, **settings(tiny, tmp_path / "run"), view=StopAt(step))
    assert stopped.value.exit_code == 143 and "resume" in stopped.value.fix
    assert not (tmp_path / "run" / "adapter").exists()
    florilegium.resume(tmp_path / "run")
    assert same(weights(finished.directory), weights(tmp_path / "run"))
    steps = [json.loads(line).get("step") for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_resume_falls_back_from_a_damaged_checkpoint(finished, tiny: Path, quotes: Path, tmp_path: Path) -> None:
    with pytest.raises(florilegium.Interrupted):
        florilegium.train(quotes, **settings(tiny, tmp_path / "run"), view=StopAt(8))
    newest = tmp_path / "run" / "checkpoints" / "step-00000008"
    damaged = bytearray((newest / "optimizer.safetensors").read_bytes())
    damaged[-5] ^= 1
    (newest / "optimizer.safetensors").write_bytes(damaged)
    assert find_problem(newest).startswith("optimizer.safetensors failed its checksum")
    checkpoint, skipped = newest_valid(newest.parent)
    assert checkpoint is not None and checkpoint.name == "step-00000005" and "step-00000008 skipped" in skipped[0]
    florilegium.resume(tmp_path / "run")
    assert same(weights(finished.directory), weights(tmp_path / "run"))


def test_resume_refuses_other_rows(tiny: Path, quotes: Path, tmp_path: Path) -> None:
    data = tmp_path / "quotes.jsonl"
    data.write_text(quotes.read_text())
    with pytest.raises(florilegium.Interrupted):
        florilegium.train(data, **settings(tiny, tmp_path / "run"), view=StopAt(3))
    data.write_text(quotes.read_text().replace("Be kind", "Be good"))
    with pytest.raises(florilegium.DataError, match="has changed since"):
        florilegium.resume(tmp_path / "run")


def test_one_batch_of_eight_equals_eight_of_one(finished, quotes: Path) -> None:
    """The gradient of a step does not depend on how its quotes are held in memory."""
    trainer, examples = bare_trainer(finished, quotes)
    gradients = []
    for plan in (PackPlan(256, 8, 100_000), PackPlan(8, 1, 8), PackPlan(256, 8, 100_000, separate=True)):
        trainer.plan = plan
        batches = pack(examples, plan)
        total = sum(b.num_targets for b in batches)
        trainer.loaded.model.zero_grad()
        for batch in batches:
            (florilegium.token_losses(trainer.loaded, batch, trainer.options).sum() / total).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.loaded.model.parameters() if p.requires_grad]))
        assert len(batches) == (1 if plan.batch_tokens == 100_000 and not plan.separate else len(batches))
    assert len(pack(examples, PackPlan(8, 1, 8))) == 8
    for other in gradients[1:]:
        assert (gradients[0] - other).norm() / gradients[0].norm() < 1e-5


def bare_trainer(finished, quotes: Path):
    """A Trainer in float32 without dropout on the finished run's base, and eight examples."""

    from florilegium.data import read_rows
    from florilegium.model import ForwardOptions, LoadedModel, attach_adapter, load_base
    from florilegium.training import make_lr_scheduler, make_optimizer

    config = make_config({"rank": 4, "dropout": 0.0, "bits": 32, "batch_rows": 8})
    base = load_base(finished.figures["base"]["name"], bits=32, device=torch.device("cpu"))
    torch.manual_seed(0)
    model = attach_adapter(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    rows = read_rows(quotes)
    examples = florilegium.encode(base.tokenizer, rows.template, rows.quotes[:8]).examples
    optimizer = make_optimizer(model, config, 1e-3)
    trainer = Trainer(
        LoadedModel(base, model),
        config,
        ForwardOptions(("chunked-loss",)),
        PackPlan(),
        optimizer,
        make_lr_scheduler(optimizer, config, 10),
    )
    return trainer, examples


def test_out_of_memory_takes_the_same_step_in_smaller_pieces(
    finished, quotes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from florilegium.training import step as loop
    from florilegium.training.loop import training_step

    class Notes(NullView):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def note(self, line: str) -> None:
            self.lines.append(line)

    losses, notes = [], Notes()
    true_losses = loop.token_losses
    for limit in (10**9, 40):
        trainer, examples = bare_trainer(finished, quotes)

        def limited(loaded, batch, options, limit=limit):
            if batch.tokens_BT.numel() > limit:
                raise torch.OutOfMemoryError("injected")
            return true_losses(loaded, batch, options)

        monkeypatch.setattr(loop, "token_losses", limited)
        metrics = training_step(trainer, examples, notes)
        losses.append((metrics.loss, metrics.grad_norm))
    assert notes.lines and "out of memory" in notes.lines[0]
    assert math.isclose(losses[0][0], losses[1][0], rel_tol=1e-6) and math.isclose(
        losses[0][1], losses[1][1], rel_tol=1e-5
    )


def test_nan_stops_the_run(tiny: Path, quotes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from florilegium.training import step as loop

    true_losses, calls = loop.token_losses, []

    def poisoned(loaded, batch, options):
        calls.append(1)
        return true_losses(loaded, batch, options) * (math.nan if len(calls) == 9 else 1)

    monkeypatch.setattr(loop, "token_losses", poisoned)
    with pytest.raises(florilegium.DivergedError) as error:
        florilegium.train(quotes, **settings(tiny, tmp_path / "run"))
    assert error.value.exit_code == 6 and not (tmp_path / "run" / "adapter").exists()
    checkpoint, _ = newest_valid(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None and all(torch.isfinite(t).all() for t in load_checkpoint(checkpoint).adapter.values())


def test_step_with_nan_updates_nothing(finished, quotes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither weights nor moments nor schedule: on CUDA the next step is on its way before anybody has looked at this
    one."""
    from florilegium.training import step as taking

    trainer, examples = bare_trainer(finished, quotes)
    taking.take_step(trainer, pack(examples, trainer.plan)).result()
    before = trainer.snapshot(Progress(), {})
    moments = [value.clone() for state in before.optimizer["state"].values() for value in state.values()]
    true_losses = taking.token_losses
    monkeypatch.setattr(taking, "token_losses", lambda *arguments: true_losses(*arguments) * math.nan)
    step = taking.take_step(trainer, pack(examples, trainer.plan))
    with pytest.raises(florilegium.DivergedError, match="the update was skipped"):
        step.result()
    after = trainer.snapshot(Progress(), {})
    assert same(before.adapter, after.adapter) and before.lr_scheduler == after.lr_scheduler
    now = [value for state in after.optimizer["state"].values() for value in state.values()]
    assert all(torch.equal(a, b) for a, b in zip(moments, now, strict=True))
    assert all(p.grad is None for p in trainer.parameters)


def test_patience_stops_early_and_keeps_the_best(tiny: Path, quotes: Path, tmp_path: Path) -> None:
    trained = florilegium.train(
        quotes,
        **settings(tiny, tmp_path / "run", learning_rate=3.0, patience=2, evaluate_every=1, epochs=6.0, clip=0.0),
    )
    assert trained.figures["steps"] < trained.figures["planned_steps"]
    best = min(trained.figures["eval_loss"], trained.figures["eval_loss_before"])
    assert trained.figures["eval_loss"] == best and trained.figures["best_step"] < trained.figures["steps"]


def test_a_run_is_never_overwritten(finished, tiny: Path, quotes: Path) -> None:
    before = weights(finished.directory)
    with pytest.raises(florilegium.UsageError, match="already there") as error:
        florilegium.train(quotes, **settings(tiny, finished.directory))
    assert error.value.exit_code == 2 and same(before, weights(finished.directory))


@pytest.mark.parametrize("more", [{"dora": True}, {"init_lora": "pissa"}, {"init_lora": "orthogonal"}])
def test_what_int8_cannot_take_is_refused_before_loading(quotes: Path, tmp_path: Path, more: dict) -> None:
    with pytest.raises(florilegium.UsageError, match="full-precision base weights"):
        florilegium.train(quotes, model="/no/such/model", output=str(tmp_path / "run"), **more)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("more", [{"rslora": True}, {"lora_plus_ratio": 4.0}, {"neftune_alpha": 5.0}, {"bits": 4}, {"bits": 16},
                                  {"memory": "lean"},
                                  {"loss_on": "tags"}, {"schedule": "linear"}, {"target_modules": "dense"}, {"fast": "off"}])  # fmt: skip
def test_every_knob_trains(tiny: Path, quotes: Path, tmp_path: Path, more: dict) -> None:
    trained = florilegium.train(quotes, **settings(tiny, tmp_path / "run", max_steps=6, **more))
    assert trained.figures["eval_loss"] < trained.figures["eval_loss_before"]


def test_a_list_may_come_first(tiny: Path, quotes: Path, tmp_path: Path) -> None:
    trained = florilegium.train(quotes, **settings(tiny, tmp_path / "run", max_steps=4, template="{tags} ->: {quote}"))
    assert trained.tuned.generate("hope", n=1, max_new_tokens=3)[0].text.startswith("hope")


def test_an_optimiser_state_with_a_dict_inside_goes_to_disk_and_back() -> None:
    """bitsandbytes' 8-bit AdamW keeps its quantisation state so."""
    from florilegium.training.saved_state import flatten, unflatten

    inner = {"absmax1": torch.ones(3), "qmap1": torch.zeros(4)}
    state = {
        "state": {0: {"step": 7, "state1": torch.ones(2), "__quant__": inner}},
        "param_groups": [{"lr": 1.0, "betas": (0.9, 0.99)}],
    }
    tensors, rest = flatten(state)
    again = unflatten(tensors, json.loads(json.dumps(rest)))
    assert again["state"][0]["step"] == 7 and again["state"][0]["__quant__"].keys() == inner.keys()
    assert again["param_groups"] == state["param_groups"]


def test_a_checkpoint_of_an_earlier_version_is_read(finished, tmp_path: Path) -> None:
    """Its state.json counts evaluations under another name."""
    import hashlib
    import json
    import shutil

    newest, _ = newest_valid(finished.directory / "checkpoints")
    assert newest is not None
    older = shutil.copytree(newest, tmp_path / newest.name)
    state, manifest = (json.loads((older / name).read_text()) for name in ("state.json", "manifest.json"))
    state["progress"]["looks_since_best"] = state["progress"].pop("evaluations_since_best") + 3
    data = json.dumps(state).encode()
    (older / "state.json").write_bytes(data)
    manifest["files"]["state.json"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (older / "manifest.json").write_text(json.dumps(manifest))
    expected = load_checkpoint(newest).progress.evaluations_since_best + 3
    assert load_checkpoint(older).progress.evaluations_since_best == expected
