"""Log-probabilities in a stream: pieces of a text and the tokens that they are, each with its log-probability.

They are those of whole answers (`logprobs.py`), read in a pass over the text so far. A pass for each token would cost more
than the text, so tokens go out a few at a time: one, then two, four, and eight from there on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from dataclasses import dataclass, field, replace

from florilegium.serve.choices import Piece
from florilegium.serve.logprobs import TokenLogprob

MOST_AT_ONCE = 8
Read = Callable[[int, list[int]], Awaitable[list[TokenLogprob]]]  # of all tokens that a choice has so far


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


async def with_logprobs(
    coming: AsyncIterable[Piece | None], choices: int, eos: int, read: Read
) -> AsyncGenerator[tuple[Piece, list[TokenLogprob]] | None]:
    """The pieces of `choices` texts, a few tokens in one, with those tokens; None where `coming` has nothing to say. The
    end of a text is a token too, `eos`."""
    texts = [_Text() for _ in range(choices)]
    async for piece in coming:
        if piece is None:
            yield None
            continue
        own = texts[piece.choice]
        own.text += piece.text
        if piece.token or piece.finish:
            own.ids.append(eos if piece.token_id is None else piece.token_id)
        if own.waiting < own.at_once and not piece.finish:
            continue
        tokens = (await read(piece.choice, own.ids))[own.sent :]
        yield replace(piece, text=own.text), tokens
        own.sent, own.text, own.at_once = len(own.ids), "", min(2 * own.at_once, MOST_AT_ONCE)
