"""The words of a text as they are compared: without case, accents, punctuation and broken encoding.

“Don't”, she said.   ->   dont she said            Ça va?   ->   ca va"""

from __future__ import annotations

import re
import unicodedata

from florilegium.data.mojibake import is_broken_text, mend

# Scripts without spaces between words are taken sign by sign; digits and Latin words among them are words.
_SIGNS = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
# Vowel signs of the scripts of India belong to their words, though Python's \w leaves them out; dandas are full stops.
_INDIAN = r"\u0900-\u0963\u0966-\u0dff"
# Korean has spaces, and numbers and Latin names run into its words.
_KOREAN = r"\u1100-\u11ff"
_WORD = re.compile(rf"[{_SIGNS}]|[{_KOREAN}]+|(?:[^\W_{_SIGNS}{_KOREAN}]++|[{_INDIAN}]++)++")
# Apostrophes, accents, joiners, and the vowel points of Arabic and Hebrew, which most texts leave out.
_NOT_WORDS = re.compile(r"['’ʼ`´\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u0640\u064b-\u065f\u0670\u200c\u200d]")
# The same for ASCII, where nearly all texts are: letters and digits stay, the rest parts words.
_ASCII = bytes(ord(chr(i).lower()) if chr(i).isalnum() and i < 128 else 32 for i in range(256))


def fold(text: str) -> list[str]:
    """The words of a text as they are compared; "don't" is one word."""
    if text.isascii():
        return text.encode("ascii").translate(_ASCII, b"'`").decode("ascii").split()
    text = mend(text) if is_broken_text(text) else text
    text = unicodedata.normalize("NFKD", text)
    return _WORD.findall(_NOT_WORDS.sub("", text).casefold())
