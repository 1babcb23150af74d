"""A look at DATA before anything is trained: what it holds, what is wrong with it, and three rows exactly as they will
be trained.

Bad rows end nothing here: they are counted and their causes listed (`strict` makes an error of the first one). Torch is
imported only where tokens or a chat template are asked for; without tokens the three rows are the first ones, with them
the first of a first step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

from florilegium.config import TrainConfig
from florilegium.data import Rows, Split, read_rows_of, report_on, split_by_config
from florilegium.data.data_report import DataReport

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from florilegium.data.reading import Progress
    from florilegium.tokens import Example

SHOWN = 3


class InspectedRow(TypedDict):
    """A row as it is trained; with `--tokens` its tokens, which of them carry loss, and where it lies in its packed
    row."""

    place: str
    text: str
    tokens: NotRequired[list[str]]
    token_ids: NotRequired[list[int]]
    learned: NotRequired[list[bool]]
    packed_row: NotRequired[int]
    packed_from: NotRequired[int]
    packed_to: NotRequired[int]


class TokenReport(TypedDict):
    """`tokens`: total, median and max."""

    cut_rows: int
    tokens: dict[str, int]
    rows: list[InspectedRow]


class Inspection(DataReport):
    """What `inspect` returns."""

    rows: list[InspectedRow]
    cut_rows: NotRequired[int]
    tokens: NotRequired[dict[str, int]]


def inspect(
    data: str | Path = "sample",
    *,
    tokens: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
    **settings: Any,  # those of TrainConfig, by their names
) -> Inspection:
    """Counts, lengths, tags and problems of the rows, what the data doctor finds (`findings`), the near-duplicate pairs
    across the split and across a random one (`leaks`), and under `rows` three rows as they are trained. With `tokens`
    their tokens too, which of them carry loss, and where each row lies in its packed row. Plain values. Raises what
    reading and encoding raise."""
    config = replace(TrainConfig(data=str(data), **settings), skip_bad_rows=not strict)
    rows = read_rows_of(config, progress=progress)
    if config.chat:
        config, rows = replace(config, loss_on="tags"), _as_chat(config, rows)
    split = split_by_config(config, rows, progress)
    report = cast(
        Inspection, report_on(rows, split, config.held_out, config.seed, config.split_by)
    )  # and below the rest
    if tokens:
        found = _tokenised(config, rows, split)
        report["cut_rows"], report["tokens"], report["rows"] = found["cut_rows"], found["tokens"], found["rows"]
    else:
        numbers = split.training[:SHOWN]
        report["rows"] = [{"place": rows.places[i], "text": rows.template.render(rows.quotes[i])} for i in numbers]
    return report


def _as_chat(config: TrainConfig, rows: Rows) -> Rows:
    """The rows as `--chat` renders them. Raises UsageError for a model without a chat template."""
    from florilegium.tokens import chat_rows

    return chat_rows(rows, _tokenizer(config.model, config.revision), config.model)


def _tokenised(config: TrainConfig, rows: Rows, split: Split) -> TokenReport:
    """Lengths in tokens, rows that are cut, and the first rows of a first step of 16, token by token."""
    from florilegium.tokens import encode, epoch_order

    tokenizer = _tokenizer(config.model, config.revision)
    quotes, places = [rows.quotes[i] for i in split.training], [rows.places[i] for i in split.training]
    encoded = encode(
        tokenizer, rows.template, quotes, max_length=config.max_length, loss_on=config.loss_on, places=places
    )
    step = epoch_order(len(quotes), 16, config.seed, 0)[0]
    where = _places_in_pack([encoded.examples[i] for i in step])
    shown: list[InspectedRow] = []
    for number, i in list(enumerate(step))[:SHOWN]:
        example = encoded.examples[i]
        row, start, end = where[number]
        shown.append(
            {
                "place": places[i],
                "text": rows.template.render(quotes[i]),
                "tokens": [str(tokenizer.decode([t], clean_up_tokenization_spaces=False)) for t in example.token_ids],
                "token_ids": example.token_ids,
                # The first token is never predicted: nothing stands before it.
                "learned": [i > 0 and trained for i, trained in enumerate(example.loss_mask)],
                "packed_row": row,
                "packed_from": start,
                "packed_to": end,
            }
        )
    lengths = sorted(len(e.token_ids) for e in encoded.examples)
    return {
        "cut_rows": encoded.num_cut,
        "tokens": {"total": sum(lengths), "median": lengths[len(lengths) // 2], "max": lengths[-1]},
        "rows": shown,
    }


def _tokenizer(model: str, revision: str | None) -> PreTrainedTokenizerBase:
    from florilegium.model.hub import locate, read_config
    from florilegium.model.tokenizer_loader import load_tokenizer

    folder = locate(model, revision)
    return load_tokenizer(folder, read_config(folder, model), model)


def _places_in_pack(examples: list[Example]) -> list[tuple[int, int, int]]:
    """For each example, its row in the packed batch and the positions from and to (exclusive) that it takes there."""
    from florilegium.tokens import PackPlan, pack

    (batch,) = pack(examples, PackPlan(batch_tokens=1 << 30))
    places = []
    for example in examples:
        size = len(example.token_ids) - 1
        for b, t in (batch.position_BT == 0).nonzero().tolist():
            fits = batch.document_BT[b, t] >= 0 and batch.tokens_BT[b, t : t + size].tolist() == example.token_ids[:-1]
            if fits and (b, t, t + size) not in places:
                places.append((b, t, t + size))
                break
    return places
