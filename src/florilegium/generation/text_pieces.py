"""Tokens to text as they come: a piece a token, without decoding the whole text again for each.

    pieces = TextPieces(tokenizer, prompt_ids, stop=["\\n"])
    piece = pieces.push(token_id)        "" while a character is not whole, or while it may become a stop string
    pieces.stopped                       whether a stop string came; it is no part of the text
    piece = pieces.end()                 what was held back

All pieces together are the text that decoding prompt and tokens at once puts behind the prompt."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from florilegium.tokens import text_of

CONTEXT = 8  # tokens in front that are decoded again with the new one: a tokenizer may treat a text's first token apart
WINDOW = 32
UNKNOWN = "\ufffd"


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return text_of(tokenizer, ids)


class TextPieces:
    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int] = (), stop: Sequence[str] = ()
    ) -> None:
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self.window = list(prompt[-CONTEXT:])
        self.shown = len(decoded(tokenizer, self.window))  # characters of the window's text
        self.held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes. After a stop string there is none."""
        self.window.append(token_id)
        text = decoded(self.tokenizer, self.window)
        # A character may be several tokens. Until the last of them is there it is decoded as U+FFFD, one to three.
        whole = len(text) - min(3, len(text) - len(text.rstrip(UNKNOWN)))
        piece = text[self.shown : whole]
        self.shown = max(self.shown, whole)
        if len(self.window) >= WINDOW and whole == len(text):
            self.window = self.window[-CONTEXT:]
            self.shown = len(decoded(self.tokenizer, self.window))
        return self._past_stop(piece)

    def end(self) -> str:
        """What was held back, when no more tokens will come."""
        rest = self._past_stop(decoded(self.tokenizer, self.window)[self.shown :])
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
