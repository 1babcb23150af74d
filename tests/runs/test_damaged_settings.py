"""A run's config.yaml that is damaged, cut, edited, gone or no file: every command that needs it says so in one line,
exit 4, and touches nothing; one that does not need it does its work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from florilegium.cli.main import main
from florilegium.config import dump_config, make_config, read_run_config
from florilegium.errors import ModelError
from florilegium.storage.run_directory import RunDirectory

# kind -> what is done to config.yaml, and what the line says of it
KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_text(""), "'data' is missing"),
    "bytes": (lambda path: path.write_bytes(bytes(range(256))), "not YAML"),
    "no YAML": (lambda path: path.write_text("model: [seedling\n"), "config.yaml:2: not YAML"),
    "a list": (lambda path: path.write_text("- a\n- b\n"), "holds no settings"),
    "another encoding": (lambda path: path.write_text(path.read_text(), encoding="utf-16"), "not YAML"),
    "NUL": (lambda path: path.write_bytes(path.read_bytes().replace(b"\n", b"\0")), "not YAML"),
    "cut": (
        lambda path: path.write_text(path.read_text()[: path.read_text().index("warmup_ratio")]),
        "'seed' is missing",
    ),
    "unknown setting": (lambda path: path.write_text(path.read_text() + "frobnicate: 3\n"), "'frobnicate'"),
    "no number": (lambda path: _write(path, "lora_rank: 16", "lora_rank: many"), "lora_rank is 'many'"),
    "out of range": (lambda path: _write(path, "lora_rank: 16", "lora_rank: -4"), "lora_rank is -4"),
    "too large": (lambda path: path.write_text("# " + "x" * 2**20), "over 1,048,576 bytes"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "not a plain file"),
    "a link to nothing": (lambda path: (path.unlink(), path.symlink_to("nothing")), "not a plain file"),
    "gone": (lambda path: path.unlink(), "lost its config.yaml"),
}
if hasattr(os, "mkfifo"):
    KINDS["a FIFO"] = (lambda path: (path.unlink(), os.mkfifo(path)), "not a plain file")


def _write(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The files of a finished run, as far as these commands look before they refuse."""
    folder = tmp_path / "runs" / "my run"
    (folder / "adapter").mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(make_config({"data": "sample", "model": "seedling"})))
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("")
    return folder


def refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an expected failure with exit 4."""
    capsys.readouterr()
    assert main(command) == 4, command
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("loading PyTorch")]
    return line


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_told_for_what_it_is(kind: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, cause = KINDS[kind]
    stopped = tmp_path / "runs" / "stopped"
    shutil.copytree(run, stopped)
    shutil.rmtree(stopped / "adapter")
    for folder in (run, stopped):
        damage(folder / "config.yaml")
    new = ["--output", str(tmp_path / "new")]
    for command in (
        ["evaluate", str(run)],
        ["resume", str(stopped)],
        ["resume", str(run), "--epochs", "9"],
        *([["train", "--from", str(run), *new]] if kind != "gone" else []),  # its adapter is one, and wants DATA
    ):
        line = refused(command, capsys)
        assert cause in line and "config.yaml" in line and "Put back" in line, (command, line)
    assert not (tmp_path / "new").exists() and sorted(os.listdir(tmp_path / "runs")) == ["my run", "stopped"]


def test_what_can_be_done_without_it_is_in_the_line_that_can_be_pasted(run: Path) -> None:
    (run / "config.yaml").write_text("")
    with pytest.raises(ModelError, match=f"florilegium generate --run '{run}'"):
        read_run_config(run / "config.yaml")


def test_the_report_is_made_of_the_rest_and_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "config.yaml").write_text("model: [seedling\n")
    assert main(["report", str(run)]) == 0
    printed = capsys.readouterr()
    assert "note: " in printed.err and "config.yaml:2: not YAML" in printed.err
    assert printed.out.strip() == str(run / "report.html") and (run / "report.html").is_file()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are none here")
@pytest.mark.parametrize("name", ["manifest.json", "metrics.jsonl", "samples.jsonl", "data.json", "evaluation.json"])
def test_what_can_be_left_out_is_not_waited_for(name: str, run: Path) -> None:
    """A FIFO that nobody writes to."""
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    directory = RunDirectory(run)
    assert directory.read_manifest() == directory.read_data_report() == directory.read_evaluation() == {}
    assert directory.read_metrics() == directory.read_samples() == []


def test_a_folder_that_is_no_run_names_those_that_are(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for command in (
        ["evaluate", "pictures"],
        ["report", "pictures"],
        ["resume", "pictures"],
        ["runs", "rm", "pictures"],
    ):
        line = refused(command, capsys)
        assert ("is not a run" in line or "holds no adapter" in line) and "Runs here: my run" in line, (command, line)
