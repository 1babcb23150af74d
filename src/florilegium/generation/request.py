"""What generation is asked for, and what it gives back token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from florilegium.config import SamplingSettings
from florilegium.errors import UsageError, counted

Prompt = tuple[tuple[int, ...], int | None]


@dataclass(frozen=True)
class Request:
    """A prompt (token ids, at least one) to write on from. `number` chooses its draws together with the settings'
    seed; `adapter` is the engine's number of one (0: that of the model itself), None asks the base model."""

    token_ids: Sequence[int]
    number: int
    settings: SamplingSettings
    adapter: int | None = 0

    @cached_property
    def prompt(self) -> Prompt:
        """What the keys and values of its prompt depend on."""
        return tuple(self.token_ids), self.adapter


@dataclass(frozen=True)
class TokenEvent:
    """One token of the request with this index; None is end-of-text. `ended`: there will be no more, since the model
    stopped (None) or `max_new_tokens` are there. `broken`: the model's scores were no numbers, and there is no
    token."""

    request: int
    token_id: int | None
    ended: bool
    broken: bool = False


@dataclass(frozen=True)
class Completion:
    """New tokens of one prompt without end-of-text; `finished` says whether the model stopped by itself."""

    token_ids: list[int]
    finished: bool


def check_fits(request: Request, capacity: int) -> None:
    """Raises UsageError when prompt and limit are more than `capacity` tokens."""
    most, has = request.settings.max_new_tokens, len(request.token_ids)
    if not has or has + most > capacity:
        raise UsageError(
            f"prompt ({counted(has, 'token')}) plus --max-new-tokens ({most:,}) exceeds the limit of "
            f"{capacity:,} tokens",
            "Shorten the prompt, or lower --max-new-tokens",
        )
