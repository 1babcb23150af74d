"""A look at DATA before anything is trained: what it holds, what is wrong with it, and three rows exactly as they will
be learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from florilegium.config import DEFAULT_TEMPLATE
from florilegium.data import make_split, read_rows, report_on
from florilegium.tokens import PackPlan, encode, epoch_order, pack

SHOWN = 3


def inspect(
    data: str | Path = "sample",
    *,
    template: str = DEFAULT_TEMPLATE,
    model: str = "seedling",
    revision: str | None = None,
    skip_bad_rows: bool = False,
    fix_encoding: bool = False,
    split_by: str = "near-duplicates",
    max_length: int = 1024,
    loss_on: str = "all",
    held_out: float = 0.1,
    seed: int = 0,
) -> dict[str, Any]:
    """Counts, lengths, tags and problems of the rows, what the data doctor finds (`findings`), the near-duplicate pairs
    across the split and across a random one (`leaks`), and under `rows` the first three of a first step of 16 shuffled
    rows: text, tokens, which tokens carry loss, and where each lies in its packed row. Plain values. Raises what
    reading and encoding raise."""
    rows = read_rows(data, template, skip_bad_rows=skip_bad_rows, fix_encoding=fix_encoding)
    tokenizer = _tokenizer(model, revision)
    split = make_split(rows.quotes, held_out, seed, by=split_by, authors=rows.authors)
    training = split.training
    quotes, places = [rows.quotes[i] for i in training], [rows.places[i] for i in training]
    encoded = encode(tokenizer, rows.template, quotes, max_length=max_length, loss_on=loss_on, places=places)
    step = epoch_order(len(quotes), 16, seed, 0)[0]
    where = _places_in_pack([encoded.examples[i] for i in step])
    shown = []
    for number, i in list(enumerate(step))[:SHOWN]:
        example = encoded.examples[i]
        tokens = [tokenizer.decode([t], clean_up_tokenization_spaces=False) for t in example.token_ids]
        row, start, end = where[number]
        shown.append(
            {
                "place": places[i],
                "text": rows.template.render(quotes[i]),
                "tokens": tokens,
                "token_ids": example.token_ids,
                # The first token is never predicted: nothing stands before it.
                "learned": [i > 0 and learned for i, learned in enumerate(example.loss_mask)],
                "packed_row": row,
                "packed_from": start,
                "packed_to": end,
            }
        )
    lengths = sorted(len(e.token_ids) for e in encoded.examples)
    return {
        **report_on(rows, split, held_out, seed, split_by),
        "cut_rows": encoded.num_cut,
        "tokens": {"total": sum(lengths), "median": lengths[len(lengths) // 2], "max": lengths[-1]},
        "template": rows.template.text,
        "rows": shown,
    }


def _tokenizer(model: str, revision: str | None) -> Any:
    from florilegium.model.hub import locate, read_config
    from florilegium.model.tokenizer_loader import load_tokenizer

    folder = locate(model, revision)
    return load_tokenizer(folder, read_config(folder, model), model)


def _places_in_pack(examples: list[Any]) -> list[tuple[int, int, int]]:
    """For each example, its row in the packed batch and the positions from and to (exclusive) that it takes there."""
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
