"""Text to token ids (`encode`), and token ids to packed batches (`pack`)."""

from florilegium.tokens.batch_order import BatchSampler, epoch_order
from florilegium.tokens.chat import chat_rows, chat_template
from florilegium.tokens.decode import text_of
from florilegium.tokens.encode import (
    Encoded,
    Example,
    encode,
    encode_ways,
    end_of_text,
    label_prompt,
    numbered,
    preflight,
    text_ids,
)
from florilegium.tokens.pack import NO_DOCUMENT, NO_TARGET, Batch, PackPlan, pack

__all__ = [
    "NO_DOCUMENT",
    "NO_TARGET",
    "Batch",
    "BatchSampler",
    "Encoded",
    "Example",
    "PackPlan",
    "chat_rows",
    "chat_template",
    "encode",
    "encode_ways",
    "end_of_text",
    "epoch_order",
    "label_prompt",
    "numbered",
    "pack",
    "preflight",
    "text_ids",
    "text_of",
]
