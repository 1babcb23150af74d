"""The recipe's texts: prompts, what the filter cleans and drops, topics, and the counted model they are compared with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
torch = pytest.importorskip("torch")


def plain_kneser_ney(train, vocabulary, order, end=2):
    """The textbook recursion over dictionaries: `p(token, context)`."""
    from collections import Counter, defaultdict

    grams = [Counter() for _ in range(order + 1)]
    for document in train:
        tokens = [end] * (order - 1) + document + [end]
        for i in range(order - 1, len(tokens)):
            for n in range(1, order + 1):
                grams[n][tuple(tokens[i - n + 1 : i + 1])] += 1
    for n in range(1, order):
        grams[n] = Counter(gram[1:] for gram in grams[n + 1])
    by_context = [defaultdict(dict) for _ in range(order + 1)]
    taken = [[0, 0, 0, 0]]
    for n in range(1, order + 1):
        of = [max(1, sum(count == c for count in grams[n].values())) for c in (1, 2, 3, 4)]
        y = of[0] / (of[0] + 2 * of[1])
        taken.append([0.0] + [max(0.0, c - (c + 1) * y * of[c] / of[c - 1]) for c in (1, 2, 3)])
        for gram, count in grams[n].items():
            by_context[n][gram[:-1]][gram[-1]] = count

    def probability(token, context):
        n = len(context) + 1
        lower = probability(token, context[1:]) if n > 1 else 1 / vocabulary
        seen = by_context[n].get(context)
        if not seen:
            return lower
        total = sum(seen.values())
        freed = sum(taken[n][min(count, 3)] for count in seen.values())
        count = seen.get(token, 0)
        return (count - taken[n][min(count, 3)]) / total + freed / total * lower

    return probability


def test_kneser_ney_equals_the_textbook():
    import random

    import numpy as np

    from tools.seedling.kneser_ney import probabilities

    rng = random.Random(0)
    train = [[rng.choice([3, 4, 4, 5, 6, 6, 6, 7]) for _ in range(rng.randint(2, 12))] for _ in range(60)]
    test = [[4, 6, 6, 3, 9], [5], [6, 6, 6, 4, 4, 7, 3, 3]]
    oracle = plain_kneser_ney(train, 10, 4)
    expected = []
    for document in test:
        tokens = [2, 2, 2] + document + [2]
        expected += [oracle(tokens[i], tuple(tokens[i - 3 : i])) for i in range(3, len(tokens))]
    ours = probabilities([np.array(d) for d in train], [np.array(d) for d in test], 10, order=4)
    assert np.allclose(ours, expected, rtol=1e-12)
    assert abs(sum(oracle(token, (4, 6, 6)) for token in range(10)) - 1) < 1e-12


def test_filter_cleans_and_drops():
    from collections import Counter

    from tools.seedling import filter as sieve

    assert sieve.clean("saying", '"Patience is a slow river that still arrives."') == (
        "Patience is a slow river that still arrives.",
        "",
    )
    assert (
        sieve.clean("saying", "One is enough here. Two is more here. Three is too much.")[0]
        == "One is enough here. Two is more here."
    )
    assert sieve.clean("reflection", "A lovely morning came. " * 20)[1] == "circles"
    for text, reason in (
        ("Sure, here is a saying about the sea and time.", "talk about the task"),
        ("As an AI language model I cannot feel the sea.", "talk about the task"),
        ("Time is **the thief** of the morning light.", "markup or list"),
        ("Dear [friend's name] the sea is far away.", "markup or list"),
        ("Die Zeit läuft und die 海 bleibt hier stehen.", "script"),
        ("Too short.", "length"),
        ("No end to this sentence about the sea", "length"),
    ):
        assert sieve.clean("saying", text) == (None, reason), text
    rows = [
        {"form": "saying", "topics": [], "text": text}
        for text in (
            "The sea keeps what it takes.",
            "The sea keeps what it takes!",
            "A door is only a wall that forgives.",
        )
    ]
    counts = Counter()
    assert [row["text"] for row in sieve.drop_copies(rows, counts)] == [rows[0]["text"], rows[2]["text"]] and counts[
        "dropped: copy"
    ] == 1
    unread = ["A door is only a wall that forgives you."]  # the sample's
    assert [row["text"] for row in sieve.drop_copies(rows, Counter(), unread)] == [rows[0]["text"]]


def test_topics_are_named_where_they_are_mentioned():
    import random

    from tools.seedling import filter as sieve

    row = {"form": "saying", "topics": ["patience", "bread"], "text": "A patient man hears the sea."}
    assert sieve.topics_of(row) == ["bread", "patience", "sea"]
    assert sieve.topics_of(row | {"text": "No word of it here."}) == []
    documents = [sieve.render(row, random.Random(seed)) for seed in range(200)]
    assert all(row["text"] in document and "->" not in document for document in documents)
    assert 0.5 < sum(document != row["text"] for document in documents) / 200 < 0.85


def test_prompts_are_seeded_and_diverse():
    from tools.seedling.prompts import CORE, EXTRA, prompts

    first, again, other = (list(prompts(0, chunk, 500)) for chunk in (3, 3, 4))
    assert first == again and first != other
    assert len(CORE) == 80 and len(EXTRA) >= 200 and not set(CORE) & set(EXTRA)
    assert len({(prompt.request, prompt.opening) for prompt in first}) > 480


def test_the_teachers_opinion_drops_what_it_doubts():
    from tools.seedling.filter import floors, opinion

    def saying(likelihood, sense):
        return {"form": "saying", "likelihood": likelihood, "sense": sense}

    rows = [saying(-i / 100, i / 10) for i in range(100)] + [{"form": "scene", "likelihood": -9.0}]
    least, least_sense = floors(rows)
    assert opinion(saying(-0.1, least_sense + 0.1), least, least_sense) == ""
    assert opinion(saying(-0.1, least_sense - 0.1), least, least_sense) == "senseless"
    assert opinion(saying(least["saying"] - 0.1, 9.0), least, least_sense) == "unsure"
    assert opinion({"form": "saying", "likelihood": -0.1}, least, least_sense) == "senseless"  # it was not judged
    assert opinion(rows[-1], least, least_sense) == ""
    kept = sum(not opinion(row, least, least_sense) for row in rows[:-1])
    assert 35 <= kept <= 50


def test_candidates_are_sensible_and_unlike_each_other(tmp_path):
    import json

    from tools.seedling import candidates

    def saying(text, topics, sense=2.5):
        return {"form": "saying", "topics": topics, "text": text, "sense": sense, "likelihood": -1.0}

    rows = [
        saying("A borrowed book is a promise that two cousins made to each other.", ["books", "promises"]),
        saying("A borrowed book is a promise that two cousins made to each one.", ["books"], sense=2.4),  # alike
        saying("Her kitchen smells of bread in the morning and of soup at night.", ["bread"]),  # touchy
        saying("Nobody hears the clock until the house is empty and still.", ["furniture"]),  # no core topic
        saying("A quiet lake shows the mountain how it looks at noon.", ["silence"], sense=1.0),  # senseless
        saying("A good book is like a lamp that stands beside the bed.", ["books"]),  # a comparison
        saying("The gardener waits for rain, and the rain waits for nobody.", ["patience"]),  # a word said twice
        {"form": "scene", "topics": ["night"], "text": "The lamps on our street know where everybody lives.", "likelihood": -1.0},
    ]  # fmt: skip
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "0000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    candidates.run(tmp_path, seed=0)
    lines = [line.split("\t") for line in (tmp_path / "candidates.tsv").read_text().splitlines()]
    assert lines == [["0", rows[0]["text"], "books, promises"]]


@pytest.mark.parametrize(
    ("text", "compared", "repeated"),
    [
        ("A good friend is like a warm blanket.", True, False),
        ("Hope feels like rain after a dry month.", True, False),
        ("Be as patient as a stone.", True, False),
        ("I like the rain, and nobody asks me why.", False, False),
        ("We like to read at night.", False, False),
        ("A man who loves his neighbor is loved by his neighbors.", False, True),
        ("Learning takes time, and so learn slowly.", False, True),
        ("You can only see what you are willing to look at.", False, False),
    ],
)
def test_comparisons_and_words_said_twice(text, compared, repeated):
    from tools.seedling.plain import compares, repeats

    assert (compares(text), repeats(text)) == (compared, repeated)
