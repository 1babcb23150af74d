"""Do the tags fit the quote? Asked of the base model, which has not seen the rows and was not taught what to
answer.

    lift(quote, tags) = log p(tags | this quote) - log p(tags | another row's quote)      in nats a token of the tags, end-of-text left out

The tags are the same on both sides, so it does not matter how common or how long they are; only the quote changes. Tags
that have nothing to do with their quote have a lift of 0 on average, and are more likely beside the other quote half of
the time: that is the control, `shuffled`, where the tags of all rows were dealt out anew. The rows' own tags, which
people chose, show how far the base can tell at all."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from florilegium.data import Quote, Template
from florilegium.errors import DataError
from florilegium.evaluation.confidence import mean, ratio
from florilegium.evaluation.losses import example_losses
from florilegium.evaluation.metrics import TagMatch, TagRelevance
from florilegium.evaluation.rows_relevance import writes_tags
from florilegium.model import LoadedModel
from florilegium.tokens import encode

ROUNDS = 2  # other quotes that each row's tags are tried with


def tag_relevance(
    loaded: LoadedModel,
    template: Template,
    quotes: Sequence[Quote],
    tags: Sequence[Sequence[str]],
    max_length: int,
    seed: int = 0,
) -> TagRelevance | None:
    """Lift of `tags[i]` beside `quotes[i]`, the share of comparisons that it wins (0.5 is chance), and the same for
    shuffled tags; `loaded` must be without its adapter. None for a side that writes no tags (in fewer than three rows, or
    than a tenth of them), or for a template that does not end in a list."""
    column = template.columns[-1]
    if column not in template.list_columns or len(template.columns) < 2 or not writes_tags(tags):
        return None
    rows = [{**quote, column: list(own)} for quote, own in zip(quotes, tags, strict=True) if own]
    rows = [row for row in rows if _renders(template, row)]
    if len(rows) < 3:
        return None
    chance = random.Random(f"florilegium relevance {seed}")
    fitting = _lift(loaded, template, rows, max_length, chance)
    dealt = _shifted(rows, [row[column] for row in rows], chance, column)
    shuffled = _lift(loaded, template, dealt, max_length, chance)
    return TagRelevance(_with_intervals(fitting), _with_intervals(shuffled), len(rows))


def _with_intervals(lifts_RK: np.ndarray) -> TagMatch:
    wins = (lifts_RK > 0) + 0.5 * (lifts_RK == 0)
    return TagMatch(mean(lifts_RK.mean(-1)), ratio(wins.sum(-1), [float(wins.shape[1])] * len(wins)))


def _lift(
    loaded: LoadedModel, template: Template, rows: Sequence[Quote], max_length: int, chance: random.Random
) -> np.ndarray:
    """Float64 [rows, ROUNDS]."""
    column = template.columns[-1]
    own = _scores(loaded, template, rows, max_length)
    others = [
        _scores(loaded, template, _shifted(rows, [r[column] for r in rows], chance, column), max_length)
        for _ in range(ROUNDS)
    ]
    return np.stack([own - scores for scores in others], -1)


def _shifted(rows: Sequence[Quote], tags: Sequence[Any], chance: random.Random, column: str) -> list[Quote]:
    """Each row's tags beside the quote of another row: row i of the answer holds tags[i], so that scores can be
    compared place by place."""
    order = list(range(len(rows)))
    chance.shuffle(order)
    other = {i: order[(place + 1) % len(order)] for place, i in enumerate(order)}  # one cycle: nobody keeps his own
    return [{**rows[other[i]], column: tags[i]} for i in range(len(rows))]


def _scores(loaded: LoadedModel, template: Template, rows: Sequence[Quote], max_length: int) -> np.ndarray:
    """Log-probability a token of each row's tags, float64 [rows]."""
    examples = encode(loaded.base.tokenizer, template, rows, max_length=max_length, loss_on="tags").examples
    found = []
    for example, losses in zip(examples, example_losses(loaded, examples), strict=True):
        tag_losses = losses[max(example.loss_mask.index(True) - 1, 0) : -1]
        found.append(-float(tag_losses.mean()) if len(tag_losses) else 0.0)
    return np.array(found)


def _renders(template: Template, row: Quote) -> bool:
    """Whether tags that a model wrote can stand in the template."""
    try:
        template.render(row)
    except DataError:
        return False
    return True
