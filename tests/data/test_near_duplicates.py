"""Near-duplicates: planted ones are found, all of them; what only looks alike is not; and an index finds what comparing
all pairs does."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from florilegium.data import Quote, clusters, count_leaks, fold, make_split, near_pairs, read_rows
from florilegium.data.near_duplicates import EXACT_ROWS

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


def runs(words: list[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(words[k : k + length]) for k in range(max(1, len(words) - length + 1))} if words else set()


def pairs_by_comparing_all(texts: list[str]) -> set[tuple[int, int]]:
    """The two rules and the weighing, as the module's docstring says them, on sets of words."""
    words = [fold(text) for text in texts]
    twos = [runs(row, 2) for row in words]
    holders = Counter(run for row in twos for run in row)
    weigh = {run: max(0.0, math.log(max(len(texts), 400) / (20 * count))) for run, count in holders.items()}

    def near(i: int, j: int) -> bool:
        """i is the shorter one; of rows of the same size either may be."""
        shared = twos[i] & twos[j]
        dice = 2 * len(shared) / (len(twos[i]) + len(twos[j]))
        lighter = min(sum(weigh[run] for run in row) for row in (twos[i], twos[j]))
        weight = sum(weigh[run] for run in shared)
        rare = weight >= lighter / 3 and weight >= 0.1 * math.log(max(len(texts), 400) / 20) * len(twos[i])
        threes = runs(words[i], 3)
        within = len(threes) >= 5 and 4 * len(threes & runs(words[j], 3)) >= 3 * len(threes)
        numbers = {word for word in words[i] if word.isdigit()} <= set(words[j])
        return 2 * len(shared) >= len(twos[i]) and (rare or dice >= 0.85) and numbers and (dice >= 0.5 or within)

    found = set()
    for i, j in combinations([i for i, row in enumerate(twos) if row], 2):
        sides = (
            [(i, j), (j, i)] if len(twos[i]) == len(twos[j]) else [(i, j) if len(twos[i]) < len(twos[j]) else (j, i)]
        )
        if any(near(*side) for side in sides):
            found.add((i, j))
    return found


def test_the_index_finds_what_comparing_all_pairs_finds(english_quotes: Path) -> None:
    texts = [str(row["quote"]) for row in read_rows(english_quotes).quotes][:700]
    found = pairs_by_comparing_all(texts)
    assert set(near_pairs(texts)) == found and len(found) == 5


WORD_LIST = "lamp river bread stone window garden letter bridge winter needle harbor candle orchard kettle ladder"
WORDS = WORD_LIST.split()


def test_what_templates_share_is_no_likeness() -> None:
    """Jokes, product titles and headlines of one mould; an edited copy of one is found all the same."""
    chance = random.Random(1)
    rare = [f"{a}{b}{c}" for a in WORDS for b in WORDS for c in WORDS]
    jokes = [f"What do you call a {chance.choice(rare)} made of {chance.choice(rare)}s?" for _ in range(500)]
    titles = [
        f"Brand{a} {b} cotton {c} for the {d} with free returns"
        for a, b, c, d in (chance.choices(WORDS, k=4) for _ in range(900))
    ]
    news = []
    for _ in range(500):
        a, b = chance.choices(rare, k=2)
        news.append(f"{a} shares rise {chance.randint(1, 9)}% after {b} quarter results")
    for texts in (jokes, titles, news):
        rows: list[Quote] = [{"quote": text, "tags": []} for text in dict.fromkeys(texts)]
        split = make_split(rows, 0.1, 0)
        assert len(split.pairs) < len(rows) // 5
        assert 0.05 * len(rows) < len(split.held_out) < 0.15 * len(rows)
    copy = jokes[7].replace("What do you", "So what would you")
    assert (7, 500) in near_pairs([*jokes, copy])


def test_the_index_of_many_rows_finds_planted_edits() -> None:
    """Beyond `EXACT_ROWS` two shared runs are asked for: an edit shares nearly all."""
    chance = random.Random(2)
    words = [f"{a}{b}{c}" for a in WORDS for b in WORDS for c in "abcdefgh"]
    texts = [" ".join(chance.choices(words, k=chance.randint(6, 20))) for _ in range(EXACT_ROWS)]
    planted = []
    for number in chance.sample(range(EXACT_ROWS), 300):
        edited = texts[number].split()
        edited[chance.randrange(len(edited))] = chance.choice(words)
        planted.append((number, len(texts)))
        texts.append(" ".join(edited))
    assert set(planted) <= set(near_pairs(texts))


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
