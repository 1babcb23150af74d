"""Generation: prompts to tokens (`decode`, `slots`), chance (`sampling`), and quotes out of them (`generate`)."""

from florilegium.generation.decode import PackedDecoder, StockDecoder, write_batch
from florilegium.generation.generate import Generated, collect, generate_texts, stream_text, write
from florilegium.generation.request import Completion, Request, TokenEvent
from florilegium.generation.scheduler import ContinuousBatcher

__all__ = [
    "Completion",
    "ContinuousBatcher",
    "Generated",
    "PackedDecoder",
    "Request",
    "StockDecoder",
    "TokenEvent",
    "collect",
    "generate_texts",
    "stream_text",
    "write",
    "write_batch",
]
