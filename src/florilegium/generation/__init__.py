"""Generation: prompts to tokens (`decode`, `slots`), chance (`sampling`), and quotes out of them (`generate`)."""

from florilegium.generation.completions import collect
from florilegium.generation.decode import PackedDecoder, StockDecoder, write_batch
from florilegium.generation.engine import BatchEngine, Engine, make_engine
from florilegium.generation.generate import Generated, generate_texts, stream_text, write
from florilegium.generation.request import Completion, Request, TokenEvent
from florilegium.generation.scheduler import ContinuousBatcher

__all__ = [
    "BatchEngine",
    "Completion",
    "ContinuousBatcher",
    "Engine",
    "Generated",
    "PackedDecoder",
    "Request",
    "StockDecoder",
    "TokenEvent",
    "collect",
    "generate_texts",
    "make_engine",
    "stream_text",
    "write",
    "write_batch",
]
