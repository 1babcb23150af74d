"""`florilegium runs` and `doctor`: what they list, what they remove, and what they must not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from florilegium.cli.main import main
from florilegium.cli.parser import build_parser
from florilegium.errors import ModelError
from florilegium.runs.listing import TRAINING, list_runs
from florilegium.storage.run_directory import find_run
from florilegium.storage.run_lock import is_locked, locked
from tests.rights import without_rights


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs, one finished and one stopped, and a folder that is none."""
    monkeypatch.chdir(tmp_path)
    for name, finished in (("alpha", True), ("beta", False)):
        run = tmp_path / "runs" / name
        (run / "checkpoints" / "step-00000002").mkdir(parents=True)
        (run / "checkpoints" / "step-00000002" / "state.json").write_text("{}" * 500)
        (run / "config.yaml").write_text("data: quotes.jsonl\nmodel: seedling\nrank: 4\n")
        (run / "manifest.json").write_text(json.dumps({"steps": 2, "eval_loss_before": 5.0, "eval_loss": 4.25}))
        os.utime(run / "config.yaml", (1e9, 1e9 if finished else 2e9))
        if finished:
            (run / "adapter").mkdir()
            (run / "adapter" / "adapter_config.json").write_text("{}")
            (run / "evaluation.json").write_text('{"tuned": {"written_tags": {"micro_f1": {"value": 0.5}}}}')
    (tmp_path / "runs" / "notes").mkdir()
    return tmp_path / "runs"


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    assert main(["runs", "--json"]) == 0
    return {run["name"]: run for run in json.loads(capsys.readouterr().out)}


def test_runs_are_listed(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys)
    assert list(found) == ["alpha", "beta"]  # the oldest first
    assert found["alpha"]["status"] == "finished" and found["beta"]["status"] == "stopped"
    assert found["alpha"]["tag_f1"] == 0.5 and found["beta"]["tag_f1"] is None
    assert found["alpha"]["loss"] == 4.25 and found["alpha"]["data"] == "quotes.jsonl"
    assert found["beta"]["bytes"] == sum(p.stat().st_size for p in (shelf / "beta").rglob("*") if p.is_file())
    assert main(["runs"]) == 0
    shown = capsys.readouterr().out
    assert "5.000 -> 4.250" in shown and "0.50" in shown and "notes" not in shown


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="rights are another matter on Windows")
@pytest.mark.parametrize("rights", [0o000, 0o644])  # nothing, and names alone
@pytest.mark.parametrize("locked_part", ["", "adapter", "checkpoints"])
def test_a_run_that_may_not_be_looked_into_hides_no_other(
    shelf: Path, capsys: pytest.CaptureFixture[str], locked_part: str, rights: int
) -> None:
    """Listed without it, and told where it is named."""
    shelf.parent.chmod(0o755)
    main(["runs"])  # imports what another user may not read here
    with without_rights(shelf / "alpha" / locked_part, rights):
        found = listed(capsys) if main(["runs"]) == 0 and capsys.readouterr() else {}
        assert "beta" in found and ("alpha" in found) == bool(locked_part)
        with pytest.raises(ModelError, match="no run or adapter at gamma.*Runs here: beta"):
            find_run("gamma")
        if locked_part == "":
            with pytest.raises(ModelError, match=r"runs/alpha: permission denied.*chmod u\+rx runs/alpha"):
                find_run("alpha")
        if locked_part != "checkpoints":
            with pytest.raises(ModelError, match="no finished run in runs/"):
                find_run("latest")


def test_listing_leaves_no_trace_and_sees_a_run_that_trains(shelf: Path) -> None:
    before = sorted(shelf.rglob("*"))
    list_runs()
    assert sorted(shelf.rglob("*")) == before
    with locked(shelf / "beta"):
        assert is_locked(shelf / "beta")
        assert {run.name: run.status for run in list_runs()}["beta"] == TRAINING
    assert not is_locked(shelf / "beta")


def test_a_run_is_renamed(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "rename", "alpha", "gamma"]) == 0
    assert set(listed(capsys) if capsys.readouterr() else {}) == {"beta", "gamma"}
    for name in ("beta", "../x", "a b", ""):
        assert main(["runs", "rename", "gamma", name]) == 2
    assert (shelf / "gamma").is_dir() and (shelf / "beta").is_dir()


