"""The last lines of a run: what can be pasted."""

from __future__ import annotations

import shlex
from pathlib import Path

from florilegium.cli.parser import build_parser
from florilegium.cli.trained import next_commands


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line) for line in text.splitlines() if line.startswith("    florilegium ")]


def test_every_command_is_one_and_keeps_odd_names_whole(tmp_path: Path) -> None:
    run = tmp_path / "my 'first' run"
    text = next_commands(run, "L'amour est", "~/my quotes.csv", page=True)
    found = commands(text)
    assert [line[1] for line in found] == ["generate", "evaluate", "report", "ui", "train"]
    parser = build_parser()
    for line in (line for line in found if line[1] != "ui"):  # `main` reads that as `serve --open`
        parser.parse_args(line[1:])
    assert found[0][2] == "L'amour est" and found[1][2] == str(run)
    assert "train ~/'my quotes.csv' --model" in text  # a shell opens ~ where it stands bare


def test_only_what_there_is_is_offered(tmp_path: Path) -> None:
    text = next_commands(tmp_path, "")
    assert [line[1] for line in commands(text)] == ["generate", "evaluate", "report"]
    assert commands(text)[0][2] == "-n"
    assert "bloom" not in text and text.count("report.html") == 1 and "file://" not in text
    assert (tmp_path / "report.html").as_uri() in next_commands(tmp_path, "", link=True)
