"""What a person sees first: help of one screen, the first line before anything slow is imported, a bar that fits."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
import tomllib
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from florilegium.cli.command_parser import example
from florilegium.cli.loading import LARGE_FILE_BYTES, RowCounter
from florilegium.cli.main import main
from florilegium.cli.parser import build_parser
from florilegium.cli.progress import TerminalView
from florilegium.config import TrainConfig
from florilegium.errors import clock, roughly
from florilegium.runs.changes import CHANGEABLE
from florilegium.training.metrics import StepMetrics, StepResult


def flag(setting: Field[Any]) -> str:
    return setting.metadata["flag"] or "--" + setting.name.replace("_", "-")


def help_of(*arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        build_parser().parse_known(arguments)
    assert end.value.code == 0
    return capsys.readouterr().out


def test_help_of_train_is_one_screen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    short = help_of("train", "--help", capsys=capsys, monkeypatch=monkeypatch)
    lines = short.splitlines()
    assert len(lines) <= 45 and all(len(line) <= 80 for line in lines)
    assert (
        short.count("\n  --") <= 20 and "--epochs" in short and "--help-all" in short and "--warmup-ratio" not in short
    )
    assert "examples:\n  florilegium train\n" in short
    everything = help_of("train", "--help-all", capsys=capsys, monkeypatch=monkeypatch)
    for f in fields(TrainConfig):
        assert f.name == "data" or flag(f) in everything
    assert "--no-force" not in everything and "--lr " not in everything  # aliases are not shown


def test_help_fits_a_narrow_terminal_and_its_examples_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    def examples(text: str) -> list[list[str]]:
        lines = text.split("examples:\n")[-1].replace("\\\n", "").splitlines()
        return [shlex.split(line, comments=True) for line in lines if line.startswith("  florilegium")]

    (commands,) = (action.choices for action in build_parser()._actions if isinstance(action.choices, dict))
    for command in (build_parser(), *commands.values()):
        for kind in (command.format_help, command.format_full_help):
            monkeypatch.setenv("COLUMNS", "100")
            wide = kind()
            for width in ("60", "80"):
                monkeypatch.setenv("COLUMNS", width)
                narrow = kind()
                assert not [line for line in narrow.splitlines() if len(line) > int(width)], command.prog
                assert examples(narrow) == examples(wide), command.prog


def test_a_line_of_a_command_is_broken_where_a_shell_joins_it() -> None:
    line = '  florilegium train poems.csv --template "{poem} ->: {mood}" --epochs 5'
    assert example(line, 80) == line
    assert example(line, 60) == ('  florilegium train poems.csv \\\n      --template "{poem} ->: {mood}" --epochs 5')
    noted = '  eval "$(florilegium completion bash)"                    # in ~/.bashrc'
    assert example(noted, 60) == '  eval "$(florilegium completion bash)"\n      # in ~/.bashrc'


def test_help_of_resume_shows_what_may_change(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = help_of("resume", "--help", capsys=capsys, monkeypatch=monkeypatch)
    for f in fields(TrainConfig):
        assert (f"{flag(f)} " in shown) == (f.name in CHANGEABLE), f.name


def test_help_can_be_asked_for_in_three_ways(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [
        help_of(*words, capsys=capsys, monkeypatch=monkeypatch)
        for words in (("train", "--help"), ("train", "-h"), ("help", "train"))
    ]
    assert len(set(asked)) == 1
    shown = help_of("help", capsys=capsys, monkeypatch=monkeypatch)
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "commands:" in shown and f"\nDocumentation: {project['urls']['Documentation']}\n" in shown
    for words in (("-V",), ("version",), ("--version",)):
        assert build_parser().parse_known(words).version


@pytest.mark.parametrize("command", ["train", "resume", "generate", "evaluate"])
def test_the_first_line_comes_before_torch_is_imported(tmp_path: Path, command: str) -> None:
    """A torch that cannot be imported stands in the way: whatever is on stderr by then was said before."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit(7)\n")
    adapter = tmp_path / "runs" / "a" / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    words = [command] if command == "train" else [command, "--run", "runs/a"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "florilegium", *words],
        cwd=tmp_path, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 7 and done.stderr.startswith("loading PyTorch ...\n"), done.stderr


