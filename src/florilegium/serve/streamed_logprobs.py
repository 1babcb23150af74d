"""Log-probabilities in a stream: pieces of a text and the tokens that they are, each with its log-probability.

They are those of whole answers (`logprobs.py`), read in a pass over the text so far. A pass for each token would cost more
than the text, so tokens go out a few at a time: one, then two, four, and eight from there on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from florilegium.serve.choices import Piece
from florilegium.serve.logprobs import TokenLogprob

MOST_AT_ONCE = 8
# of a choice's tokens so far, those from a number on
Read = Callable[[int, list[int], int], Awaitable[list[TokenLogprob]]]


@dataclass
class _Text:
    """A choice: its tokens, how many of them were sent, how many go out next, and the text that waits with them."""

    ids: list[int] = field(default_factory=list)
    sent: int = 0
    at_once: int = 1
    text: str = ""

    @property
    def waiting(self) -> int:
        return len(self.ids) - self.sent


class LogprobStream:
    """Pieces of `choices` texts go in one by one and come out a few tokens in one, with those tokens. The end of a text is
    a token too, `eos`."""

    def __init__(self, choices: int, eos: int, read: Read) -> None:
        self.texts = [_Text() for _ in range(choices)]
        self.eos, self.read = eos, read

    async def push(self, piece: Piece) -> tuple[Piece, list[TokenLogprob]] | None:
        """None while more tokens of that text are waited for."""
        own = self.texts[piece.choice]
        own.text += piece.text
        if piece.token or piece.finish:
            own.ids.append(self.eos if piece.token_id is None else piece.token_id)
        if own.waiting < own.at_once and not piece.finish:
            return None
        tokens = await self.read(piece.choice, own.ids, own.sent)
        whole = piece._replace(text=own.text)
        own.sent, own.text, own.at_once = len(own.ids), "", min(2 * own.at_once, MOST_AT_ONCE)
        return whole, tokens
