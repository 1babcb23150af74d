"""One token by itself, as log-probabilities name it: its text, its bytes, and where in a text it begins.

A token may be a part of a character: its bytes alone are no text, which is shown as U+FFFD, and it begins where the character
begins. SentencePiece takes the blank off a text's first word, so the text of a token is what it adds behind another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from florilegium.generation.text_pieces import UNKNOWN, decoded, has_bytes, is_byte_level, reader_of, token_bytes

_ONE_BYTE = re.compile("<0x([0-9A-F]{2})>")  # SentencePiece's name for a byte that is no token of its own


class TokenTexts:
    """Those of a tokenizer's tokens, by their ids; read once each."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer, self.known = tokenizer, dict[int, str]()
        self.before = [] if is_byte_level(tokenizer) else tokenizer("a", add_special_tokens=False)["input_ids"]
        self.before_text = decoded(tokenizer, self.before)
        self.has_bytes = has_bytes(tokenizer)

    def text(self, token_id: int) -> str:
        found = self.known.get(token_id)
        if found is None:
            both = decoded(self.tokenizer, [*self.before, token_id])
            behind = both.startswith(self.before_text)
            found = both[len(self.before_text) :] if behind else decoded(self.tokenizer, [token_id])
            self.known[token_id] = found
        return found

    def bytes(self, token_id: int) -> bytes:
        """What it is of a text in UTF-8, also where that is no whole character."""
        text = self.text(token_id)
        if UNKNOWN not in text:
            return text.encode()
        if self.has_bytes:
            return token_bytes(self.tokenizer).of(token_id)
        one = _ONE_BYTE.fullmatch(str(self.tokenizer.convert_ids_to_tokens(token_id)))
        return bytes([int(one[1], 16)]) if one else text.encode()


_texts: WeakKeyDictionary[PreTrainedTokenizerBase, TokenTexts] = WeakKeyDictionary()


def texts_of(tokenizer: PreTrainedTokenizerBase) -> TokenTexts:
    if tokenizer not in _texts:
        _texts[tokenizer] = TokenTexts(tokenizer)
    return _texts[tokenizer]


class Places:
    """Where the tokens of a text begin, asked for one after the other: characters in front of each. `place` went before
    the first of them, and `prompt` are the tokens that they follow."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int] = (), place: int = 0) -> None:
        self.reader, self.place = reader_of(tokenizer, prompt), place

    def next(self, token_id: int) -> int:
        begins = self.place
        self.place += len(self.reader.push(token_id))
        return begins
