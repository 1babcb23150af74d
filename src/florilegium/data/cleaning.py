"""Dirt that text picks up on its way from a page, a terminal or a program: found, and taken out by `--fix-encoding`.

    html            &amp;  &#39;  <br>  <i>so</i>         unescaped; a <br> is a line break, other tags go
    escapes         \\n  \\"  \\u2019  as two or six signs    what they stand for
    control         a bell, a NUL, \x1b[1m                    gone
    encoding        donâ€™t                               as `mojibake.py` mends it
    empty tags      nan  None  null  N/A  -                 gone

Only what can be nothing else is touched: `<3`, `a < b`, `AT&T`, `C:\\new` and the label "none" stay."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from florilegium.data.mojibake import is_broken_text, mend
from florilegium.data.quote import Quote

_ENTITY = r"&(?:[a-zA-Z]{2,8}|#[0-9]{2,5}|#x[0-9a-fA-F]{2,5});"
_TAG = r"</?(?:br|p|i|b|em|strong|a|div|span|li|ul|ol|h[1-6]|blockquote|sup|sub|u|s|q|font|small|cite|hr)\b[^<>]*>"
_HTML = re.compile(f"{_ENTITY}|{_TAG}", re.IGNORECASE)
_BREAK = re.compile(r"\s*<(?:br|/p|/div|/li|hr)\b[^<>]*>\s*", re.IGNORECASE)
_ANY_TAG = re.compile(_TAG, re.IGNORECASE)
_ESCAPE = re.compile(r"""\\(?:u[0-9a-fA-F]{4}|["']|[nrt](?=[\sA-Z"'“‘—–\\-]|$))""")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b.")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f]")
_STANDS_FOR = {"n": "\n", "r": "\n", "t": "\t"}

EMPTY_TAGS = frozenset(
    ("nan", "NaN", "NAN", "None", "null", "NULL", "Null", "N/A", "n/a", "NA", "#N/A", "-", "--", "[]", "undefined")
)


def has_html(text: str) -> bool:
    return ("&" in text or "<" in text) and _HTML.search(text) is not None


def has_escapes(text: str) -> bool:
    return "\\" in text and _ESCAPE.search(text) is not None


def has_control(text: str) -> bool:
    return not text.isprintable() and _CONTROL.search(text) is not None


def without_html(text: str) -> str:
    """Entities as what they stand for, twice where they were escaped twice; line breaks for those of the page."""
    text = _ANY_TAG.sub("", _BREAK.sub("\n", text))
    once = html.unescape(text)
    return html.unescape(once) if has_html(once) else once


def without_escapes(text: str) -> str:
    return _ESCAPE.sub(lambda found: _unescaped(found[0][1:]), text)


def _unescaped(code: str) -> str:
    if code[0] == "u":
        return _of_number(int(code[1:], 16))
    return _STANDS_FOR.get(code, code)


def _of_number(number: int) -> str:
    return "\ufffd" if 0xD800 <= number < 0xE000 else chr(number)


def without_control(text: str) -> str:
    return _CONTROL.sub("", _ANSI.sub("", text).replace("\x85", "\n"))  # NEL is a line break of mainframes


# Each kind of dirt: how it is told, and what takes it out. Escapes come last: what they hide is as it was written.
MENDERS: tuple[tuple[Callable[[str], bool], Callable[[str], str]], ...] = (
    (is_broken_text, mend),
    (has_control, without_control),
    (has_html, without_html),
    (has_escapes, without_escapes),
)


def cleaned(text: str) -> str:
    """The text without dirt; the same object where there is none."""
    for is_dirty, mended in MENDERS:
        if is_dirty(text):
            text = mended(text)
    return text


def clean_quote(quote: Quote) -> Quote:
    """Each value cleaned, empty tags gone; the same object where nothing had to be done."""
    clean: Quote = {
        name: cleaned(value) if isinstance(value, str) else [cleaned(tag) for tag in value if tag not in EMPTY_TAGS]
        for name, value in quote.items()
    }
    return quote if clean == quote else clean


def without_nuls(row: dict[str, object]) -> dict[str, object]:
    """The row without NULs, for which it would be refused before anything else is cleaned."""
    return {name: _without_nuls(value) for name, value in row.items()}


def _without_nuls(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_without_nuls(item) for item in value]
    return value.replace("\0", "") if isinstance(value, str) and "\0" in value else value
