"""Prompts as they are typed, in a locale that knows no letters and with bytes that are none."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from florilegium.cli.prompts import as_typed, prompts_from_file, prompts_from_standard_input
from florilegium.errors import UsageError

WORDS = "café 数 😀"


def test_letters_are_whole_whatever_the_locale() -> None:
    assert as_typed(WORDS) == WORDS
    assert as_typed(WORDS.encode().decode("ascii", "surrogateescape")) == WORDS
    with pytest.raises(UsageError, match=r"the prompt holds a byte that is not UTF-8 \(0xe9\)"):
        as_typed(b"caf\xe9".decode("ascii", "surrogateescape"))


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_standard_input_is_read_as_utf_8_and_a_bad_byte_is_named(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    def given(lines: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), encoding=encoding))

    given(f"{WORDS}\n\n  The sea \n".encode())
    assert prompts_from_standard_input() == [WORDS, "The sea"]
    given(b"")
    assert prompts_from_standard_input() == [""]
    given(b"one\n\ncaf\xe9\n")
    with pytest.raises(UsageError, match="line 3 of standard input holds a byte that is not UTF-8"):
        prompts_from_standard_input()


def test_a_file_of_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(f"{WORDS}\n\nThe sea\n", encoding="utf-8")
    assert prompts_from_file(str(path)) == [WORDS, "The sea"]
    for content, reason in ((b"caf\xe9\n", "is not UTF-8"), (b"\n", "holds no prompt")):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=reason):
            prompts_from_file(str(path))
    with pytest.raises(UsageError, match="cannot read"):
        prompts_from_file(str(tmp_path / "missing"))