def test_a_folder_that_is_taken_is_refused_before_rows_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert main(["train", str(tmp_path / "missing.csv"), "--output", str(tmp_path / "run")]) == 2
    assert "run is already there. Choose another --output" in capsys.readouterr().err


def test_data_that_take_long_to_read_are_named_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, large, folder = tmp_path / "small.csv", tmp_path / "large.csv", tmp_path / "folder"
    small.write_text("quote\nBe kind.\n")
    large.write_bytes(b"\0" * (LARGE_FILE_BYTES + 1))
    folder.mkdir()
    for data, is_named in (
        (small, False), (large, True), (folder, True), ("sample", False), ("owner/name", True),
        (tmp_path / "missing.csv", False), ("missing.csv", False),
    ):  # fmt: skip
        RowCounter(str(data))
        assert capsys.readouterr().err == (f"reading {data} ...\n" if is_named else ""), data


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_the_bar_fits_the_terminal_and_is_cleared(width: int) -> None:
    screen = io.StringIO()
    view = TerminalView()
    view.console = Console(file=screen, force_terminal=True, width=width, highlight=False, soft_wrap=True)
    for step in (9_998, 9_999):
        result = StepResult(13.2, 0.5, 1e-4, tokens=500, padding_share=0.0, peak_memory_bytes=22 << 30)
        view.step(StepMetrics(step, 1.0, result, tokens_per_second=21593.2, elapsed_seconds=9.0), 10_000)
        assert view.live is not None
        view.live.refresh()
        (line,) = Console(width=width).render_lines(view.bar)
        text = "".join(segment.text for segment in line)
        assert "…" not in text and "loss 13.200" in text and "ETA 0:00" in text and "/10000" in text
    view.stop()
    assert view.live is None and screen.getvalue().endswith("\x1b[2K")


def test_slow_steps_are_not_waited_for() -> None:
    """Of steps of a minute the third tells what the others will take, not the sixth."""
    screen = io.StringIO()
    view = TerminalView()
    view.console = Console(file=screen, width=80, highlight=False, soft_wrap=True)
    for step in range(1, 8):
        result = StepResult(3.0, 0.5, 1e-4, tokens=600, padding_share=0.0, peak_memory_bytes=1 << 30)
        view.step(StepMetrics(step, 1.0, result, tokens_per_second=10.0, elapsed_seconds=60.0 * step), 200)
        assert ("time " in screen.getvalue()) == (step >= 3)
    assert screen.getvalue().count("about 3 h 20 min for 200 steps, from the first 3") == 1


def test_the_time_of_a_run_is_told_once_from_its_first_steps() -> None:
    """The first step, in which kernels are compiled, says nothing of the others."""
    screen = io.StringIO()
    view = TerminalView()
    view.console = Console(file=screen, width=80, highlight=False, soft_wrap=True)
    for step in range(101, 112):
        result = StepResult(3.0, 0.5, 1e-4, tokens=500, padding_share=0.0, peak_memory_bytes=1 << 30)
        speed = 10.0 if step == 101 else 500.0
        view.step(StepMetrics(step, 1.0, result, tokens_per_second=speed, elapsed_seconds=9.0), 400)
    assert (
        screen.getvalue().count("time ") == 1
        and "time     about 5 min for 300 steps, from the first 6" in screen.getvalue()
    )
    assert [roughly(s) for s in (12, 80, 91, 5000, 7600, 7300)] == [
        "10 s",
        "80 s",
        "2 min",
        "83 min",
        "2 h 10 min",
        "2 h",
    ]


def test_clock() -> None:
    assert [clock(s) for s in (0, 56.4, 61, 3723)] == ["0:00", "0:56", "1:01", "1:02:03"]
