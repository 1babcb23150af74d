"""What the README shows runs, and the reference page of the command line is that of the parser."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
README = (PROJECT / "README.md").read_text(encoding="utf-8")


# Folders whose files are named in prose, and pages that tell of files that are gone or of other programs.
TOLD = ("src", "docs", "bench", "tests", "tools")
TELLS_OF_OTHERS = ("docs/dev-log.md", "CHANGELOG.md", "RELIABILITY.md")


def test_it_is_short() -> None:
    """Words as `wc -w` counts them: code and tables, too."""
    assert len(README.split()) <= 1000, len(README.split())


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", README)
    assert len(links) >= 10
    for link in links:
        assert link.startswith("https://") or (PROJECT / link).exists(), link


def test_files_that_are_named_are_there() -> None:
    """A file between backticks in a comment, a docstring or a page is some file of this repository."""
    listed = [path.relative_to(PROJECT).as_posix() for place in TOLD for path in (PROJECT / place).rglob("*.*")]
    files = {f"/{name}" for name in [*listed, *(path.name for path in PROJECT.glob("*.*"))]}
    for name in sorted(files):
        if name.endswith((".py", ".md", ".cu", ".cuh")) and not name.endswith(TELLS_OF_OTHERS):
            text = (PROJECT / name[1:]).read_text(encoding="utf-8")
            for named in re.findall(r"`([\w./-]+\.(?:py|cuh?|md|jinja))`", text):
                assert any(file.endswith("/" + named) for file in files), (name, named)


def test_the_reference_page_is_that_of_the_parser() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.docs.command_line", "--check"], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


SHORTENED = {"max_steps=20": "max_steps=4, held_out=0.02, verdict_texts=0"}


@pytest.mark.parametrize("shortened", [SHORTENED, pytest.param({}, marks=pytest.mark.slow)], ids=["short", "whole"])
def test_the_library_example_runs(shortened: dict[str, str], tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(code.strip().splitlines()) <= 10
    for text, shorter in shortened.items():
        assert code.count(text) == 1, text
        code = code.replace(text, shorter)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    before, after = (float(x) for x in lines[0].split(" -> "))
    assert after < before and len(lines) >= 5  # three rows, and a text that may have line breaks of its own
    assert lines[4].startswith("The sea")


def test_the_shown_error_is_the_real_one(tmp_path: Path) -> None:
    rows = ['{"quote": "Be kind.", "tags": ["a"]}'] * 16 + ['{"quote": "", "tags": ["a"]}']
    (tmp_path / "quotes.jsonl").write_text("\n".join(rows))
    done = subprocess.run(
        [sys.executable, "-m", "florilegium", "train", "quotes.jsonl"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 3
    assert done.stderr.strip().splitlines()[-1] in README


def test_every_command_shown_has_flags_that_exist() -> None:
    from florilegium.cli.parser import build_parser

    parser = build_parser()
    commands = next(a for a in parser._actions if hasattr(a, "choices") and a.choices).choices
    shown = re.findall(r"^\$ florilegium (\w+)(.*)$", README, re.M)
    assert {name for name, _ in shown} <= set(commands) and len(shown) >= 5
    for name, rest in shown:
        for flag in re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest.split("#")[0]):
            assert flag in commands[name]._option_string_actions, (name, flag)
