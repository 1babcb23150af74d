"""Losses row by row against stock Transformers, and the tags' fit on a model that was made to know it."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from florilegium.data import Quote, Template
from florilegium.errors import DataError
from florilegium.evaluation import (
    GENERAL,
    forgetting,
    general_parts,
    loss_metrics,
    read_general,
    row_parts,
    tag_relevance,
)
from florilegium.evaluation import losses as losses_module
from florilegium.evaluation.losses import example_losses
from florilegium.evaluation.metrics import Metric
from florilegium.model import Base, LoadedModel, load_base
from florilegium.tokens import Example, encode
from tests.tiny import PAGES

TEMPLATE = Template.from_text()
QUOTES: list[Quote] = [
    {"quote": "Be kind to the sea.", "tags": ["kindness", "sea"]},
    {"quote": "Time is a slow river, and hope its boat, “they said”.", "tags": ["time"]},
    {"quote": "A door", "tags": []},
    {"quote": "Time", "tags": ["hope", "home", "time"]},
]


@pytest.fixture(scope="module")
def base(tiny: Path) -> Base:
    return load_base(str(tiny), bits=32, device=torch.device("cpu"))


def stock_losses(base: Base, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = base.model(torch.tensor([ids])).logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")


def test_losses_are_those_of_stock_bloom_row_by_row(base: Base) -> None:
    examples = encode(base.tokenizer, TEMPLATE, QUOTES * 5).examples
    for losses, example in zip(
        example_losses(LoadedModel(base, base.model), examples, batch_tokens=256), examples, strict=True
    ):
        assert torch.allclose(torch.tensor(losses), stock_losses(base, example.token_ids), atol=1e-4)


def test_the_parts_are_the_prompt_and_what_follows(base: Base) -> None:
    parts = row_parts(LoadedModel(base, base.model), TEMPLATE, QUOTES, 1024)
    for quote, row in zip(QUOTES, parts, strict=True):
        first, second = row.quote, row.tags
        prompt, text = TEMPLATE.prompt({"quote": quote["quote"]}), TEMPLATE.render(quote)
        ids = [*base.tokenizer(text)["input_ids"], base.tokenizer.eos_token_id]
        size = len(base.tokenizer(prompt)["input_ids"])
        losses = stock_losses(base, ids)
        assert first.tokens == size - 1 and second.tokens == len(ids) - size
        assert first.nats == pytest.approx(float(losses[: size - 1].sum()), abs=1e-3)
        assert second.nats == pytest.approx(float(losses[size - 1 :].sum()), abs=1e-3)
        # The first token is not predicted: it costs no bits, so it has no bytes to divide by.
        free = len(base.tokenizer.decode(ids[:1]).encode())
        assert free > 0 and first.bytes == len(prompt.encode()) - free
        assert first.bytes + second.bytes == len(text.encode()) - free
    found = loss_metrics(parts)
    nats, tokens = sum(r.quote.nats + r.tags.nats for r in parts), sum(r.quote.tokens + r.tags.tokens for r in parts)
    assert found.whole.loss.value == pytest.approx(nats / tokens) and found.whole.tokens == tokens
    assert found.whole.perplexity.value == pytest.approx(math.exp(nats / tokens))
    assert found.whole.bits_per_byte.value == pytest.approx(
        nats / math.log(2) / sum(r.quote.bytes + r.tags.bytes for r in parts)
    )
    assert found.quote.tokens + found.tags.tokens == tokens
    assert found.whole.loss.low <= found.whole.loss.value <= found.whole.loss.high


@pytest.mark.parametrize("writes_bos", [False, True])
@pytest.mark.parametrize("text", ["{quote} ->: {tags}", "{tags} :<- {quote}", "“{quote}” ->: {tags}", "{quote}"])
def test_a_uniform_model_has_the_same_bits_per_byte_with_and_without_a_bos(
    base: Base, text: str, writes_bos: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight bits for each byte that a token adds: 8 bits per predicted byte, however the row begins."""
    tokenizer = deepcopy(base.tokenizer)
    if writes_bos:
        single = f"{tokenizer.bos_token} $A"
        special = [(tokenizer.bos_token, tokenizer.bos_token_id)]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=special)
    assert (tokenizer("Time")["input_ids"][0] == tokenizer.bos_token_id) is writes_bos

    def uniform(loaded: LoadedModel, examples: list[Example]) -> list[np.ndarray]:
        found = []
        for example in examples:
            texts = [
                tokenizer.decode(example.token_ids[:i], skip_special_tokens=True)
                for i in range(len(example.token_ids) + 1)
            ]
            sizes = np.diff([len(one.encode()) for one in texts[1:]])
            found.append(8 * math.log(2) * sizes.astype(np.float32))
        return found

    monkeypatch.setattr(losses_module, "example_losses", uniform)
    template = Template.from_text(text)
    quotes = [quote for quote in QUOTES if quote["tags"] and str(quote["quote"]).isascii()]
    loaded = LoadedModel(replace(base, tokenizer=tokenizer), base.model)
    found = loss_metrics(row_parts(loaded, template, quotes, 1024))
    assert found.whole.tokens and (found.quote.tokens or "tags" not in template.columns)
    for one in (one for one in (found.whole, found.quote, found.tags) if one.tokens):
        assert one.bits_per_byte is not None and one.bits_per_byte.value == pytest.approx(8.0, rel=1e-5)
    for row in row_parts(loaded, template, quotes, 1024):
        assert sum(part.bytes for part in row.parts.values()) == row.quote.bytes + row.tags.bytes


