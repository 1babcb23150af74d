"""The side of a row is decided by its text, and by nothing that may change round it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from florilegium.data import Quote, read_rows, split_rows
from florilegium.errors import UsageError


def quotes(count: int, start: int = 0) -> list[Quote]:
    return [{"quote": f"Saying number {i}.", "tags": ["x"]} for i in range(start, start + count)]


def held_out(rows: list[Quote], share: float, seed: int = 0) -> set[str]:
    train, out = split_rows(rows, share, seed)
    assert sorted(train + out) == list(range(len(rows))) and train == sorted(train) and out == sorted(out)
    return {str(rows[index]["quote"]) for index in out}


def test_growing_and_reordering_moves_nothing() -> None:
    rows = quotes(500)
    first = held_out(rows, 0.1)
    assert 25 < len(first) < 80
    mixed = quotes(300, start=500) + random.Random(0).sample(rows, 500)
    assert held_out(mixed, 0.1) & {str(row["quote"]) for row in rows} == first
    assert held_out(rows, 0.2) > first, "a larger share only adds"
    assert held_out(rows, 0.1, seed=1) != first


def test_equal_quotes_stay_together() -> None:
    rows = quotes(200)
    again: list[Quote] = [{"quote": "  " + str(row["quote"]).upper().replace(" ", "\n "), "tags": []} for row in rows]
    _, out = split_rows(rows + again, 0.3)
    assert {index % 200 for index in out if index < 200} == {index % 200 for index in out if index >= 200}


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 30])
def test_few_rows(count: int, share: float) -> None:
    for start in range(20):
        train, out = split_rows(quotes(count, 100 * start), share)
        assert train and (out or count < 10)


def test_the_edges() -> None:
    assert split_rows(quotes(20), 0) == (list(range(20)), [])
    assert split_rows([], 0.1) == ([], [])
    assert split_rows(quotes(1) * 20, 0.5) == (list(range(20)), []), "one quote, twenty times: it is for training"
    assert split_rows([{"tags": [f"t{i}"], "quote": "a"} for i in range(20)], 0.5)[1]
    for share in (-0.1, 1, 1.5, float("nan")):
        with pytest.raises(UsageError, match="held-out share"):
            split_rows(quotes(3), share)


def test_english_quotes_leaks_no_quote(english_quotes: Path) -> None:
    rows = read_rows(english_quotes).quotes
    train, out = split_rows(rows, 0.1)
    assert (len(train), len(out)) == (2256, 252)
    texts = [" ".join(str(row["quote"]).casefold().split()) for row in rows]
    assert not {texts[index] for index in train} & {texts[index] for index in out}
