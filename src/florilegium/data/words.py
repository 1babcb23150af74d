"""The words of a text as they are compared: without case, accents, punctuation and broken encoding.

“Don't”, she said.   ->   dont she said            Ça va?   ->   ca va"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import groupby

from florilegium.data.mojibake import is_broken_text, mend

# Scripts without spaces between words are taken sign by sign; digits and Latin words among them are words.
_SIGNS = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
UNSPACED = re.compile(f"[{_SIGNS}]")
PIECE = re.compile(f"[{_SIGNS}] ?|[^ {_SIGNS}]+ ?| ")  # where a text may be cut: behind a word and its blank, or a sign
# Vowel signs of the scripts of India belong to their words, though Python's \w leaves them out; dandas are full stops.
_INDIAN = r"\u0900-\u0963\u0966-\u0dff"
INDIAN = re.compile(f"[{_INDIAN}]")
# Korean has spaces, and numbers and Latin names run into its words.
_KOREAN = r"\u1100-\u11ff"
_WORD = re.compile(rf"[{_SIGNS}]|[{_KOREAN}]+|(?:[^\W_{_SIGNS}{_KOREAN}]++|[{_INDIAN}]++)++")
# Apostrophes, accents, joiners, and the vowel points of Arabic and Hebrew, which most texts leave out.
_NOT_WORDS = re.compile(r"['’ʼ`´\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u0640\u064b-\u065f\u0670\u200c\u200d]")
# Typographic signs that part words, and the apostrophe, which does not: without them most texts are ASCII. None of them
# alone makes a text suspect to `mojibake.py`.
_PARTING, _APOSTROPHE = "“”‘–—…", "’"
# Of ASCII, letters and digits stay and the rest parts words; so does NUL where it stands for the beginning of a text.
_ASCII = bytes(ord(chr(i).lower()) if chr(i).isalnum() and i < 128 else 32 for i in range(256))
BEGINS = b"\0"
LONGEST_WORD = 20  # characters; what is longer between blanks is no word
_ASCII_OF_MANY = BEGINS + _ASCII[1:]


def beginning(word: str) -> str:
    """How a text begins that begins with `word`: with the word, or with two signs where a script has no spaces and the
    "word" may be the whole text."""
    return word[:2] if len(word) > LONGEST_WORD or UNSPACED.search(word) else word


def fold(text: str) -> list[str]:
    """The words of a text as they are compared; "don't" is one word."""
    ascii_text = _as_ascii(text)
    if ascii_text is not None:
        return ascii_text.encode("ascii").translate(_ASCII, b"'`").decode("ascii").split()
    text = mend(text) if is_broken_text(text) else text
    text = unicodedata.normalize("NFKD", text)
    return _WORD.findall(_NOT_WORDS.sub("", text).casefold())


def fold_all(texts: Sequence[str]) -> bytes:
    """The words of all texts in UTF-8, one behind the other with blanks between, and BEGINS as a word before those of
    each. ASCII texts that stand together are folded in one go."""
    parts = []
    for are_ascii, pairs in groupby(zip(map(_as_ascii, texts), texts, strict=True), lambda pair: pair[0] is not None):
        if are_ascii:
            joined = "".join(f"\0 {ascii_text} " for ascii_text, _ in pairs)
            parts.append(joined.encode("ascii").translate(_ASCII_OF_MANY, b"'`"))
        else:
            parts += [" ".join(["\0", *fold(text), ""]).encode() for _, text in pairs]
    return b"".join(parts)


def _as_ascii(text: str) -> str | None:
    """The text without typographic signs, if that makes it ASCII."""
    if not text.isascii():
        for sign in _PARTING:
            text = text.replace(sign, " ")
        text = text.replace(_APOSTROPHE, "")
    return text if text.isascii() and "\0" not in text else None
