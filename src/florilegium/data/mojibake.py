"""Broken encoding: text that was written as UTF-8 and read as something else, found and mended.

"Mojibake" is UTF-8 that was once read as Windows-1252 and saved like that: `donâ€™t` for `don’t`. A text is suspected
when it holds

    U+FFFD                      a lost byte
    `â€` or `ðŸ`                 how every curly quote and dash, and every emoji, begins
    `Ã` or `Â`, one more        a Latin letter or sign: `Ã©` is é. "One more" is a character that Windows-1252 has at 0x80 to 0xBF
    two such in a row           `Ø£Ø­` is Arabic, `Ð¿Ñ€` Russian, `æ—¥æœ¬` Chinese: any two- or three-byte characters

One alone is not enough for other letters: `É”` and `Ñ»` are how a French or a Spanish quotation ends. Mending is ftfy's
work (Speer 2019), which takes the wrong turn back step by step; it is asked for encoding alone, and leaves quotation
marks, ligatures and spaces."""

from __future__ import annotations

import re

from florilegium.data.quote import Quote, Value, join_items


def _windows_1252(first: int, last: int) -> str:
    """A regular expression's set of what the bytes `first` to `last` become; five of them become nothing and stay."""
    return (
        "[" + re.escape("".join(bytes([b]).decode("cp1252", "ignore") or chr(b) for b in range(first, last + 1))) + "]"
    )


_MORE = _windows_1252(0x80, 0xBF)
_PAIR = _windows_1252(0xC2, 0xDF) + _MORE
_TRIPLE = _windows_1252(0xE0, 0xEF) + _MORE + _MORE
_BROKEN = re.compile(f"\ufffd|â€|ðŸ|[ÃÂ]{_MORE}|{_PAIR}{_PAIR}|{_TRIPLE}{_TRIPLE}")
# 0x9D is one of the bytes that Windows-1252 lacks. Of the characters that end in such a byte only ” is ever met in
# running text.
_LOST_CLOSING_QUOTE = "â€\ufffd"


def is_broken_text(text: str) -> bool:
    """Whether the text seems to have been through a wrong encoding."""
    return not text.isascii() and _BROKEN.search(text) is not None


def is_broken(quote: Quote) -> bool:
    """Whether a column of the quote seems to have been through a wrong encoding."""
    return any(is_broken_text(join_items(value)) for value in quote.values())


def mend(text: str) -> str:
    """The text before its encoding broke, as far as it can be told; text that is not suspected comes back as it is."""
    if not is_broken_text(text):
        return text
    import ftfy

    return str(ftfy.fix_encoding(text.replace(_LOST_CLOSING_QUOTE, "”")))


def mend_quote(quote: Quote) -> Quote:
    """`mend` for each value of a row."""
    return {name: _mend_value(value) for name, value in quote.items()}


def _mend_value(value: Value) -> Value:
    return mend(value) if isinstance(value, str) else [mend(item) for item in value]
