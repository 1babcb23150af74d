"""Texts on a terminal as they are written, and the quote in their place when they are whole."""

from __future__ import annotations

import re
import sys
from collections.abc import Generator

import pytest

from florilegium.cli.commands import generate
from florilegium.cli.parser import build_parser
from florilegium.config import SamplingSettings
from florilegium.data import Template
from florilegium.generation import Generated
from tests.cli.screens import Screen


class Tuned:
    """Writes the same words in pieces, and tells texts apart by their number."""

    template = Template.from_text()

    def warm_up_note(self) -> str:
        return ""

    def stream(self, prompt: str, *, tags: bool, row: int, settings: SamplingSettings) -> Generator[str, None, bool]:
        yield from (prompt, " rests", f" {row}. ->", ": rest")
        return True

    def as_generated(self, text: str, finished: bool, *, tags: bool) -> Generated:
        return Generated(text, self.template.parse(text), finished)


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("n", [1, 3, 4])
def test_a_terminal_shows_a_few_texts_as_they_are_written(
    n: int, is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = Screen(is_terminal), Screen(is_terminal)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    flags = build_parser().parse_known(["generate", "The sea", "-n", str(n)])
    if not is_terminal or n > generate.MOST_STREAMED:
        with pytest.raises(AttributeError, match="generate"):  # all at once
            generate._write(Tuned(), ["The sea"], flags, SamplingSettings(), [])  # type: ignore[arg-type]
        return
    generate._write(Tuned(), ["The sea"], flags, SamplingSettings(), [])  # type: ignore[arg-type]
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert [line for line in shown.split("\n") if line] == [
        line for row in range(n) for line in (f"The sea rests {row}.", "    #rest")
    ]
    assert err.getvalue().count("The sea rests") == n and "writing" in err.getvalue()
