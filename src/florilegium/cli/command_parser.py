"""argparse as this command line uses it: errors that name the right flag, help of one screen, `--help-all` for the rest.

Each command is made by `add_command` (`commands/`). Its help shows the flags of `common`, or all of them where there are
few; a flag whose help is SUPPRESS is an alias, and never shown."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from florilegium.cli.foreign_flags import COMMANDS as FOREIGN_COMMANDS
from florilegium.cli.screen import fitted, print_line
from florilegium.cli.translate import known_names, translate
from florilegium.errors import UsageError, nearest, nearest_flag

Commands = Any  # argparse's own class of sub-parsers is private
_KINDS = {"int": "a whole number", "float": "a number"}


class HelpAll(argparse.Action):
    """`--help-all`: the help with every flag."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        print_line(parser.format_help() if not isinstance(parser, CommandParser) else parser.format_full_help(), end="")
        parser.exit()


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Commands are listed without the empty line that argparse puts above them. What argparse leaves as it was written
    (usage, description, examples) is broken where the terminal is narrower: an example so that it can be pasted."""

    def _format_action(self, action: argparse.Action) -> str:
        if isinstance(action, argparse._SubParsersAction):
            return "".join(self._format_action(command) for command in action._get_subactions())
        return super()._format_action(action)

    def _format_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[argparse._MutuallyExclusiveGroup],
        prefix: str | None,
    ) -> str:
        text = super()._format_usage(usage, actions, groups, prefix)
        if all(len(line) <= self._width for line in text.splitlines()):
            return text
        return fitted(" ".join(text.split()), self._width, indent=len("usage: ")) + "\n\n"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            example(line, width) if line.startswith("  ") else fitted(line, width) for line in text.splitlines()
        )


class CommandParser(argparse.ArgumentParser):
    """argparse that raises UsageError, understands foreign names, and has a short and a long help."""

    common: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        raise UsageError(*_plain(message, f"See: {self.prog} --help"))

    def _get_formatter(self) -> argparse.HelpFormatter:
        width = min(100, shutil.get_terminal_size().columns)
        return _Formatter(self.prog, max_help_position=30, width=width)

    def format_help(self) -> str:
        """The help of one screen: usage in one line, the flags of `common`, the examples."""
        if not self.common:
            return self.format_full_help()
        shown = [a for a in self._actions if a.dest in self.common and a.help != argparse.SUPPRESS]
        shown.sort(key=lambda action: self.common.index(action.dest))
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, shown, [])
        formatter.add_text(self.description)
        formatter.start_section("options")
        formatter.add_arguments(shown)
        formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def format_full_help(self) -> str:
        return super().format_help()

    def subparser(self, name: str) -> CommandParser:
        """The parser of a command. Raises UsageError for one that is not there."""
        (commands,) = (a.choices for a in self._actions if isinstance(a, argparse._SubParsersAction))
        if name not in commands:
            raise UsageError(f"unknown command {name!r}", nearest(name, list(commands)) or f"See: {self.prog} --help")
        command: CommandParser = commands[name]
        return command

    def parse_known(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The parsed command line. Raises UsageError for what is unknown, with the flag that was meant where one is
        near."""
        given = list(arguments)
        at = next((i for i, a in enumerate(given) if not a.startswith("-")), None)
        if at is None:
            values, unknown = self.parse_known_args(given)
            _refuse(unknown, {}, self.prog)
            return values
        name = given[at] = FOREIGN_COMMANDS.get(given[at], given[at])
        if name == "help":
            return self.parse_known([*given[at + 1 : at + 2], "--help"])
        if name == "version":
            return self.parse_known(["--version"])
        command = self.subparser(name)
        flags = command._option_string_actions
        switches = [flag for flag, action in flags.items() if action.nargs == 0]
        values, unknown = self.parse_known_args([*given[: at + 1], *translate(given[at + 1 :], name, flags, switches)])
        _refuse(unknown, known_names(name, flags), command.prog)
        return values


def example(line: str, width: int) -> str:
    """A line of a command, with a note behind three spaces or none, as lines of at most `width`: a shell takes them for
    one command."""
    if len(line) <= width:
        return line
    command, _, note = line.strip().partition("   ")
    lines = ["  "]
    for piece in re.findall(r"""(?:--?[a-z][\w-]* (?!-))?(?:"[^"]*"|'[^']*'|\S)+""", command):
        if lines[-1].strip() and len(lines[-1]) + len(piece) + len("  \\") > width:
            lines[-1] += " \\"
            lines.append("      " + piece)
        else:
            lines[-1] += (" " if lines[-1].strip() else "") + piece
    return "\n".join([*lines, *(["      " + note.strip()] if note else [])])


def _refuse(unknown: Sequence[str], known: dict[str, str], prog: str) -> None:
    if unknown:
        name = unknown[0].split("=")[0]  # without its value: it may be a token
        see = f"See: {prog} --help"
        near = (
            nearest_flag(name.lstrip("-"), known) if name.startswith("-") else f"Put what has spaces in quotes. {see}"
        )
        raise UsageError(f"unknown argument {name!r}", near or see)


def _plain(message: str, otherwise: str) -> tuple[str, str]:
    """argparse's message as cause and fix."""
    if found := re.fullmatch(r"argument (\S+?)(?:/\S+)?: invalid (\w+) value: (.*)", message):
        return f"{found[1]} is {found[3]}", f"It takes {_KINDS.get(found[2], found[2])}"
    if found := re.fullmatch(r"argument (\S+?)(?:/\S+)?: expected one argument", message):
        return f"{found[1]} needs a value", otherwise
    if found := re.fullmatch(r"argument (\S+?)(?:/\S+)?: invalid choice: (.*) \(choose from (.*)\)", message):
        choices = found[3].replace("'", "")
        near = nearest(found[2].strip("'"), choices.split(", "))
        return f"{found[1]} is {found[2]}", f"It takes one of {choices}" + (f". {near}" if near else "")
    return message, otherwise


def add_command(commands: Commands, name: str, help: str, *examples: str, **options: Any) -> CommandParser:
    """A command with its examples; `--json`, `--debug` and `--help-all` are every command's."""
    command: CommandParser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {e}" for e in examples),
        allow_abbrev=False,
        **options,
    )
    command.add_argument("--help-all", action=HelpAll, help="show all options and exit")
    command.add_argument("--json", action="store_true", help="results as JSON on stdout, all else on stderr")
    command.add_argument("--debug", action="store_true", help="show the traceback of an expected failure")
    return command
