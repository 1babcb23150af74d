"""A look at DATA before anything is trained: what it holds, what is wrong with it, and three rows exactly as they will
be trained.

Bad rows end nothing here: they are counted and their causes listed (`strict` makes an error of the first one). Torch is
imported only where tokens or a chat template are asked for; without tokens the three rows are the first ones, with them
the first of a first step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florilegium.config import TrainConfig
from florilegium.data import Rows, Split, read_rows_of, report_on, split_by_config
from florilegium.data.data_report import DataReport
from florilegium.storage.json_record import JsonRecord

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from florilegium.data.reading import Progress
    from florilegium.tokens import Example

SHOWN = 3


@dataclass(frozen=True)
class RowTokens(JsonRecord):
    """A row's tokens, which of them carry loss, and where it lies in its packed row."""

    tokens: list[str]
    token_ids: list[int]
    learned: list[bool]
    packed_row: int
    packed_from: int
    packed_to: int


@dataclass(frozen=True)
class InspectedRow(JsonRecord):
    """A row as it is trained; with `--tokens` encoded, too."""

    place: str
    text: str
    encoded: RowTokens | None = None

    def to_json(self) -> dict[str, object]:
        tokens = self.encoded.to_json() if self.encoded else {}
        return {"place": self.place, "text": self.text, **tokens}


@dataclass(frozen=True)
class TokenLengths(JsonRecord):
    """Tokens of all rows, of the median row and of the longest one."""

    total: int
    median: int
    max: int


@dataclass(frozen=True, kw_only=True)
class Inspection(DataReport):
    """What `inspect` finds. Without `--tokens` it knows of no tokens, nor which rows are cut."""

    cut_rows: int | None = None
    tokens: TokenLengths | None = None
    rows: list[InspectedRow]

    def to_json(self) -> dict[str, object]:
        unknown = () if self.tokens else ("cut_rows", "tokens")
        return {name: value for name, value in super().to_json().items() if name not in unknown}


def inspect(
    data: str | Path = "sample",
    *,
    tokens: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
    **settings: Any,  # those of TrainConfig, by their names
) -> dict[str, object]:
    """Counts, lengths, tags and problems of the rows, what the data doctor finds (`findings`), the near-duplicate pairs
    across the split and across a random one (`leaks`), and under `rows` three rows as they are trained. With `tokens`
    their tokens too, which of them carry loss, and where each row lies in its packed row. Plain values. Raises what
    reading and encoding raise."""
    config = replace(TrainConfig(data=str(data), **settings), skip_bad_rows=not strict)
    return inspection(config, tokens, progress).to_json()


def inspection(config: TrainConfig, tokens: bool = False, progress: Progress | None = None) -> Inspection:
    """What `inspect` makes plain values of."""
    rows = read_rows_of(config, progress=progress)
    if config.chat:
        config, rows = replace(config, loss_on="tags"), _as_chat(config, rows)
    split = split_by_config(config, rows, progress)
    report = vars(report_on(rows, split, config.held_out, config.seed, config.split_by))
    if tokens:
        cut_rows, lengths, shown = _tokenised(config, rows, split)
        return Inspection(**report, cut_rows=cut_rows, tokens=lengths, rows=shown)
    numbers = split.training[:SHOWN]
    shown = [InspectedRow(rows.places[i], rows.template.render(rows.quotes[i])) for i in numbers]
    return Inspection(**report, rows=shown)


def _as_chat(config: TrainConfig, rows: Rows) -> Rows:
    """The rows as `--chat` renders them. Raises UsageError for a model without a chat template."""
    from florilegium.tokens import chat_rows

    return chat_rows(rows, _tokenizer(config.model, config.revision), config.model)


def _tokenised(config: TrainConfig, rows: Rows, split: Split) -> tuple[int, TokenLengths, list[InspectedRow]]:
    """Rows that are cut, lengths in tokens, and the first rows of a first step of 16, token by token."""
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
        found = RowTokens(
            tokens=[str(tokenizer.decode([t], clean_up_tokenization_spaces=False)) for t in example.token_ids],
            token_ids=example.token_ids,
            # The first token is never predicted: nothing stands before it.
            learned=[i > 0 and trained for i, trained in enumerate(example.loss_mask)],
            packed_row=row,
            packed_from=start,
            packed_to=end,
        )
        shown.append(InspectedRow(places[i], rows.template.render(quotes[i]), found))
    lengths = sorted(len(e.token_ids) for e in encoded.examples)
    return encoded.num_cut, TokenLengths(sum(lengths), lengths[len(lengths) // 2], lengths[-1]), shown


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
