"""What writing will take: `florilegium estimate --for generate`.

The decoder holds the base, the adapter in 16 bits, and for each text keys and values of every token in 16 bits. A token
reads every weight once, so one text goes at the rate of the card's memory; what many at once cost more is measured
(H200, bloom-7b1 in int8: 334 tokens/s of one text, 11,604 of 64, docs/benchmarks.md)."""

from __future__ import annotations

from dataclasses import dataclass

from florilegium.config import SamplingSettings, TrainConfig
from florilegium.model.gpus import Gpu
from florilegium.model.memory_plan import WORKSPACE
from florilegium.model.skeleton import Skeleton

BANDWIDTH_SHARE = 0.56  # of a card's memory bandwidth, with one text
COST_OF_A_TEXT = 0.0134  # of a step's time, for each text more
PROMPT_TOKENS = 64


@dataclass(frozen=True)
class GenerationNeeds:
    """Bytes, and tokens a second of all texts together; None where the card's rates are not known."""

    texts: int
    needed: int
    available: int
    cache: int
    tokens_per_second: float | None

    @property
    def fits(self) -> bool:
        return self.needed <= self.available

    def to_json(self) -> dict[str, object]:
        return {
            "texts": self.texts,
            "needed_bytes": self.needed,
            "available_bytes": self.available,
            "cache_bytes": self.cache,
            "fits": self.fits,
            "tokens_per_second": self.tokens_per_second,
        }


def generation_needs(
    skeleton: Skeleton, config: TrainConfig, card: Gpu | None, available: int, texts: int
) -> GenerationNeeds:
    """What it takes to write `texts` quotes at once, each of the default length."""
    size = 2 if card is not None or config.bits == 16 else 4
    heads = skeleton.config.num_attention_heads
    kept_heads = getattr(skeleton.config, "num_key_value_heads", None) or heads
    places = texts * (PROMPT_TOKENS + SamplingSettings().max_new_tokens)
    cache = 2 * size * skeleton.num_layers * skeleton.width * kept_heads // heads * places
    choices = texts * skeleton.vocab_size * 9  # logits and their order in float32, tokens seen in one byte
    weights = skeleton.base_bytes(config.bits)
    needed = weights + 2 * skeleton.count.trained + cache + choices + WORKSPACE
    rate = None
    if card is not None and card.bandwidth is not None:
        step = weights / (card.bandwidth * 1e9 * BANDWIDTH_SHARE) * (1 + COST_OF_A_TEXT * (texts - 1))
        rate = texts / step
    return GenerationNeeds(texts, needed, available, cache, rate)
