"""Near-duplicates: planted ones are found, all of them; what only looks alike is not; and an index finds what comparing
all pairs does."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from florilegium.data import Quote, clusters, count_leaks, fold, make_split, near_pairs, read_rows
from florilegium.data.near_duplicates import _Row

NEAR = [
    ("I'm not young enough to know everything.", "“I am not young enough to know everything.”"),
    ("May the odds be ever in your favor!", "Happy Hunger Games! And may the odds be ever in your favor."),
    ("“Don’t walk in front of me.”", "â€œDonâ€™t walk in front of me.â€\ufffd"),
    ("Le café est déjà prêt, mon ami.", "LE CAFE EST DEJA PRET MON AMI"),
    ("Hope.", "“hope”"),
    ("山重水复疑无路，柳暗花明又一村。", "山重水复疑无路,柳暗花明又一村"),
]
NOT_NEAR = [
    ("Saying number 3 of the book, as it was told.", "Saying number 4 of the book, as it was told."),
    ("Be kind.", "Be brave."),
    ("In the end it is not the years in your life that count.", "It is never too late to be what you might have been."),
    ("", ""),
    ("“", "”"),
    ("a b c d e", " ".join(["x", "a", "b", *map(str, range(300)), "d", "e"])),
]


def is_near(one: str, other: str) -> bool:
    return near_pairs([one, other]) == [(0, 1)]


@pytest.mark.parametrize("one,other", NEAR)
def test_copies_are_near(one: str, other: str) -> None:
    assert is_near(one, other) and is_near(other, one)


@pytest.mark.parametrize("one,other", NOT_NEAR)
def test_other_texts_are_not(one: str, other: str) -> None:
    assert not is_near(one, other) and not is_near(other, one)


def test_the_index_finds_what_comparing_all_pairs_finds(english_quotes: Path) -> None:
    texts = [str(row["quote"]) for row in read_rows(english_quotes).quotes][:700]
    rows = [_Row(fold(text)) for text in texts]
    slow = set()
    for i, one in enumerate(rows):
        for j in range(i):
            shorter, longer = sorted((one, rows[j]), key=lambda row: len(row.twos))
            # Rows of the same size may be compared either way round.
            if shorter.twos and (
                shorter.is_near(longer) or (len(shorter.twos) == len(longer.twos) and longer.is_near(shorter))
            ):
                slow.add((j, i))
    assert set(near_pairs(texts)) == slow and slow


def test_english_quotes_has_35_pairs_or_more(english_quotes: Path) -> None:
    rows = read_rows(english_quotes).quotes
    pairs = near_pairs([str(row["quote"]) for row in rows])
    assert len(pairs) == 45
    found = clusters(len(rows), pairs)
    assert (len(found), sum(map(len, found)), len(found[0])) == (43, 88, 3)


def near_copy(text: str, chance: random.Random) -> str:
    """The text with one of the edits that collections of quotes are full of."""
    words = text.split()
    place = chance.randrange(len(words))
    match chance.randrange(7):
        case 0:
            return text.upper().replace(",", "").replace(".", "!")
        case 1:
            words[place] = chance.choice(["gentle", "river", "nothing", "whenever"])
        case 2:
            del words[place]
        case 3:
            words.insert(place, chance.choice(["very", "truly", "always"]))
        case 4:
            words[place] = words[place][:1] + "x" + words[place][1:]
        case 5:
            return f"“{text}” she said, and shut the door — l’après-midi".encode().decode("cp1252", "replace")
        case 6:
            return " ".join(words[: max(7, len(words) * 4 // 5)]) + " (attributed)"
    return " ".join(words)


def test_no_planted_copy_crosses_the_split_in_1000_tries(english_quotes: Path) -> None:
    quotes = [str(row["quote"]) for row in read_rows(english_quotes, fix_encoding=True).quotes]
    chance = random.Random(0)
    tries = crossed = at_random = moved = 0
    for seed in range(10):
        texts = [text for text in chance.sample(quotes, 300) if len(text.split()) >= 6][:100]
        assert len(texts) == 100
        copies = [near_copy(text, chance) for text in texts]
        rows: list[Quote] = [{"quote": text, "tags": []} for text in [*texts, *copies]]
        planted = [(i, i + 100) for i in range(100)]
        before = make_split(rows[:100], 0.3, seed)
        after, loose = make_split(rows, 0.3, seed), make_split(rows, 0.3, seed, by="random")
        tries += len(planted)
        crossed += count_leaks(planted, after.held_out, after.set_aside)
        at_random += count_leaks(planted, loose.held_out)
        moved += len(set(before.held_out) ^ {i for i in after.held_out if i < 100})
    assert (tries, crossed, moved) == (1000, 0, 0)
    assert at_random > 300, "a random split would have leaked: 2 * 0.3 * 0.7 of them"