def test_a_run_is_removed_when_somebody_says_yes(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "rm", "alpha"]) == 2 and "--yes" in capsys.readouterr().err
    assert (shelf / "alpha").is_dir()
    assert main(["runs", "rm", "alpha", "--yes", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["removed"] == ["runs/alpha"] and answer["bytes"] > 1000
    assert sorted(p.name for p in shelf.iterdir()) == ["beta", "notes"]


def test_what_is_no_run_or_trains_is_not_removed(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(shelf / "alpha")
    for name, code in (("notes", 4), (str(tmp_path / "link"), 2), ("nosuch", 4), (".", 4)):
        assert main(["runs", "rm", name, "--yes"]) == code
    with locked(shelf / "beta"):
        assert main(["runs", "rm", "beta", "--yes"]) == 2
    assert main(["runs", "rm"]) == 2
    assert sorted(p.name for p in shelf.iterdir()) == ["alpha", "beta", "notes"]


def test_prune_takes_the_checkpoints_of_finished_runs_only(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "prune", "-y"]) == 0
    assert "1 finished run" in capsys.readouterr().out
    assert not (shelf / "alpha" / "checkpoints").exists() and (shelf / "alpha" / "adapter").is_dir()
    assert main(["runs", "prune", "beta", "-y"]) == 0
    assert (shelf / "beta" / "checkpoints" / "step-00000002" / "state.json").is_file()


def test_a_page_is_opened(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "open", "alpha"]) == 2 and "florilegium report" in capsys.readouterr().err
    (shelf / "alpha" / "report.html").write_text("<p>")
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)) or True)
    assert main(["runs", "open", "alpha"]) == 0
    assert opened == [(shelf / "alpha" / "report.html").resolve().as_uri()]


@pytest.mark.parametrize("prompt", ["runs/alpha", "runs/beta", "runs/alpha/adapter"])
def test_a_run_in_place_of_a_prompt_is_told(shelf: Path, prompt: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", prompt]) == 2
    assert f"is a run. Type: --run {prompt}" in capsys.readouterr().err


def test_doctor_reports_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = {check["name"]: check["found"] for check in report["checks"]}
    assert torch.__version__ in found["torch"] and "NF4 works" in found["bitsandbytes"] and "hub" not in found
    assert "peft" in found["libraries"] and found["disk"].endswith("GB free")


def test_doctor_says_what_is_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise ImportError("libcudart.so.13: cannot open shared object file,\nwhich is the reason")

    monkeypatch.setattr("florilegium.model.bitsandbytes_import.import_bitsandbytes", broken)
    assert main(["doctor", "--hub"]) == 0
    shown = capsys.readouterr().out
    assert "fails (ImportError: libcudart.so.13: cannot open shared object file, which is the reason)" in shown
    assert "HF_HUB_OFFLINE is set" in shown and "problems found" in shown


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "--run"],
        ["chat"],
        ["chat", "--run"],
        ["serve"],
        ["serve", "--run"],
        ["evaluate"],
        ["report"],
        ["resume"],
        ["export"],
        ["push"],
        ["push", "--run"],
        ["push", "--dry-run", "--run"],
    ],
)
def test_a_run_that_is_not_there_is_told_with_those_that_are(
    shelf: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    rest = ["me/quotes"] if command[0] == "push" else []
    assert main([*command, "alpah", *rest]) == 4
    told = capsys.readouterr().err
    assert "no run or adapter at alpah. Did you mean 'alpha'? Runs here:" in told
    assert "alpha" in told and "beta (stopped)" in told and "notes" not in told


@pytest.mark.parametrize(
    "words",
    [
        ["alpha", "me/quotes", "--dry-run"],
        ["--run", "alpha", "me/quotes", "--dry-run"],
        ["me/quotes", "--dry-run", "-r", "alpha"],
        ["--dry-run", "--run=alpha", "me/quotes"],
        ["alpha", "--dry-run", "me/quotes"],
    ],
)
def test_push_takes_its_run_in_every_order(words: list[str]) -> None:
    flags = build_parser().parse_known(["push", *words])
    assert (flags.run, flags.repo, flags.dry_run) == ("alpha", "me/quotes", True)


def test_a_run_that_has_not_finished_is_told_how_to(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--run", "beta"]) == 4
    assert "runs/beta has not finished. Type: florilegium resume runs/beta" in capsys.readouterr().err
