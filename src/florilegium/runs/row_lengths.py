"""How many tokens the rows have, before a model is downloaded: counted by its tokenizer where that is here, else from
their bytes. Of many rows a part is taken, spread evenly."""

from __future__ import annotations

from collections.abc import Sequence

from florilegium.config import TrainConfig
from florilegium.data import Rows
from florilegium.model.hub import config_folder, read_config
from florilegium.model.tokenizer_loader import load_tokenizer
from florilegium.tokens import chat_template, encode

MOST_ROWS = 4096
ROW_TOKENS = 8192  # of a row that many documents are packed into, on CUDA
CPU_BATCH_TOKENS = 4096  # of a batch, where autograd keeps what our own forward pass computes
BYTES_A_TOKEN = 4.3  # english_quotes by BLOOM's tokenizer


def ways(rows: Rows) -> int:
    """How many times each row is trained in a pass: twice with `--direction both`."""
    return 2 if rows.template.tags_first else 1


def row_lengths(config: TrainConfig, rows: Rows, numbers: Sequence[int]) -> tuple[list[int], bool]:
    """Tokens that each of these rows takes in a batch (of at most MOST_ROWS of them), and whether they were counted."""
    chosen = numbers[:: max(1, -(-len(numbers) // MOST_ROWS))]
    quotes = [rows.quotes[i] for i in chosen]
    folder = config_folder(config.model, config.revision)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        sizes = [len(rows.template.render(quote).encode()) / BYTES_A_TOKEN for quote in quotes]
        return [min(config.max_length, max(1, round(size))) for size in sizes * ways(rows)], False
    tokenizer = load_tokenizer(folder, read_config(folder, config.model), config.model)
    places = [rows.places[i] for i in chosen]
    template = chat_template(rows.template, tokenizer, config.model) if config.chat else rows.template
    examples = encode(
        tokenizer, template, quotes, max_length=config.max_length, loss_on=config.loss_on, places=places
    ).examples
    return [len(example.token_ids) - 1 for example in examples], True
