"""Rich's consoles as the commands use them. Rich itself ends the process with code 1 where nobody reads any more."""

from __future__ import annotations

from rich.console import Console


class ProgressConsole(Console):
    """stderr. When nobody reads it any more (`2>&1 | head`) the lines are dropped, and what is under way goes on."""

    def __init__(self, soft_wrap: bool = False) -> None:
        super().__init__(stderr=True, highlight=False, soft_wrap=soft_wrap)

    def on_broken_pipe(self) -> None:
        self.quiet = True


class ResultConsole(Console):
    """stdout. When nobody reads it any more, the command has done what it was asked for (`cli.main`)."""

    def __init__(self, soft_wrap: bool = False) -> None:
        super().__init__(highlight=False, soft_wrap=soft_wrap)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
