"""`python -m florilegium` is `florilegium`."""

from florilegium.cli.main import command_line

raise SystemExit(command_line())
