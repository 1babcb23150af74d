"""The side of a row is decided by its text, and by nothing that may change round it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from florilegium.data import Quote, make_split, read_rows, split_rows
from florilegium.errors import DataError, UsageError


def quotes(count: int, start: int = 0) -> list[Quote]:
    return [{"quote": f"Saying number {i}.", "tags": ["x"]} for i in range(start, start + count)]


def held_out(rows: list[Quote], share: float, seed: int = 0) -> set[str]:
    train, out = split_rows(rows, share, seed)
    assert sorted(train + out) == list(range(len(rows))) and train == sorted(train) and out == sorted(out)
    return {str(rows[index]["quote"]) for index in out}


def test_split_is_stable_under_growth_and_reordering() -> None:
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
    assert split_rows([{"tags": [f"t{i}"]} for i in range(20)], 0.5)[1]
    assert not split_rows([{"tags": [f"t{i}"], "quote": "a"} for i in range(20)], 0.5)[1], "one quote again"
    for share in (-0.1, 1, 1.5, float("nan")):
        with pytest.raises(UsageError, match="--held-out is"):
            split_rows(quotes(3), share)


def test_the_first_of_a_cluster_decides_and_later_rows_move_nothing(english_quotes: Path) -> None:
    rows = read_rows(english_quotes).quotes
    whole = make_split(rows, 0.1)
    for count in (2000, 1200, 300):
        part = make_split(rows[:count], 0.1)
        assert part.held_out == [i for i in whole.held_out if i < count] and part.training == [
            i for i in whole.training if i < count
        ]


def test_a_row_near_to_both_sides_is_set_aside() -> None:
    one = "The sea keeps no letters, and the shore forgets the names we write on it"
    two = "A lamp does not argue with the dark, it only stands where it was put"
    both: Quote = {"quote": f"{one}. {two}.", "tags": []}
    for seed in range(100):
        split = make_split([{"quote": one, "tags": []}, {"quote": two, "tags": []}, *quotes(20), both], 0.5, seed)
        apart = (0 in split.held_out) != (1 in split.held_out)
        assert split.set_aside == ([22] if apart else []) and split.leaks == 0


def test_by_author(english_quotes: Path) -> None:
    rows = read_rows(english_quotes)
    split = make_split(rows.quotes, 0.1, by="author", authors=rows.authors)
    trained, out = ({rows.authors[i] for i in side} for side in (split.training, split.held_out))
    assert not trained & out and 150 < len(split.held_out) < 350
    assert split.leaks == 0 and len(split.set_aside) < 20
    with pytest.raises(DataError, match="author"):
        make_split(quotes(20), 0.1, by="author", authors=[""] * 20)
    with pytest.raises(UsageError, match="split-by"):
        make_split(quotes(20), 0.1, by="autor")


def test_english_quotes_leaks_at_random_and_not_by_cluster(english_quotes: Path) -> None:
    rows = read_rows(english_quotes).quotes
    split, loose = make_split(rows, 0.1), make_split(rows, 0.1, by="random")
    assert (len(split.training), len(split.held_out), len(split.set_aside)) == (2257, 251, 0)
    assert (split.leaks, loose.leaks, len(loose.held_out)) == (0, 5, 252)
    for side in (split, loose):
        texts = [" ".join(str(row["quote"]).casefold().split()) for row in rows]
        assert not {texts[i] for i in side.training} & {texts[i] for i in side.held_out}


def test_rows_with_their_tags_first_are_told_apart_by_their_text() -> None:
    """Those of one tag are no near-duplicates of one another."""
    draw = random.Random(3)
    texts = [" ".join("".join(draw.choices("abcdefgh", k=5)) for _ in range(9)) for _ in range(40)]
    rows: list[Quote] = [{"tags": ["sea"], "quote": text} for text in texts]
    turned: list[Quote] = [{"quote": row["quote"], "tags": row["tags"]} for row in rows]
    assert make_split(rows, 0.2, 0).held_out == make_split(turned, 0.2, 0).held_out


def test_rows_of_one_instruction_are_told_apart_by_all_that_they_say() -> None:
    """As Alpaca has them: by their first column none could be held out, by near-duplicates or by chance."""
    rows: list[Quote] = [
        {"instruction": "Name the topics.", "input": f"{word} {other} {word[::-1]} {other[::-1]}", "output": word}
        for word in ("rain", "bread", "night", "stone", "light")
        for other in ("patience", "courage", "laughter", "silence", "memory")
    ]
    for by in ("near-duplicates", "random"):
        split = make_split(rows, 0.2, by=by)
        assert 0 < len(split.held_out) < 13 and len(split.training) > 12
        assert make_split(rows, 0.2, by=by, on="first-column").held_out == []
    same: list[Quote] = [{"quote": "Be kind to rain.", "mood": word} for word in "abcdefghijkl"]
    assert make_split(same, 0.2).held_out == [], "the same quote with other labels"
    some = [*rows[:8], *({**row, "instruction": f"{i}. Say it."} for i, row in enumerate(rows[8:]))]
    assert make_split(some, 0.2) == make_split(some, 0.2, on="first-column"), "a third at most: as ever"
