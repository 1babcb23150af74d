"""render, prompt, parse: what comes out goes in again, and what could not is refused."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florilegium.data import Quote, Template
from florilegium.errors import DataError, UsageError

DEFAULT = Template.from_text()
KIND: Quote = {"quote": "Be kind.", "tags": ["kindness", "life"]}


def test_there_and_back() -> None:
    assert DEFAULT.columns == ("quote", "tags") and DEFAULT.list_columns == ("tags",)
    assert DEFAULT.render(KIND) == "Be kind. ->: kindness, life"
    assert DEFAULT.parse("Be kind. ->: kindness, life") == KIND
    assert DEFAULT.render({"quote": "Be kind.", "tags": []}) == "Be kind. ->:"
    assert DEFAULT.parse("Be kind. ->:") == {"quote": "Be kind.", "tags": []}


def test_normalise() -> None:
    row = {"quote": "\n  Be\r\n  kind é \u00a0", "tags": " life , ,love,life, a  b", "author": 3}
    assert DEFAULT.normalise(row) == {"quote": "Be\r\n  kind é", "tags": ["life", "love", "a  b"]}
    assert DEFAULT.normalise({"quote": "x", "tags": ["a, b", " ", "b", "A"]}) == {"quote": "x", "tags": ["a", "b", "A"]}


def test_prompt_ends_where_the_training_text_goes_on() -> None:
    assert DEFAULT.prompt({"quote": " Be kind. "}) == "Be kind. ->:"
    assert DEFAULT.prompt({"quote": "Be "}, open=True) == "Be"
    assert DEFAULT.prompt({"quote": "Be kind. ->: "}, open=True) == "Be kind. ->:"
    assert DEFAULT.prompt({"quote": "Be kind.", "tags": ["life", "lo"]}, open=True) == "Be kind. ->: life, lo"
    assert DEFAULT.prompt(KIND) == DEFAULT.render(KIND)
    assert DEFAULT.prompt({}) == DEFAULT.prompt() == DEFAULT.prompt({}, open=True) == ""
    framed = Template.from_text("Quote: {quote}\nBy: {author}\nTags: {tags}.")
    assert framed.prompt() == "Quote:"
    assert framed.prompt({"quote": "Be kind."}) == "Quote: Be kind.\nBy:"
    assert framed.prompt({"quote": "Be kind.", "author": "A. Nonymous"}) == "Quote: Be kind.\nBy: A. Nonymous\nTags:"


@pytest.mark.parametrize(
    ("given_columns", "error"),
    [
        ({"tags": ["life"]}, UsageError),
        ({"text": "Be kind."}, UsageError),
        ({"quote": "Be ->: kind."}, DataError),
        ({"quote": " "}, DataError),
        ({"quote": None}, DataError),
        ({"quote": "a\x00b"}, DataError),
    ],
)
def test_prompts_that_are_refused(given_columns: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        DEFAULT.prompt(given_columns)


@pytest.mark.parametrize("text", ["Be kind.", "", "Be kind. -> life", ": life", "->: life", " ->:"])
def test_a_text_that_holds_no_quote(text: str) -> None:
    assert DEFAULT.parse(text) is None


def test_a_generated_text_may_be_sloppy() -> None:
    for text in (
        "Be kind.->: kindness,life",
        "  Be kind.  ->:kindness ,  life, life,\n",
        "Be kind.\n->:\nkindness,, life",
    ):
        assert DEFAULT.parse(text) == KIND


def test_a_wordy_separator_needs_its_white_space() -> None:
    template = Template.from_text("{quote} by {author} - {tags}")
    quote: Quote = {"quote": "A baby is self-made", "author": "Ruby-Ann", "tags": ["hobby"]}
    assert template.parse(template.render(quote)) == quote
    with pytest.raises(DataError, match="'quote' contains the separator 'by'"):
        template.render({**quote, "quote": "Written by me"})
    with pytest.raises(DataError, match="'author' contains the separator '-'"):
        template.render({**quote, "author": "Ruby - Ann"})


def test_edges_that_make_a_separator_are_refused() -> None:
    template = Template.from_text("{quote}:::{tags}")
    with pytest.raises(DataError, match="'quote' runs into the separator ':::'"):
        template.render({"quote": "Kind:", "tags": ["a"]})
    assert template.render({"quote": "Kind", "tags": [":a"]}) == "Kind::::a"
    assert DEFAULT.render({"quote": "Kind -", "tags": ["> :"]}) == "Kind - ->: > :"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no placeholder"),
        ("quote", "no placeholder"),
        ("{}", "not the name"),
        ("{0}", "not the name"),
        ("{q.__class__.__mro__}", "not the name"),
        ("{quote!r:>9999999999}", "not the name"),
        ("{quote[0]} x {tags}", "not the name"),
        ("{{quote}}", "unmatched '{'"),
        ("{{ ''.__class__ }}", "unmatched '{'"),
        ("{% for x in y %}", "not the name"),
        ("{quote} ->: {tags", "unmatched '{'"),
        ("{quote}} ->: {tags}", "unmatched '}'"),
        ("{quote} \n\t {tags}", "nothing but white space between"),
        ("{quote}{tags}", "nothing but white space between"),
        ("{quote} ->: {quote}", "twice"),
        ("{quote} \x00 {tags}", "invalid character"),
        ("{quote} \udc80 {tags}", "invalid character"),
    ],
)
def test_invalid_templates_are_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        Template.from_text(text)
    assert caught.value.fix


TEMPLATES = [
    DEFAULT,
    Template.from_text("{quote}->:{tags}"),
    Template.from_text("{tags}: {quote}"),
    Template.from_text("{quote} - {author}, tagged: {tags}."),
    Template.from_text('"{quote}" ->: [{tags}]'),
    Template.from_text("{quote}\n:: {labels}", list_columns=("labels",)),
    Template.from_text("> {quote}"),
]
PIECES = [*"->:,. []{ab\n\t\u00a0é“😀ﬁ", '"', "->:", "->", "::", ", ", "  ", "tagged:", "{quote}"]
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=6).map("".join)


def holds(template: Template, row: dict[str, object]) -> bool:
    """Whether render took the row; whatever it takes must come back."""
    try:
        quote = template.normalise(row)
        text = template.render(quote)
    except DataError:
        return False
    assert template.normalise(quote) == quote
    assert template.parse(text) == quote
    assert text == text.rstrip()
    for given_count in range(len(template.columns)):
        part = {name: quote[name] for name in template.columns[:given_count]}
        assert text.startswith(template.prompt(part)) and text.startswith(template.prompt(part, open=True))
    return True


@pytest.mark.parametrize("examples", [100, pytest.param(1_000, marks=pytest.mark.slow)])
def test_parse_undoes_render_for_whatever_hypothesis_finds(examples: int) -> None:
    @given(st.lists(st.tuples(TEXT, TEXT, st.lists(TEXT, max_size=4), st.booleans()), min_size=20, max_size=20))
    @settings(max_examples=examples, deadline=None, derandomize=True)
    def rows_come_back(rows: list[tuple[str, str, list[str], bool]]) -> None:
        for quote, author, tags, as_text in rows:
            row = {"quote": quote, "author": author, "tags": ",".join(tags) if as_text else tags, "labels": tags}
            for template in TEMPLATES:
                holds(template, row)

    rows_come_back()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.text)
def test_parse_undoes_render_for_ten_thousand_quotes(template: Template) -> None:
    draw = random.Random(template.text)

    def text(most: int) -> str:
        return "".join(draw.choices(PIECES, k=draw.randint(0, most)))

    taken = 0
    for _ in range(10_000):
        tags = [text(3) for _ in range(draw.randint(0, 3))]
        taken += holds(template, {"quote": text(5), "author": text(3), "tags": tags, "labels": tags})
    assert taken > 4_000, "the test must not pass by refusing"


def test_nothing_is_refused_without_a_separator_in_it() -> None:
    draw = random.Random(0)
    for _ in range(2_000):
        row = {"quote": "x" + "".join(draw.choices("->, .\n“é", k=8)), "tags": ["".join(draw.choices("-> a", k=4))]}
        assert holds(DEFAULT, row)


def test_hostile_values_take_no_time() -> None:
    wide = {"quote": "a" + " " * 1_000_000 + "b" + "->" * 100_000, "tags": ["-"] * 100_000}
    assert holds(DEFAULT, wide)
