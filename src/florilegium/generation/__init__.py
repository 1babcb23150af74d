"""Generation: prompts to tokens (`decode`), chance (`sampling`), and quotes out of them (`generate`)."""

from florilegium.generation.decode import BloomDecoder, Completion, StockDecoder, complete
from florilegium.generation.generate import Generated, decoding, generate_texts

__all__ = [
    "BloomDecoder",
    "Completion",
    "Generated",
    "StockDecoder",
    "complete",
    "decoding",
    "generate_texts",
]
