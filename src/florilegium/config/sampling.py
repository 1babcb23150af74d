"""The settings of generation: how the next token is drawn."""

from __future__ import annotations

from dataclasses import dataclass

from florilegium.errors import UsageError


@dataclass(frozen=True)
class SamplingSettings:
    """`temperature` 0 is greedy decoding. `top_k` 0 and `top_p` 1 leave all tokens in."""

    max_new_tokens: int = 100
    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {
            "max_new_tokens": (1 <= self.max_new_tokens <= 100_000, "from 1 to 100000"),
            "temperature": (0 <= self.temperature <= 100, "from 0 (greedy decoding) to 100"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "0 (all) or more"),
            "repetition_penalty": (0 < self.repetition_penalty <= 100, "above 0 and at most 100"),
            "seed": (self.seed >= 0, "0 or more"),
        }
        for name, (good, takes) in limits.items():
            if not good:
                raise UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)}", f"It takes a number {takes}")
