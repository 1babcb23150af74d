"""What is quick gives what the plain way gives: words of many texts at once, signs that are found once, sides of rows.

The plain ways stand here, one text or row at a time. The digests at the end are those of the program before it read a
million rows in blocks: pairs, sides and rows of the real quotes and of made-up ones."""

from __future__ import annotations

import hashlib
import random
import unicodedata
from collections import defaultdict
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from bench.data.million_rows import make
from florilegium.data import Quote, Template, make_split, near_pairs, read_rows
from florilegium.data.mojibake import is_broken_text, mend
from florilegium.data.quote import split_items
from florilegium.data.run_index import RunIndex
from florilegium.data.split import _folded, _sides
from florilegium.data.words import _NOT_WORDS, _WORD, fold
from florilegium.errors import DataError

PIECES = [
    *"aZ 09 _-.,'`’‘“”–—…\n\t\0|",
    "don't",
    "“So”",
    "  ",
    "â€œ",
    "Ã©",
    "é",
    "ß",
    "İ",
    "山",
    "ไทย",
    "काल",
    "\u2003",
    "½",
    "\x85",
    "\ufffd",
]


def texts_of(chance: random.Random, number: int) -> list[str]:
    """Texts of all kinds, ASCII ones in stretches; some are empty, and no two neighbours need be alike."""
    return [
        "".join(chance.choices(PIECES[:18] if chance.random() < 0.5 else PIECES, k=chance.randrange(14)))
        for _ in range(number)
    ]


def fold_plainly(text: str) -> list[str]:
    text = unicodedata.normalize("NFKD", mend(text) if is_broken_text(text) else text)
    return _WORD.findall(_NOT_WORDS.sub("", text).casefold())


def test_words_of_many_texts_are_those_of_each() -> None:
    texts = texts_of(random.Random(1), 2500)  # more than one block
    numbers: defaultdict[str, int] = defaultdict(count().__next__)
    rows = [[numbers[word] for word in fold_plainly(text)] for text in texts]
    assert [fold(text) for text in texts] == [fold_plainly(text) for text in texts]
    index = RunIndex(texts)
    assert [index.words_of(row) for row in range(len(texts))] == rows
    assert index.is_number.tolist() == [word.isdigit() for word in numbers]
    assert len(numbers) > 200


def test_what_a_row_weighs_is_the_sum_of_its_runs() -> None:
    index = RunIndex(texts_of(random.Random(2), 300))
    weights_R = np.log(1 + index.holders_R)
    runs = [index.row_runs[index.row_starts[row] : index.row_starts[row + 1]] for row in range(300)]
    assert index.weights_of_rows(weights_R).tolist() == pytest.approx([weights_R[found].sum() for found in runs])


def test_white_space_is_folded_whatever_it_is() -> None:
    for text in texts_of(random.Random(3), 2000):
        assert _folded(text) == " ".join(text.casefold().split())


@pytest.mark.parametrize(
    "text",
    [
        "{quote} ->: {tags}",
        "{tags} ->: {quote}",
        "{quote}---{tags}",
        "{quote} >>> {author} ->: {tags}",
        "{quote} - {tags}",
        "{tags} - {quote}",
        "[{quote} ->: {tags}]",
        "100% {quote} %%% {tags}",
    ],
)
def test_a_row_is_rendered_or_refused_as_parsing_it_says(text: str) -> None:
    template, chance = Template.from_text(text), random.Random(4)
    signs = ["a", "b ", " ->: ", "->:", "-", "->", "--", ":", ">", "%", "%s", "%%%", ",", ", ", "[", "]", " "]
    refused = 0
    for _ in range(1200):
        row = {name: "".join(chance.choices(signs, k=chance.randrange(6))) for name in template.columns}
        try:
            sound = template.normalise(row)
        except DataError:
            continue
        joined = "".join(part for _, part in template.pieces(sound)).rstrip()
        is_read_back = template.parse(joined) == sound
        refused += not is_read_back
        if is_read_back:
            assert template.render_sound(sound) == joined
        else:
            with pytest.raises(DataError):
                template.render_sound(sound)
    assert refused > 10


def sides_plainly(drawn: list[float], pairs: list[tuple[int, int]], limit: float, *, follow: bool) -> list[bool | None]:
    sides: list[bool | None] = []
    for row, number in enumerate(drawn):
        found = {sides[i] for i, j in pairs if j == row} - {None}
        if not (follow and found):
            found.add(number < limit)
        sides.append(found.pop() if len(found) == 1 else None)
    return sides


@pytest.mark.parametrize("follow", [True, False])
def test_split_equals_brute_force(follow: bool) -> None:
    for seed in range(30):
        chance = random.Random(seed)
        drawn = [chance.random() for _ in range(200)]
        pairs = sorted({(i, j) for i, j in (sorted(chance.sample(range(200), 2)) for _ in range(80))})
        assert _sides(drawn, pairs, 0.3, follow=follow) == sides_plainly(drawn, pairs, 0.3, follow=follow)
        assert _sides(drawn, pairs, 0.0, follow=follow) == sides_plainly(drawn, pairs, 0.0, follow=follow)
    few = [0.5, 0.25, 0.25, 0.75] * 3
    for share, limit in ((0.1, 0.5), (0.6, 0.6), (0.9, 0.75)):
        assert _sides(few, [], share, follow=follow) == [number < limit for number in few]


def digest_of_all(path: Path) -> str:
    """Of the rows of a file, their near-duplicates, and the sides that both ways of splitting give."""
    rows = read_rows(path)
    splits = [
        make_split(rows.quotes, 0.1, seed, by=by, authors=rows.authors)
        for seed, by in ((0, "near-duplicates"), (1, "author"))
    ]
    texts = [str(quote["quote"]) for quote in rows.quotes]
    what = (rows.quotes, rows.places, rows.authors, rows.digest, rows.notes, near_pairs(texts))
    sides = [(split.training, split.held_out, split.set_aside, split.pairs) for split in splits]
    return hashlib.sha256(repr((what, sides)).encode()).hexdigest()[:16]


def test_made_up_rows_give_what_they_gave(tmp_path: Path) -> None:
    make(tmp_path / "rows.jsonl", 3000)
    assert digest_of_all(tmp_path / "rows.jsonl") == "f18650f10a660d1e"


def test_english_quotes_gives_what_it_gave(english_quotes: Path) -> None:
    assert digest_of_all(english_quotes) == "d504396946fc9c57"


def test_a_list_with_a_number_in_it_is_refused_by_its_place() -> None:
    quote: Quote = Template.from_text().normalise({"quote": "a", "tags": ("b", "b", " c,d ")})
    assert quote["tags"] == ["b", "c", "d"] == split_items("b, c ,d,")
    with pytest.raises(DataError, match="item 2 is a number"):
        Template.from_text().normalise({"quote": "a", "tags": ["b", 3]})
