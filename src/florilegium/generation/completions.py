"""What several requests come to once all of it is written: by this process, or by several in shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from florilegium.generation.request import Completion, Request, TokenEvent
from florilegium.generation.telling import Tell, telling
from florilegium.model import LoadedModel

Write = Callable[[LoadedModel, Sequence[Request]], Iterable[TokenEvent]]


def completions(
    loaded: LoadedModel, requests: Sequence[Request], write: Write, tell: Tell | None = None
) -> list[Completion]:
    """What `write` writes for each request. A text's draws are its number's, whichever process writes it. `tell` hears
    of this process's share."""

    def share(numbers: Sequence[int]) -> list[list[float]]:
        own = [requests[i] for i in numbers]
        written = write(loaded, own)
        done = collect(telling(written, own, tell) if tell else written, len(own))
        return [[*one.token_ids, one.finished] for one in done]

    sizes = [len(request.token_ids) + request.settings.max_new_tokens for request in requests]
    return [Completion([int(token) for token in ids], bool(finished)) for *ids, finished in loaded.by_all(sizes, share)]


def collect(written: Iterable[TokenEvent], count: int) -> list[Completion]:
    """All that was written for each of `count` requests."""
    ids: list[list[int]] = [[] for _ in range(count)]
    finished = [False] * count
    for token in written:
        if token.token_id is None:
            finished[token.request] = True
        else:
            ids[token.request].append(token.token_id)
    return [Completion(row, done) for row, done in zip(ids, finished, strict=True)]
