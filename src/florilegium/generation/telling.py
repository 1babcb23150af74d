"""How much of several texts is written, told while they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from florilegium.generation.request import Request, TokenEvent

Tell = Callable[[int, int], None]  # so many tokens, of at most so many


def telling(written: Iterable[TokenEvent], requests: Sequence[Request], tell: Tell) -> Iterator[TokenEvent]:
    """Passes `written` on. The tokens that a text might have had, and ended without, count as written."""
    left = [request.settings.max_new_tokens for request in requests]
    total, done = sum(left), 0
    tell(0, total)
    for event in written:
        share = left[event.request] if event.ended else 1
        left[event.request] -= share
        done += share
        tell(done, total)
        yield event
    tell(total, total)
