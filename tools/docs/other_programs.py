"""The reference page of flags that people bring from elsewhere, out of the tables that answer them.

Written and checked with the page of the command line: `python -m tools.docs.command_line`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from florilegium.cli import foreign_answers
from florilegium.cli import foreign_flags as flags

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "other-programs.md"
HEAD = """# Flags of other programs

*Written by `python -m tools.docs.command_line` out of `foreign_flags.py` and `foreign_answers.py` in `src/florilegium/cli/`.*

What you know from Transformers, PEFT, TRL, Axolotl, Unsloth, LLaMA-Factory, litgpt or llama.cpp is understood where it
means the same here, on the command line and in a config file, and answered where it does not. A name that nobody knows
gets no guess.
"""


def page() -> str:
    """The whole page, in Markdown."""
    parts = [HEAD, "## `train`: the same under another name\n", _same(flags.SAME_IN_TRAINING, flags.SWITCHES)]
    parts += ["## `train`: not needed, or otherwise\n", _answers(foreign_answers.ANSWERS_IN_TRAINING)]
    parts += ["## `generate`: the same under another name\n"]
    parts += [_same(flags.SAME_IN_GENERATION, flags.SWITCHES_IN_GENERATION)]
    parts += ["## `generate`: not needed, or otherwise\n", _answers(foreign_answers.ANSWERS_IN_GENERATION)]
    parts += ["## `export`\n", _same(flags.SAME_IN_EXPORT, {}), _answers(foreign_answers.ANSWERS_IN_EXPORT)]
    return "\n".join(parts)


def _same(names: Mapping[str, str], switches: Mapping[str, tuple[str, str]]) -> str:
    """A row for each flag of ours: what it is called elsewhere."""
    elsewhere = defaultdict(list)
    for theirs, ours in [*names.items(), *((name, " ".join(set_to)) for name, set_to in switches.items())]:
        if theirs != ours:
            elsewhere[ours].append(f"`--{theirs}`")
    rows = [f"| {_ours(name)} | {', '.join(sorted(theirs))} |" for name, theirs in elsewhere.items()]
    return "| here | elsewhere |\n|---|---|\n" + "\n".join(rows) + "\n"


def _ours(name: str) -> str:
    if name in ("data", "run"):
        return f"`{name.upper()}`"
    return f"`-{name}`" if len(name) == 1 else f"`--{name}`"


def _answers(answers: Mapping[str, tuple[str, str]]) -> str:
    """A row for each answer: the flags that get it, why, and what to type."""
    rows = [f"| {names} | {why} | {_cell(fix)} |" for names, why, fix in _grouped(answers)]
    return "| elsewhere | here | so |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def _grouped(answers: Mapping[str, tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    groups = defaultdict(list)
    for name, answer in answers.items():
        groups[answer].append(f"`--{name}`")
    for (why, fix), names in groups.items():
        yield ", ".join(names), _cell(why), fix


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