def test_general_text(base: Base, tmp_path: Path) -> None:
    bundled, paragraphs = read_general(GENERAL), read_general(PAGES)
    assert bundled[: len(paragraphs)] == paragraphs and sum(len(p.split()) for p in bundled) > 18_000
    parts = general_parts(LoadedModel(base, base.model), paragraphs)
    same = forgetting(parts, parts)
    assert same.change == Metric(0.0, 0.0, 0.0) and same.before == same.after
    free = sum(len(base.tokenizer.decode(ids[:1]).encode()) for ids in base.tokenizer(paragraphs)["input_ids"])
    assert sum(p.bytes for p in parts) == pytest.approx(len("".join(paragraphs).encode()) - free, rel=0.01)
    long = tmp_path / "long.txt"
    long.write_text("\n".join(f"Line number {i} of a long file, and nothing else in it." for i in range(500)))
    assert len(general_parts(LoadedModel(base, base.model), read_general(long))) == 320
    for name, content, word in (
        ("no.txt", None, "cannot read"),
        ("empty.txt", b" \n", "no text"),
        ("latin.txt", b"\xe9", "UTF-8"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=word):
            read_general(tmp_path / name)


def test_relevance_tells_fitting_tags_from_shuffled_ones(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    subjects = ["sea", "kindness", "river", "boat", "door", "home", "hope", "time"]
    rows: list[Quote] = [{"quote": f"Of the {a}, {i} times.", "tags": [a]} for i, a in enumerate(subjects * 4)]

    def knowing(loaded: LoadedModel, examples: list[Example], batch_tokens: int = 4096) -> list[np.ndarray]:
        """A base to which a tag is likelier where it stands in the quote."""
        found = []
        for example in examples:
            quote, tags = base.tokenizer.decode(example.token_ids[:-1]).split(" ->:")
            found.append(np.full(len(example.token_ids) - 1, 1.0 if tags.strip() in quote else 2.0))
        return found

    monkeypatch.setattr("florilegium.evaluation.relevance.example_losses", knowing)
    tags = [list(row["tags"]) for row in rows]
    found = tag_relevance(LoadedModel(base, base.model), TEMPLATE, rows, tags, 1024)
    assert found is not None and found.rows == len(rows)
    assert found.match.lift.value > 0.6 and found.match.wins.value > 0.8
    assert abs(found.shuffled.lift.value) < 0.25 and 0.35 < found.shuffled.wins.value < 0.65
    assert tag_relevance(LoadedModel(base, base.model), TEMPLATE, rows[:2], tags[:2], 1024) is None
    assert tag_relevance(LoadedModel(base, base.model), Template.from_text("{quote}"), rows, tags, 1024) is None


def test_relevance_of_a_random_model_is_chance(base: Base) -> None:
    rows: list[Quote] = [
        {"quote": f"Be kind to the {w}, {i} times.", "tags": [w]} for i in range(10) for w in ("sea", "home", "boat")
    ]
    found = tag_relevance(LoadedModel(base, base.model), TEMPLATE, rows, [list(row["tags"]) for row in rows], 1024)
    assert found is not None and abs(found.match.lift.value) < 0.1 and abs(found.shuffled.lift.value) < 0.1
