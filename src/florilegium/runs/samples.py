"""What a model writes at each evaluation of its training, for people to watch it by; several processes write in shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from florilegium.generation import Generated
from florilegium.generation.telling import Tell
from florilegium.generation.tuned import Tuned
from florilegium.signals import StopRequest
from florilegium.training import Distributed, SharedStop
from florilegium.training.shares import Shares

SAMPLE_TOKENS = 60


def shared_by(tuned: Tuned, distributed: Distributed, stop: StopRequest | None = None) -> Tuned:
    """`tuned` as all processes ask it: each writes a share of the texts. A signal ends all shares."""
    if not distributed.has_others:
        return tuned
    return replace(tuned, loaded=replace(tuned.loaded, sharing=Shares(distributed, stop)))


@dataclass(frozen=True)
class Samples:
    """The prompts, and whether each wants tags; the same draws every time."""

    tuned: Tuned
    prompts: Sequence[tuple[str, bool]]
    seed: int

    def write(self, stop: StopRequest | SharedStop, tell: Tell | None = None) -> list[Generated]:
        """A text for each prompt. Raises ResourceError, and Interrupted when a signal ends it."""
        settings = self.tuned.sampling(max_new_tokens=SAMPLE_TOKENS, seed=self.seed)
        texts = [self.tuned.prompt_text(prompt, tags=wants_tags) for prompt, wants_tags in self.prompts]
        with stop.heard("samples were left", ""):
            return self.tuned.complete(texts, settings, tell=tell)
