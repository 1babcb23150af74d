"""A run as an earlier version left it, with the names that settings had then: it is still read, reported and resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import florilegium
from florilegium.config import RENAMED
from florilegium.config.renamed import RENAMED_KERNELS, RENAMED_VALUES
from florilegium.report import read_run, write_report
from florilegium.runs.listing import FINISHED, STOPPED, summarise
from florilegium.runs.resume import resume
from florilegium.storage.run_directory import RunDirectory
from tests.model.small_families import make_model
from tests.tiny import PAGES, make_tokenizer

# The settings of version 0.1.0 of November 2026, in its order.
OLD_SETTINGS = (
    "data", "template", "skip_bad_rows", "repair", "held_out", "split_by", "max_length", "loss_on", "model",
    "revision", "bits", "device", "compute", "fast", "memory", "memory_limit", "rank", "alpha", "dropout",
    "target_modules", "rslora", "dora", "init_lora", "epochs", "max_steps", "batch_rows", "order", "batch_tokens",
    "learning_rate", "schedule", "warmup", "weight_decay", "clip", "optimizer", "lora_plus_ratio", "neftune_alpha",
    "seed", "evaluate_every", "patience", "save_every", "keep_checkpoints", "log_every", "output", "force", "report_to",
)  # fmt: skip


def old_names(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings under their old names, with the values that were spelled otherwise."""
    values = dict(settings)
    for name, renamed in RENAMED_VALUES.items():
        values[name] = {new: old for old, new in renamed.items()}.get(values[name], values[name])
    kernels = {new: old for old, new in RENAMED_KERNELS.items()}
    values["kernels"] = ",".join(kernels.get(part, part) for part in values["kernels"].split(","))
    return {old: values[RENAMED.get(old, old)] for old in OLD_SETTINGS if RENAMED.get(old, old) in values}


def make_old(run: Path) -> None:
    """Writes config.yaml and the checkpoints' facts as that version did."""
    config = run / "config.yaml"
    settings = old_names(yaml.safe_load(config.read_text()))
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    for manifest in run.glob("checkpoints/*/manifest.json"):
        facts = json.loads(manifest.read_text())
        facts["run"]["settings"] = old_names(facts["run"]["settings"])
        manifest.write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def old_run(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    folder = tmp_path_factory.mktemp("old")
    rows = [{"quote": f"Be kind to the {w} number {i}.", "tags": [w]} for i in range(9) for w in ("sea", "home")]
    (folder / "quotes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"max_steps": 2, "batch_size": 4, "split_by": "random", "lora_rank": 4, "output": str(folder / "run")}
    florilegium.train(str(folder / "quotes.jsonl"), model=str(tiny), **settings)
    make_old(folder / "run")
    return folder / "run"


def test_the_old_names_are_there(old_run: Path) -> None:
    settings = yaml.safe_load((old_run / "config.yaml").read_text())
    assert settings["rank"] == 4 and settings["batch_rows"] == 4 and settings["fast"] == "linear,loss"
    assert not set(settings) & set(RENAMED.values())


def test_an_old_run_is_read(old_run: Path) -> None:
    assert florilegium.load(old_run).generate("Be", max_new_tokens=3)[0].text.startswith("Be")
    assert read_run(old_run).config["lora_rank"] == 4
    assert write_report(old_run).is_file()
    summary = summarise(RunDirectory(old_run))
    assert (summary.status, summary.steps) == (FINISHED, 2) and summary.loss is not None


def test_an_old_run_is_resumed(old_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(old_run, run)
    shutil.rmtree(run / "adapter")
    assert summarise(RunDirectory(run)).status == STOPPED
    trained = resume(run, max_steps=4)
    assert trained.figures["steps"] == 4
    events = [json.loads(line)["event"] for line in (run / "events.jsonl").read_text().splitlines()]
    assert "resuming at step 2" in events and "changed max_steps from 2 to 4" in events
    assert yaml.safe_load((run / "config.yaml").read_text())["lora_rank"] == 4


def test_what_cannot_change_is_compared_under_its_new_name(old_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(old_run, run)
    shutil.rmtree(run / "adapter")
    with pytest.raises(florilegium.UsageError, match="--lora-rank cannot change when resuming"):
        resume(run, rank=8)


@pytest.mark.parametrize("goes_on", ["resume", "from"])
def test_auto_means_the_linears_that_it_meant_then(tmp_path: Path, goes_on: str) -> None:
    """Of other families it was query, key and value, and is every linear now."""
    make_model("Llama").save_pretrained(tmp_path / "llama")
    make_tokenizer().save_pretrained(tmp_path / "llama")
    rows = [{"quote": f"Be kind to the {w} number {i}.", "tags": [w]} for i in range(9) for w in ("sea", "home")]
    (tmp_path / "quotes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"bits": 32, "max_steps": 2, "batch_size": 4, "split_by": "random", "lora_rank": 4, "verdict_texts": 0}
    run, then = tmp_path / "run", "k_proj,q_proj,v_proj"
    quotes, output = str(tmp_path / "quotes.jsonl"), str(run)
    florilegium.train(quotes, model=str(tmp_path / "llama"), output=output, target_modules=then, **settings)
    for file in (run / "config.yaml", *run.glob("checkpoints/*/manifest.json")):
        file.write_text(file.read_text().replace(then, "auto"))
    if goes_on == "resume":
        shutil.rmtree(run / "adapter")
        trained = resume(run, max_steps=4)
    else:
        trained = florilegium.train(start_from=str(run), output=str(tmp_path / "further"), max_steps=2)
    assert trained.figures["steps"] == (4 if goes_on == "resume" else 2)
    config = json.loads((RunDirectory(trained.directory).adapter / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == then.split(",")


@pytest.fixture
def made_then(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run as the program of commit 556613a left it, byte by byte (but for report.html, loss.png and an older
    checkpoint), with its rows and its base beside it."""
    monkeypatch.chdir(tmp_path)
    rows = [{"quote": f"Be kind to the {w} number {i}.", "tags": [w]} for i in range(9) for w in ("sea", "home")]
    (tmp_path / "quotes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(tiny, tmp_path / "tiny")
    shutil.copytree(Path(__file__).parent / "run_of_556613a", tmp_path / "old-run")
    return tmp_path / "old-run"


def test_a_run_made_by_that_version_is_listed_reported_written_with_and_evaluated(made_then: Path) -> None:
    summary = summarise(RunDirectory(made_then))
    assert (summary.status, summary.steps, summary.model) == (FINISHED, 2, "tiny")
    assert "6.351" in write_report(made_then).read_text() and read_run(made_then).config["lora_rank"] == 4
    assert florilegium.load("old-run").generate("Be", max_new_tokens=3)[0].text.startswith("Be")
    report = florilegium.evaluate("old-run", generations=1, rows=2, general=str(PAGES))
    assert report["held_out_rows"] == 2 and report["tuned"]["loss"]["value"] == pytest.approx(6.351, abs=0.01)


def test_a_run_made_by_that_version_is_resumed_and_trained_further(made_then: Path) -> None:
    shutil.copytree(made_then, "stopped")
    shutil.rmtree("stopped/adapter")
    assert resume("stopped", max_steps=3).figures["steps"] == 3
    further = florilegium.train(start_from="old-run", max_steps=1, output="further", verdict_texts=0)
    assert further.figures["eval_loss_before"] == pytest.approx(6.351, abs=0.01)
