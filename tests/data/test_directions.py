"""A row trained quote first, tags first, or both ways: one template writes and reads both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florilegium.data import Quote, Template, read_rows
from florilegium.errors import DataError, UsageError
from florilegium.seedling import FOLDER
from florilegium.tokens import encode_ways

PLAIN = Template.from_text("{quote} ->: {tags}")
BOTH, TAGS = PLAIN.in_direction("both"), PLAIN.in_direction("tags")
ROW: Quote = {"quote": "Be kind.", "tags": ["life", "love"]}


def test_quote_first_is_the_template_as_it_is() -> None:
    assert PLAIN.in_direction("quote") is PLAIN and PLAIN.asked_by_tags is None
    assert [t.direction for t in (PLAIN, TAGS, BOTH)] == ["quote", "tags", "both"]


def test_both_ways_are_read_back() -> None:
    assert BOTH.render(ROW) == "Be kind. ->: life, love"
    assert BOTH.tags_first is not None and BOTH.tags_first.render(ROW) == "life, love :<- Be kind."
    assert BOTH.parse("Be kind. ->: life, love") == BOTH.parse("life, love :<- Be kind.") == ROW
    assert list(BOTH.parse("life, love :<- Be kind.") or {}) == ["quote", "tags"]
    assert TAGS.parse("life, love :<- Be kind.") == ROW and TAGS.main_column == "quote"
    assert TAGS.prompt({"tags": ["life"]}) == "life :<-"


def test_a_template_that_begins_with_its_tags_is_tags_first_already() -> None:
    own = Template.from_text("{tags} ->: {quote}")
    assert own.in_direction("tags") is own and own.asked_by_tags is own


@pytest.mark.parametrize("text", ["{quote} by {author}", "{quote}", '"{quote}" ->: {tags}', "{quote} :<- {tags}"])
def test_what_has_no_tags_to_put_first_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--direction both needs"):
        Template.from_text(text).in_direction("both")


signs = st.lists(st.sampled_from(["->:", ":<-", ":", "<-", " ", "a", "é", "-", ">"]), min_size=1, max_size=8).map(
    "".join
)


@given(signs, st.lists(signs, max_size=3))
def test_what_is_rendered_is_read_back_in_both_ways_or_refused(quote: str, tags: list[str]) -> None:
    assert BOTH.tags_first is not None
    try:
        sound = BOTH.normalise({"quote": quote, "tags": tags})
        text = BOTH.render_sound(sound)
    except DataError:
        return
    assert BOTH.parse(text) == BOTH.parse(BOTH.tags_first.render_sound(sound)) == sound


def test_a_row_that_holds_the_sign_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [ROW, {"quote": "a :<- b", "tags": ["c"]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(read_rows(path).quotes) == 2
    assert read_rows(path, direction="both", skip_bad_rows=True).quotes == [ROW]
    with pytest.raises(DataError, match="rows.jsonl:2: .*':<-'"):
        read_rows(path, direction="both")


def test_each_row_is_encoded_in_each_way_and_its_prompts_are_prefixes() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    quotes: list[Quote] = [ROW, {"quote": "No tags here.", "tags": []}, {"quote": "Rain again.", "tags": ["rain"]}]
    places = ["a", "b", "c"]
    one = encode_ways(tokenizer, PLAIN, quotes, max_length=64, loss_on="all", places=places)
    two = encode_ways(tokenizer, BOTH, quotes, max_length=64, loss_on="tags", places=places)
    texts = [tokenizer.decode(e.token_ids, skip_special_tokens=True) for e in two.examples]
    assert len(one.examples) == 3 and [e.token_ids for e in one.examples] == [e.token_ids for e in two.examples[:3]]
    assert texts[3:] == ["life, love :<- Be kind.", "rain :<- Rain again."]
    learned = [t for t, m in zip(two.examples[3].token_ids, two.examples[3].loss_mask, strict=True) if m]
    assert tokenizer.decode(learned, skip_special_tokens=True).strip() == "Be kind."


def test_a_long_row_is_cut_in_its_quote_whichever_comes_first() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    long: Quote = {"quote": "the sea is wide " * 20, "tags": ["sea"]}
    found = encode_ways(tokenizer, BOTH, [BOTH.normalise(long)], max_length=32, loss_on="all", places=["a"])
    texts = [tokenizer.decode(e.token_ids, skip_special_tokens=True) for e in found.examples]
    assert found.num_cut == 2 and all(len(e.token_ids) <= 32 for e in found.examples)
    assert texts[0].endswith("->: sea") and texts[1].startswith("sea :<- the sea is wide")
