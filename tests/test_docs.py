"""The documentation: its pages are a site without broken links, and what they name is there."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from tools.docs import memory_table

PROJECT = Path(__file__).parent.parent


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=PROJECT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "architecture" / "index.html").is_file()


def test_every_command_shown_has_flags_that_exist() -> None:
    commands = _commands()
    shown = 0
    for page in sorted((PROJECT / "docs").rglob("*.md")):
        for line in re.findall(r"\bflorilegium (\w[^`\n]*)", page.read_text(encoding="utf-8")):
            name, *words = line.split("#")[0].split()
            if name not in commands:
                continue  # "florilegium remembers ..." is prose
            shown += 1
            for flag in (word.split("=")[0] for word in words if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)):
                assert flag in commands[name]._option_string_actions, (page.name, name, flag)
    assert shown >= 50


def test_every_setting_named_alone_exists() -> None:
    """`--flag` in a sentence: of some command, or of one of the programs that are named there."""
    ours = {flag for command in _commands().values() for flag in command._option_string_actions}
    others = {"--constraint", "--help"}
    pages = [page for page in (PROJECT / "docs").rglob("*.md") if page.name not in ("dev-log.md", "other-programs.md")]
    for page in pages:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
        for code in re.findall(r"`(--[^`]*)`", text):
            for flag in re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", code):
                assert flag in ours | others or "bench" in page.name, (page.name, flag)


def test_the_table_of_memory_is_what_the_estimate_says() -> None:
    assert memory_table.PAGE.read_text(encoding="utf-8") == memory_table.page()


SHORTENED = {
    "[:400]": "[:80]",
    'model="seedling")': 'model="seedling", max_steps=2, verdict_texts=2)',
    "generations=50": "generations=2, rows=4",
}


@pytest.mark.parametrize("shortened", [SHORTENED, pytest.param({}, marks=pytest.mark.slow)], ids=["short", "whole"])
def test_the_notebook_runs_from_top_to_bottom(shortened: dict[str, str], tmp_path: Path) -> None:
    cells = json.loads((PROJECT / "docs" / "notebooks" / "first-run.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code[0].startswith("%pip install") and len(code) >= 6
    script = "\n".join(code[1:])
    for text, shorter in shortened.items():
        assert script.count(text) == 1, text
        script = script.replace(text, shorter)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    assert "tag F1" in done.stdout and " have tags" in done.stdout  # a figure, and the verdict


def _commands() -> Mapping[str, argparse.ArgumentParser]:
    from florilegium.cli.parser import build_parser

    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    choices: Mapping[str, argparse.ArgumentParser] = commands.choices
    return choices


def test_every_extra_and_dependency_is_pinned() -> None:
    """What `pip install --constraint constraints.txt` installs is what CI tested, extras included."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    lines = (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {_name(line) for line in lines if "==" in line}
    assert {_name(one) for one in wanted} <= pinned


def _name(requirement: str) -> str:
    return requirement.split(";")[0].split(">")[0].split("=")[0].split("[")[0].strip().lower().replace("_", "-")


def test_every_page_that_the_program_names_is_there() -> None:
    named = {
        page: path.relative_to(PROJECT).as_posix()
        for path in sorted((PROJECT / "src").rglob("*"))
        if path.suffix in (".py", ".jinja", ".html", ".js")
        for page in re.findall(r"\bdocs/[\w/-]+\.md\b", path.read_text(encoding="utf-8"))
    }
    assert "docs/how-to/export-onnx.md" in named
    assert not {page: where for page, where in named.items() if not (PROJECT / page).is_file()}
