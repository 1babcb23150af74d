"""The command line: parse, one library call, print."""

from florilegium.cli.main import main

__all__ = ["main"]
