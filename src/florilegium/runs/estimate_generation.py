"""What writing will take: `florilegium estimate --for generate`.

The decoder holds the base, the adapter in 16 bits, and for each text keys and values of every token in 16 bits. A token
reads every weight once, so one text goes at a share of the rate of the card's memory; that share, and what many at once
cost more, are measured (H200, bloom-7b1: 359 tokens/s of one text in int8 and 316 in NF4, whose unpacking takes longer than
reading; 12,484 of 64 in int8; docs/benchmarks.md)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from florilegium.config import SamplingSettings, TrainConfig
from florilegium.model.gpus import Gpu, smallest_card
from florilegium.model.memory_plan import WORKSPACE
from florilegium.model.skeleton import Skeleton

if TYPE_CHECKING:
    from transformers import PretrainedConfig

BANDWIDTH_SHARE = {4: 0.36, 8: 0.6, 16: 0.6, 32: 0.6}  # of a card's memory bandwidth by the base's bits, with one text
COST_OF_A_TEXT = 0.0133  # of a step's time, for each text more
PROMPT_TOKENS = 64
PROCESS_BYTES = 600 << 20  # Python, torch and Transformers in main memory


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
    places = texts * (PROMPT_TOKENS + SamplingSettings().max_new_tokens)
    cache = size * skeleton.num_layers * cached_numbers(skeleton.config) * places
    choices = texts * skeleton.vocab_size * 9  # logits and their order in float32, tokens seen in one byte
    weights = skeleton.base_bytes(config.bits)
    needed = weights + 2 * skeleton.count.trained + cache + choices + (PROCESS_BYTES if card is None else WORKSPACE)
    rate = None
    if card is not None and card.bandwidth is not None:
        step = weights / (card.bandwidth * 1e9 * BANDWIDTH_SHARE[config.bits]) * (1 + COST_OF_A_TEXT * (texts - 1))
        rate = texts / step
    return GenerationNeeds(texts, needed, available, cache, rate)


def cached_numbers(config: PretrainedConfig) -> int:
    """Keys and values that a block keeps of a token. A head need not be its share of the width: Qwen3-0.6B is 1,024 wide
    and has 16 heads of 128."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    kept = getattr(text, "num_key_value_heads", None) or heads
    if getattr(text, "new_decoder_architecture", False):  # Falcon's later ones
        kept = text.num_kv_heads
    elif getattr(text, "multi_query", False):  # one for all
        kept = 1
    return int(2 * kept * head_dim)


def what_would_be_written(skeleton: Skeleton, config: TrainConfig, card: Gpu | None, available: int, texts: int) -> str:
    """What to do about `texts` texts that do not fit: fewer at once, other bits, or the smallest card for one."""

    def needed(texts: int, bits: int = config.bits) -> int:
        return generation_needs(skeleton, replace(config, bits=bits), card, available, texts).needed

    most = (available - needed(0)) // (needed(1) - needed(0))
    if most >= 1:
        return f"Use --batch {min(most, texts - 1)}: the others are written after them"
    least = min(skeleton.bytes_by_bits, key=lambda bits: needed(1, bits))
    with_bits = "" if least == config.bits else f" with --bits {least}"
    if needed(1, least) <= available:
        return f"Use --batch 1{with_bits}"
    if config.gpu_memory_limit:
        return "Leave --gpu-memory-limit out, or choose a smaller --model"
    fitting = smallest_card(needed(1, least))
    if fitting is None:
        return "Choose a smaller --model: no single card holds it"
    return f"Choose a smaller --model, or a card of {fitting.gigabytes} GB ({fitting.name}){with_bits}"
