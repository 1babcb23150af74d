"""Tags scored as one tree against each tag read alone (`token_scores`), for a family that packs and one that does not;
and lists of known tags alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from florilegium.data import Template
from florilegium.errors import DataError
from florilegium.generation.decode import PackedDecoder, StockDecoder
from florilegium.generation.tag_scores import AT_ONCE, TagContext, known_tags_of, tag_context, tag_scorer
from florilegium.generation.token_scores import token_scores
from florilegium.model import Base, LoadedModel, load_base
from florilegium.tokens import end_of_text, text_ids

TEMPLATE = Template("{quote} ->: {tags}", ("quote", "tags"), ("tags",))
QUOTE = {"quote": "The sea keeps no letters.", "tags": []}
TAGS = ["sea", "sea glass", "sea glass in winter", "memory", "mem", "unheard-of wonders", "hope"]


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    base: Base = load_base("seedling", bits=32, device=torch.device("cpu"))
    return LoadedModel(base, base.model)


def read_alone(loaded: LoadedModel, context: TagContext) -> list[float]:
    """Each tag's text whole, end-of-text behind it."""
    eos = end_of_text(loaded.base.tokenizer)
    texts = [[*context.prompt, *tail, eos] for tail in context.tails]
    found = []
    for scores, tail, comma in zip(
        token_scores(loaded, texts, watch=context.commas), context.tails, context.commas, strict=True
    ):
        own = scores.logprobs[len(context.prompt) - 1 :]
        assert len(own) == len(tail) + 1
        goes_on = scores.watched[-1][context.commas.index(comma)]
        found.append(sum(own[:-1]) + float(np.logaddexp(own[-1], goes_on)))
    return found


@pytest.mark.parametrize("written", [[], ["hope"], ["memory", "hope"]])
@pytest.mark.parametrize("decoder", [PackedDecoder, StockDecoder])
def test_a_tree_scores_as_each_tag_alone(
    loaded: LoadedModel, decoder: type[PackedDecoder] | type[StockDecoder], written: list[str]
) -> None:
    tags = [tag for tag in TAGS if tag not in written]
    context = tag_context(loaded, TEMPLATE, QUOTE, tags, written)
    assert len({len(tail) for tail in context.tails}) > 2, "tags of several lengths"
    with tag_scorer(loaded) as scorer:
        scorer.decoder = decoder(loaded)
        found = scorer.score(context)
    assert found.tags_T == pytest.approx(read_alone(loaded, context), abs=1e-4)
    (alone,) = token_scores(loaded, [[*context.prompt, end_of_text(loaded.base.tokenizer)]])
    assert found.stop == pytest.approx(alone.logprobs[-1], abs=1e-4)
    # what stands there is what the template writes
    (ids,) = text_ids(loaded.base.tokenizer, [TEMPLATE.render({**QUOTE, "tags": [*written, tags[1]]})])
    assert [*context.prompt, *context.tails[1]] == ids


def test_more_tags_than_are_held_at_once(loaded: LoadedModel) -> None:
    tags = [f"{name} {i}" for i in range(AT_ONCE // 4 + 3) for name in ("sea", "hope", "light", "rain")]
    context = tag_context(loaded, TEMPLATE, QUOTE, tags)
    with tag_scorer(loaded) as scorer:
        found = scorer.score(context)
        few = scorer.score(TagContext(context.prompt, context.tails[-5:], context.commas[-5:]))
    assert found.tags_T[-5:] == pytest.approx(few.tags_T, abs=1e-4) and len(found.tags_T) == len(tags) > AT_ONCE


def test_known_tags_are_each_written_once_until_the_end_is_likelier(loaded: LoadedModel) -> None:
    with tag_scorer(loaded) as scorer:
        found = known_tags_of(scorer, loaded, TEMPLATE, QUOTE, TAGS)
    assert found.written and len(set(found.written)) == len(found.written) and set(found.written) <= set(TAGS)
    assert (found.likely_T >= 0).all() and math.isfinite(found.likely_T.sum())
    first = known_first(loaded)
    assert found.written[0] == first, "the first is the most likely one"


def known_first(loaded: LoadedModel) -> str:
    values = read_alone(loaded, tag_context(loaded, TEMPLATE, QUOTE, TAGS))
    return TAGS[int(np.argmax(values))]


def test_a_quote_that_the_template_cannot_hold_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(DataError):
        tag_context(loaded, TEMPLATE, {"quote": "a ->: b", "tags": []}, TAGS)
