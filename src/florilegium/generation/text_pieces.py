"""Tokens to text as they come: a piece a token, without decoding the whole text again for each.

    pieces = TextPieces(tokenizer, prompt_ids, stop=["\\n"])
    piece = pieces.push(token_id)        "" while a character is not whole, or while it may become a stop string
    pieces.stopped                       whether a stop string came; it is no part of the text
    piece = pieces.end()                 what was held back

All pieces together are the text that decoding prompt and tokens at once puts behind the prompt. A byte-level tokenizer (BLOOM's)
has bytes for each token, which are strung together: those are looked up, and a token costs a microsecond. Of any other the
last few tokens are decoded again with each new one."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer, decoders
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from florilegium.tokens import text_of

CONTEXT = 8  # tokens in front that are decoded again with the new one: a tokenizer may treat a text's first token apart
WINDOW = 32
MOST_BYTES = 4  # of a character in UTF-8
UNKNOWN = "\ufffd"
_decoder = codecs.getincrementaldecoder("utf-8")


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return text_of(tokenizer, ids)


class Reader(Protocol):
    """What makes text of tokens: `push` gives the characters that a token completes, `end` what is no whole one."""

    def push(self, token_id: int) -> str: ...
    def end(self) -> str: ...


class TokenBytes:
    """The bytes of a byte-level tokenizer's tokens; of special ones none."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.known = tokenizer, dict[int, bytes]()
        self.special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}

    def of(self, token_id: int) -> bytes:
        found = self.known.get(token_id)
        if found is None:
            token = None if token_id in self.special else self.tokenizer.id_to_token(token_id)
            found = self.known[token_id] = b"" if token is None else _bytes_of(token)
        return found


def _bytes_of(token: str) -> bytes:
    """Each of its characters stands for a byte; a token that was added to the vocabulary may be a text of its own."""
    if all(character in BYTE_OF for character in token):
        return bytes(BYTE_OF[character] for character in token)
    return token.encode()


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: what prints stands for itself, the others for the characters from 256 on."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(b): b for b in printed} | {chr(256 + i): b for i, b in enumerate(others)}


BYTE_OF = _byte_of_character()


class ByteReader:
    def __init__(self, bytes_of: TokenBytes, prompt: Sequence[int]) -> None:
        self.bytes_of, self.decoder = bytes_of, _decoder("replace")
        self.decoder.decode(b"".join(bytes_of.of(token) for token in prompt[-CONTEXT:]))
        # a prompt may end within a character: it counts as shown, as UNKNOWN
        self.shown = bool(self.decoder.getstate()[0])

    def push(self, token_id: int) -> str:
        return self._new(self.decoder.decode(self.bytes_of.of(token_id)))

    def end(self) -> str:
        return self._new(self.decoder.decode(b"", final=True))

    def _new(self, text: str) -> str:
        if self.shown and text:
            self.shown, text = False, text[1:]
        return text


class WindowReader:
    """Of SentencePiece's tokenizers a character may be several tokens of a byte each. Until the last of them is there the
    whole run of such tokens, characters that were whole before it too, is decoded as U+FFFD."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.waited = 0  # tokens since the text ended in a whole character
        self._begin(prompt)

    def _begin(self, ids: Sequence[int]) -> None:
        """Reads on behind the last of `ids`: from where a character begins, or its other bytes would be none."""
        for size in range(CONTEXT, CONTEXT + MOST_BYTES):
            self.window = list(ids[-size:])
            text = decoded(self.tokenizer, self.window)
            if not text.startswith(UNKNOWN):
                break
        self.shown = len(text)  # characters of the window's text

    def push(self, token_id: int) -> str:
        self.window.append(token_id)
        text = decoded(self.tokenizer, self.window)
        self.waited = self.waited + 1 if text.endswith(UNKNOWN) else 0
        if 0 < self.waited < MOST_BYTES:
            return ""  # what is decoded now may yet change, from the run's beginning on
        # Bytes that are no character: they stay U+FFFD, but for the last ones, which may begin one.
        whole = len(text) - min(3, len(text) - len(text.rstrip(UNKNOWN)))
        piece = text[self.shown : whole]
        self.shown = max(self.shown, whole)
        if len(self.window) >= WINDOW and whole == len(text):
            self._begin(self.window)
        return piece

    def end(self) -> str:
        return decoded(self.tokenizer, self.window)[self.shown :]


_token_bytes: WeakKeyDictionary[PreTrainedTokenizerBase, TokenBytes] = WeakKeyDictionary()


def reader_of(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> Reader:
    """What reads on after the prompt."""
    if not is_byte_level(tokenizer):
        return WindowReader(tokenizer, prompt)
    return ByteReader(token_bytes(tokenizer), prompt)


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> TokenBytes:
    """Of a tokenizer that `has_bytes`."""
    if tokenizer not in _token_bytes:
        _token_bytes[tokenizer] = TokenBytes(tokenizer.backend_tokenizer)
    return _token_bytes[tokenizer]


def is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether its text is the bytes of its tokens and nothing else (see `tokens/decode.py` for chat templates)."""
    own, plain = type(tokenizer), PreTrainedTokenizerFast
    if not isinstance(tokenizer, plain) or own.decode is not plain.decode or own._decode is not plain._decode:
        return False
    return has_bytes(tokenizer) and tokenizer.chat_template is None


def has_bytes(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether its tokens but for special ones are bytes of the text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and isinstance(backend.decoder, decoders.ByteLevel)


class TextPieces:
    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int] = (), stop: Sequence[str] = ()
    ) -> None:
        self.reader, self.stop = reader_of(tokenizer, prompt), tuple(stop)
        self.held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes. After a stop string there is none."""
        piece = self.reader.push(token_id)
        return self._past_stop(piece) if self.stop else piece

    def end(self) -> str:
        """What was held back, when no more tokens will come."""
        rest = self._past_stop(self.reader.end())
        rest, self.held = rest + ("" if self.stopped else self.held), ""
        return rest

    def _past_stop(self, piece: str) -> str:
        """`piece` with what was held back in front, up to a stop string or to what may be the beginning of one."""
        if self.stopped:
            return ""
        text = self.held + piece
        # The one that is whole first, however the tokens cut the text.
        found = [(text.find(stop) + len(stop), text.find(stop)) for stop in self.stop if stop in text]
        if found:
            self.stopped, self.held = True, ""
            return text[: min(found)[1]]
        longest = max((_overlap(text, stop) for stop in self.stop), default=0)
        self.held = text[len(text) - longest :]
        return text[: len(text) - longest]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that a stop string begins with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
