"""The reference page of the command line, out of the parser that answers `--help`; and that of other programs' flags.

    python -m tools.docs.command_line            writes docs/reference/command-line.md and other-programs.md
    python -m tools.docs.command_line --check    leaves with 1 if one of them is older than the program

A table for each group of flags in place of what argparse prints, which differs between versions of Python. Tests run
the check, so pages and `--help` cannot drift apart."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from florilegium.cli.parser import build_parser
from tools.docs import other_programs

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "command-line.md"
HEAD = """# Command line

*Written by `python -m tools.docs.command_line`; edit the help texts in `src/florilegium/`, not this page.*

Settings of `train` are also keys of a [config file](config-file.md); [exit codes](exit-codes.md) are the same for all
commands. Flags may be written with `_` in place of `-`. Earlier names of flags are still understood and not
listed; so are [those of other programs](other-programs.md).
"""


def page() -> str:
    """The whole page, in Markdown."""
    parser = build_parser()
    commands = _commands(parser)
    index = [f"| [`{name}`](#{name}) | {_summary(parser, name)} |" for name in commands]
    parts = [HEAD, "| command | what it does |\n|---|---|\n" + "\n".join(index) + "\n"]
    parts += [f"## `{name}`\n\n{_command(command)}" for name, command in commands.items()]
    return "\n".join(parts)


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (action,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    listed = {a.dest for a in action._choices_actions}  # a command without help is hidden
    return {name: command for name, command in action.choices.items() if name in listed}


def _summary(parser: argparse.ArgumentParser, name: str) -> str:
    (action,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return _cell(next(a.help or "" for a in action._choices_actions if a.dest == name))


def _command(command: argparse.ArgumentParser) -> str:
    """What it does, examples, a table for each group of flags."""
    epilog = (command.epilog or "").removeprefix("examples:\n")
    examples = "\n".join("$ " + line.strip() for line in epilog.splitlines() if line.strip())
    parts = [f"{command.description}\n", f"```console\n{examples}\n```\n" if examples else ""]
    parts += [_table(group) for group in command._action_groups if list(_shown(group))]
    return "\n".join(part for part in parts if part)


def _table(group: argparse._ArgumentGroup) -> str:
    title = "" if group.title in ("positional arguments", "options") else f"**{group.title}**\n\n"
    rows = [f"| {_flags(a)} | {_cell(a.help or '')} |" for a in _shown(group)]
    return f"{title}| | |\n|---|---|\n" + "\n".join(rows) + "\n"


def _shown(group: argparse._ArgumentGroup) -> Iterator[argparse.Action]:
    return (a for a in group._group_actions if a.help != argparse.SUPPRESS and a.dest != "help")


def _flags(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{_value(action)}`"
    value = "" if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction) else " " + _value(action)
    return ", ".join(f"`{flag}{value}`" for flag in action.option_strings)


def _value(action: argparse.Action) -> str:
    if action.choices is not None and not action.metavar:
        return "{" + ",".join(map(str, action.choices)) + "}"
    shown = action.metavar or action.dest.upper()
    return shown if isinstance(shown, str) else " ".join(shown)


def _cell(text: str) -> str:
    """Help text in a table's cell: argparse's `%%` is a percent sign, a bar and a brace stand for themselves."""
    return " ".join(text.replace("%%", "%").replace("|", "\\|").split())


def main() -> int:
    checks = "--check" in sys.argv[1:]
    old = []
    for path, text in ((PAGE, page()), (other_programs.PAGE, other_programs.page())):
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            old.append(path.name)
            if not checks:
                path.write_text(text, encoding="utf-8")
    if old:
        print(
            f"old: {', '.join(old)}. Type: python -m tools.docs.command_line" if checks else f"wrote {', '.join(old)}"
        )
    return 1 if old and checks else 0


if __name__ == "__main__":
    sys.exit(main())
