"""The words of a text as they are compared: without case, accents, punctuation and broken encoding.

“Don't”, she said.   ->   dont she said            Ça va?   ->   ca va"""

from __future__ import annotations

import re
import unicodedata

from florilegium.data.mojibake import is_broken_text, mend

# Scripts without spaces between words are taken sign by sign.
_WORD = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+")
_NOT_WORDS = re.compile(r"['’ʼ`´\u0300-\u036f]")
# The same for ASCII, where nearly all texts are: letters and digits stay, the rest parts words.
_ASCII = bytes(ord(chr(i).lower()) if chr(i).isalnum() and i < 128 else 32 for i in range(256))


def fold(text: str) -> list[str]:
    """The words of a text as they are compared; "don't" is one word."""
    if text.isascii():
        return text.encode("ascii").translate(_ASCII, b"'`").decode("ascii").split()
    text = mend(text) if is_broken_text(text) else text
    text = unicodedata.normalize("NFKD", text)
    return _WORD.findall(_NOT_WORDS.sub("", text).casefold())
