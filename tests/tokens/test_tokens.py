"""Encoding teaches end-of-text and cuts only the quote; packing loses nothing and mixes nothing."""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

import pytest
import torch

from florilegium.data import Template, read_rows
from florilegium.errors import DataError
from florilegium.tokens import NO_TARGET, Example, PackPlan, encode, epoch_order, pack, preflight, text_ids
from tests.tiny import make_tokenizer

TEMPLATE = Template.from_text()
KIND = {"quote": "Be kind to the sea.", "tags": ["kindness", "sea"]}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def test_end_of_text_is_appended_and_learned_whatever_the_padding_token(tokenizer) -> None:
    for pad in ("<pad>", "</s>"):
        tokenizer.pad_token = pad
        for loss_on in ("all", "tags"):
            (example,) = encode(tokenizer, TEMPLATE, [KIND], loss_on=loss_on).examples
            assert example.token_ids[-1] == tokenizer.eos_token_id and example.loss_mask[-1]
            (batch,) = pack([example], PackPlan())
            assert batch.targets_BT[0].tolist().count(tokenizer.eos_token_id) == 1


def test_rows_are_the_same_however_many_are_encoded_at_once(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    long = {"quote": "Be kind to the sea. " * 30, "tags": ["kindness"]}
    quotes = [TEMPLATE.normalise(one) for one in (KIND, long, {**KIND, "quote": "Be."}, long, KIND)]
    whole = encode(tokenizer, TEMPLATE, quotes, max_length=40, loss_on="tags")
    monkeypatch.setattr(sys.modules["florilegium.tokens.encode"], "ROWS_AT_ONCE", 2)
    assert encode(tokenizer, TEMPLATE, quotes, max_length=40, loss_on="tags") == whole and whole.num_cut == 2
    for places, named in (((), "row 4"), (["a:1", "a:2", "a:3", "a:9", "a:5"], "a:9")):
        quotes[1:4] = [quotes[0], quotes[0], {**quotes[0], "tags": [f"tag{number}" for number in range(90)]}]
        with pytest.raises(DataError, match=named):
            encode(tokenizer, TEMPLATE, quotes, max_length=40, places=places)


def test_loss_on_tags_begins_where_the_prompt_ends(tokenizer) -> None:
    (example,) = encode(tokenizer, TEMPLATE, [KIND], loss_on="tags").examples
    learned = [t for t, m in zip(example.token_ids, example.loss_mask, strict=True) if m]
    assert tokenizer.decode(learned) == " kindness, sea</s>"


@pytest.mark.parametrize("limit", [16, 24, 40])
def test_too_long_cuts_the_quote_and_never_the_tags(tokenizer, limit: int) -> None:
    long = {"quote": "Be kind to the sea. " * 30, "tags": ["kindness", "sea"]}
    encoded = encode(tokenizer, TEMPLATE, [KIND, TEMPLATE.normalise(long)], max_length=limit)
    assert encoded.num_cut == 1 + (len(text_ids(tokenizer, [TEMPLATE.render(KIND)])[0]) + 1 > limit)
    for example in encoded.examples:
        assert len(example.token_ids) <= limit
        assert tokenizer.decode(example.token_ids).endswith("->: kindness, sea</s>")
    with pytest.raises(DataError, match="does not fit in 4 tokens"):
        encode(tokenizer, TEMPLATE, [long], max_length=4)


def test_preflight_refuses_each_mistake(tokenizer) -> None:
    (good,) = encode(tokenizer, TEMPLATE, [KIND]).examples
    prompt = text_ids(tokenizer, [TEMPLATE.prompt({"quote": KIND["quote"]})])[0]
    eos = tokenizer.eos_token_id
    preflight([good], [prompt], eos)
    without_end = Example(good.token_ids[:-1], good.loss_mask[:-1])
    masked_end = Example(good.token_ids, [*good.loss_mask[:-1], False])
    with_space = text_ids(tokenizer, [TEMPLATE.prompt({"quote": KIND["quote"]}) + " "])[0]
    for example, given, cause in (
        (without_end, prompt, "not end-of-text"),
        (masked_end, prompt, "not end-of-text"),
        (good, with_space, "prompt's tokens"),
    ):
        with pytest.raises(DataError, match=cause) as error:
            preflight([example], [given], eos, ["q.jsonl:7"])
        assert "q.jsonl:7" in error.value.cause and error.value.exit_code == 3


def test_a_separator_that_melts_into_the_tags_is_refused(tokenizer) -> None:
    """A template whose last mark can share a token with what follows would prompt with other ids than it trained."""
    glued = Template.from_text("{quote} k{tags}", ())
    with pytest.raises(DataError, match="prompt's tokens"):
        encode(tokenizer, glued, [{"quote": "A door", "tags": "indness"}])


def random_examples(number: int, seed: int) -> list[Example]:
    rng = random.Random(seed)
    rows = [[rng.randrange(4, 400) for _ in range(rng.randint(1, 60))] + [2] for _ in range(number)]
    return [Example(r, [rng.random() < 0.8 for _ in r[:-1]] + [True]) for r in rows]


@pytest.mark.parametrize(
    "plan", [PackPlan(), PackPlan(20, 1, 64), PackPlan(64, 128, 128), PackPlan(separate=True, batch_tokens=200)]
)
def test_packing_is_a_rearrangement(plan: PackPlan) -> None:
    for seed in range(20):
        examples = random_examples(37, seed)
        seen = []
        for batch in pack(examples, plan):
            assert batch.tokens_BT.shape[1] % plan.multiple == 0
            for b in range(len(batch.tokens_BT)):
                for document in sorted(set(batch.document_BT[b].tolist()) - {-1}):
                    here = batch.document_BT[b] == document
                    tokens, targets = batch.tokens_BT[b][here].tolist(), batch.targets_BT[b][here].tolist()
                    assert batch.position_BT[b][here].tolist() == list(range(len(tokens)))
                    seen.append((tuple(tokens), tuple(targets)))
            padding = batch.document_BT == -1
            assert (batch.targets_BT[padding] == NO_TARGET).all()
            assert batch.num_targets == int((batch.targets_BT != NO_TARGET).sum())
        wanted = [
            (
                tuple(e.token_ids[:-1]),
                tuple(t if m else NO_TARGET for t, m in zip(e.token_ids[1:], e.loss_mask[1:], strict=True)),
            )
            for e in examples
        ]
        assert sorted(seen) == sorted(wanted)


def test_batches_hold_no_more_than_asked() -> None:
    examples = random_examples(200, 0)
    for plan in (PackPlan(64, 8, 256), PackPlan(separate=True, batch_tokens=256)):
        batches = pack(examples, plan)
        assert max(b.tokens_BT.numel() for b in batches) <= 256
        assert sum(b.num_tokens for b in batches) == sum(len(e.token_ids) for e in examples)


def test_epoch_order_is_a_shuffle_by_seed_and_epoch() -> None:
    steps = epoch_order(50, 16, 0, 0)
    assert [len(s) for s in steps] == [16, 16, 16, 2] and sorted(sum(steps, [])) == list(range(50))
    assert steps == epoch_order(50, 16, 0, 0) != epoch_order(50, 16, 0, 1) != epoch_order(50, 16, 1, 0)


def test_english_quotes_pack_with_little_padding(tokenizer, english_quotes: Path) -> None:
    rows = read_rows(english_quotes)
    examples = encode(tokenizer, rows.template, rows.quotes).examples
    assert len(examples) == len(rows.quotes)
    positions = tokens = 0
    for step in epoch_order(len(examples), 16, 0, 0):
        for batch in pack([examples[i] for i in step], PackPlan()):
            positions += batch.tokens_BT.numel()
            tokens += int((batch.document_BT >= 0).sum())
    assert tokens / positions > 0.87


def test_bucketed_lengths_are_few_and_near() -> None:
    plan = PackPlan(multiple=64, bucketed=True)
    for size in range(1, 9000, 7):
        length = plan.round_up(size)
        assert size <= length and length % 64 == 0 and (length - size < 64 or length < size * 17 / 16)
    assert len({plan.round_up(size) for size in range(64, 8193)}) < 90


def test_bucketed_places_of_targets_are_padded_with_a_place_without() -> None:
    examples = [Example(list(range(4, 4 + n)), [i > n // 2 for i in range(n)]) for n in (80, 7, 9)]
    (plain,), (batch,) = pack(examples, PackPlan(200)), pack(examples, PackPlan(200, 64, bucketed=True))
    targets = batch.targets_BT.flatten()
    assert (
        len(targets) == 128
        and len(batch.target_index_N) == 64
        and batch.num_targets == len(plain.target_index_N) == int((targets >= 0).sum())
    )
    assert torch.equal(batch.target_index_N[: batch.num_targets], (targets >= 0).nonzero()[:, 0])
    assert (targets[batch.target_index_N[batch.num_targets :]] < 0).all()


def test_bucketed_places_that_would_be_as_many_as_there_are_are_all() -> None:
    examples = [Example(list(range(4, 4 + n)), [i > 2 for i in range(n)]) for n in (40, 7, 9)]
    (batch,) = pack(examples, PackPlan(200, 64, bucketed=True))
    assert torch.equal(batch.target_index_N, torch.arange(64)) and 32 < batch.num_targets < 64


def test_remaining_tokens_end_with_their_document() -> None:
    (batch,) = pack([Example(list(range(4, 4 + n)), [True] * n) for n in (5, 3, 9)], PackPlan(40))
    index = torch.arange(batch.tokens_BT.shape[1])
    for t in range(len(index)):
        same = (
            index[batch.document_BT[0] == batch.document_BT[0, t]] if batch.document_BT[0, t] >= 0 else index[t : t + 1]
        )
        assert int(batch.remaining_BT[0, t]) == int(same.max()) - t + 1


@pytest.mark.parametrize("plan", [PackPlan(), PackPlan(256, 8, 768), PackPlan(1024, 8, 8192)])
def test_rows_of_a_batch_are_of_one_length(plan: PackPlan) -> None:
    """A step of the sample: 310 tokens were a row of 256, and one of 54 that was padded to it."""
    rng = random.Random(5)
    for total in (310, 270, 530, 1100):
        sizes: list[int] = []
        while sum(sizes) < total:
            sizes.append(rng.randint(8, 30))
        batches = pack([Example(list(range(4, 5 + size)), [True] * (size + 1)) for size in sizes], plan)
        positions = sum(batch.tokens_BT.numel() for batch in batches)
        assert max(batch.tokens_BT.shape[1] for batch in batches) <= plan.row_tokens
        assert sum(len(batch.tokens_BT) for batch in batches) == math.ceil(sum(sizes) / plan.row_tokens)
        assert sum(sizes) / positions > 0.93, (sizes, positions)


@pytest.mark.parametrize("text", ["好" * 300, "ความรัก" * 60, "a word " * 100])
def test_a_text_without_spaces_is_cut_too(tokenizer, text: str) -> None:
    encoded = encode(tokenizer, TEMPLATE, [{"quote": text, "tags": ["love"]}], max_length=64)
    assert encoded.num_cut == 1 and 55 <= len(encoded.examples[0].token_ids) <= 64
