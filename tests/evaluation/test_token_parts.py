"""Words and constants apart: against a plain loop over stock logits that finds the parts in its own way."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from florilegium.data import Quote, Template
from florilegium.evaluation import loss_metrics, row_parts
from florilegium.evaluation.token_parts import PARTS, parts_of_tokens
from florilegium.model import Base, LoadedModel, load_base
from florilegium.tokens import encode
from tests.evaluation.test_losses import QUOTES, TEMPLATE, stock_losses


@pytest.fixture(scope="module")
def base(tiny: Path) -> Base:
    return load_base(str(tiny), bits=32, device=torch.device("cpu"))


def unpredicted(base: Base, quote: Quote) -> int:
    """Bytes of the first token, which costs nothing."""
    return len(base.tokenizer.decode(base.tokenizer(TEMPLATE.render(quote))["input_ids"][:1]).encode())


def plain_loop(base: Base, quote: Quote) -> dict[str, tuple[float, int]]:
    """Sums of a rendered row "q ->: a, b": the characters are crossed off one token after the other."""
    kinds = "q" * len(str(quote["quote"])) + "s" * len(" ->:")
    for i, tag in enumerate(quote["tags"]):
        kinds += ("," if i else "") + "t" * (1 + len(tag))  # with the space before it
    ids = [*base.tokenizer(TEMPLATE.render(quote))["input_ids"], base.tokenizer.eos_token_id]
    names = {"q": "quote_words", "s": "separator", ",": "commas", "t": "tag_words"}
    sums: defaultdict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for i, loss in enumerate(stock_losses(base, ids).tolist()):
        text = base.tokenizer.decode(ids[i + 1 : i + 2])
        place = len(base.tokenizer.decode(ids[: i + 1]).rstrip("�"))
        place += text.startswith(" ") and place + 1 < len(kinds)
        name = "end" if i + 1 == len(ids) - 1 else names[kinds[place]]
        nats, count = sums[name]
        sums[name] = nats + loss, count + 1
    return dict(sums)


def test_parts_are_those_of_a_plain_loop_over_stock_logits(base: Base) -> None:
    rows = row_parts(LoadedModel(base, base.model), TEMPLATE, QUOTES, 1024)
    for quote, row in zip(QUOTES, rows, strict=True):
        wanted = plain_loop(base, quote)
        for name in PARTS:
            nats, tokens = wanted.get(name, (0.0, 0))
            assert row.parts[name].tokens == tokens, (quote, name)
            assert row.parts[name].nats == pytest.approx(nats, abs=1e-3), (quote, name)
        assert sum(part.nats for part in row.parts.values()) == pytest.approx(row.quote.nats + row.tags.nats)
        assert sum(part.tokens for part in row.parts.values()) == row.quote.tokens + row.tags.tokens
        assert row.parts["separator"].tokens > 0 and row.parts["end"].tokens == 1
        assert row.parts["commas"].tokens == max(0, len(quote["tags"]) - 1)
        assert row.parts["quote_words"].bytes == len(str(quote["quote"]).encode()) - unpredicted(base, quote)
        assert row.parts["tag_words"].bytes == sum(len(tag.encode()) for tag in quote["tags"])
        assert row.parts["end"].bytes == 0
    found = loss_metrics(rows).parts
    nats = sum(row.parts[name].nats for row in rows for name in ("quote_words", "tag_words"))
    tokens = sum(row.parts[name].tokens for row in rows for name in ("quote_words", "tag_words"))
    size = sum(len(str(q["quote"]).encode()) + sum(len(t.encode()) for t in q["tags"]) for q in QUOTES)
    size -= sum(unpredicted(base, q) for q in QUOTES)
    assert found["words"].loss is not None and found["words"].bits_per_byte is not None
    assert found["words"].loss.value == pytest.approx(nats / tokens) and found["words"].tokens == tokens
    assert found["words"].bits_per_byte.value == pytest.approx(nats / math.log(2) / size)
    assert found["end"].bits_per_byte is None and found["end"].tokens == len(QUOTES)


@pytest.mark.parametrize(
    "text,quote,parts",
    [
        ("{quote} ->: {tags}", {"quote": "Be kind.", "tags": ["sea", "far home"]}, "quote separator tag comma tag end"),
        ("{quote} ->: {tags}", {"quote": "Be kind.", "tags": []}, "quote separator end"),
        ("{tags} :<- {quote}", {"tags": ["sea"], "quote": "Be kind."}, "tag separator quote end"),
        ("“{quote}” by {author} ->: {tags}", {"quote": "Be", "author": "Ann", "tags": ["sea"]},
         "separator quote separator quote separator tag end"),
        ("{poem} || {mood}", {"poem": "Be kind", "mood": "sad, slow"}, "quote separator tag end"),
        ("{quote}", {"quote": "Be kind."}, "quote end"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_fast", [True, False])
def test_the_order_of_parts(
    base: Base, text: str, quote: Quote, parts: str, is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = Template.from_text(text)
    ids = encode(base.tokenizer, template, [quote]).examples[0].token_ids
    monkeypatch.setattr(type(base.tokenizer), "is_fast", is_fast)
    (found,) = parts_of_tokens(base.tokenizer, template, [quote], [ids])
    assert len(found) == len(ids)
    runs = [part for part, before in zip(found, ["", *found], strict=False) if part != before]
    names = {"quote_words": "quote", "tag_words": "tag", "commas": "comma"}
    assert " ".join(names.get(part, part) for part in runs) == parts


def test_a_quote_that_was_cut_is_measured_as_it_was_cut(base: Base) -> None:
    long: Quote = {"quote": "Be kind to the sea. " * 20, "tags": ["sea"]}
    (row,) = row_parts(LoadedModel(base, base.model), TEMPLATE, [long], 40)
    assert 0 < row.parts["quote_words"].tokens < 40 and row.parts["end"].tokens == 1
    assert row.parts["tag_words"].bytes == 3 and row.parts["quote_words"].bytes < 200
