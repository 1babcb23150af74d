"""The whole command line as argparse sees it. Each command describes its own flags, in `commands/`."""

from __future__ import annotations

from florilegium.cli.command_parser import CommandParser

_EPILOG = """\
Start with `florilegium train`: it needs no data, no GPU and no network.
`florilegium help COMMAND` shows a command's options and examples.
Documentation: https://florilegium.github.io/florilegium/

Exit codes: 0 done, 2 usage, 3 data, 4 model, 5 memory or disk, 6 diverged, 130 and 143 stopped by a signal after saving."""


def build_parser() -> CommandParser:
    """The parser of `florilegium`, with its commands."""
    from florilegium.cli.commands import COMMANDS

    parser = CommandParser(
        prog="florilegium",
        description="Fine-tune BLOOM on your own quotes with tags, on one GPU or none, and know what it learned.",
        epilog=_EPILOG,
        usage="florilegium COMMAND [options]",
        allow_abbrev=False,
    )
    parser.add_argument("-V", "--version", action="store_true", help="show the version and exit")
    commands = parser.add_subparsers(
        dest="command", metavar="", title="commands", prog="florilegium", parser_class=CommandParser
    )
    for command in COMMANDS.values():
        command.add(commands)
    # Known to completion; `CommandParser.parse_known` answers them.
    for name, what in (("help", "show a command's options"), ("version", "show the version")):
        commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".", add_help=False)
    return parser
