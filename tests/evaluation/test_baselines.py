"""Baselines against plain loops, against scikit-learn where it is installed, and what keeps them honest: nothing of a
held-out row in them, ties in a stated order, the same answer in every process."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from florilegium.evaluation import compare_tags, fit_baselines, nearest_texts, tag_f1, tag_scores
from florilegium.evaluation.baselines import SIZES, chosen
from florilegium.evaluation.confidence import bootstrap_weights, change_of_ratios
from florilegium.evaluation.metrics import Metric
from florilegium.evaluation.naive_bayes import SMOOTHINGS, NaiveBayes
from florilegium.evaluation.nearest_rows import NEIGHBOURS, PRIORS, NearestRows
from florilegium.evaluation.tag_table import TagTable
from florilegium.evaluation.text_index import TextIndex, features

CHANCE = random.Random(5)
SUBJECTS = {
    "sea": "wave tide shore salt harbour",
    "love": "heart kiss tender beloved",
    "work": "hammer desk labour wages bench",
    "hope": "dawn seed lantern",
}


def a_row(chance: random.Random) -> tuple[str, list[str]]:
    tags = chance.sample(sorted(SUBJECTS), chance.choice([1, 1, 2]))
    own = [word for tag in tags for word in chance.sample(SUBJECTS[tag].split(), 2)]
    filler = chance.choices(["the", "a", "of", "and", "never", "always", "under", "over", "when"], k=4)
    text = own + filler
    chance.shuffle(text)
    return " ".join(text), tags


ROWS = [a_row(CHANCE) for _ in range(60)]
TEXTS, TAGS = [text for text, _ in ROWS], [tags for _, tags in ROWS]
HELD_OUT = [a_row(CHANCE) for _ in range(20)]


def test_features_are_words_and_runs_inside_them() -> None:
    assert features("Be Kind!") == {"be", "kind", "<be>", "<kin", "ind>", "<kind", "kind>"}
    assert features("…") == set() and "海" in features("海は") and "cafe" in features("Café")


def plain_tf_idf(training: list[str], query: str) -> list[float]:
    sets, own = [features(text) for text in training], features(query)
    with_it = Counter(name for one in sets for name in one)
    idf = {name: math.log((1 + len(training)) / (1 + count)) + 1 for name, count in with_it.items()}
    own &= set(idf)
    length = {i: math.sqrt(sum(idf[f] ** 2 for f in one)) for i, one in enumerate(sets)}
    mine = math.sqrt(sum(idf[f] ** 2 for f in own)) or 1
    return [sum(idf[f] ** 2 for f in one & own) / (length[i] * mine) for i, one in enumerate(sets)]


def test_similarities_equal_a_plain_loop() -> None:
    rows = NearestRows(TextIndex(TEXTS), TagTable(TAGS))
    for text, _ in HELD_OUT:
        found = rows.similarities(rows.index.ids(text))
        assert found == pytest.approx(plain_tf_idf(TEXTS, text), abs=1e-12)
        assert nearest_texts(TEXTS, [text]) == [TEXTS[int(np.argmax(found))]]


def test_nearest_rows_score_as_a_plain_loop() -> None:
    rows = NearestRows(TextIndex(TEXTS), TagTable(TAGS))
    text = HELD_OUT[0][0]
    similar = plain_tf_idf(TEXTS, text)
    order = sorted(range(len(TEXTS)), key=lambda r: (-similar[r], r))
    found = rows.scores(rows.index.ids(text))
    share = {tag: sum(tag in own for own in TAGS) / len(TAGS) for tag in rows.tags.names}
    for v, (k, prior) in enumerate((k, prior) for k in NEIGHBOURS for prior in PRIORS):
        plain = [sum(similar[r] for r in order[:k] if tag in TAGS[r]) / share[tag] ** prior for tag in rows.tags.names]
        assert found[v] == pytest.approx(plain, abs=1e-12)
        assert rows.variants[v] == {"neighbours": k, "prior": prior}


def test_similarities_equal_scikit_learns() -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    vectors = text.TfidfVectorizer(analyzer=lambda t: sorted(features(t)), smooth_idf=True).fit(TEXTS)
    rows = NearestRows(TextIndex(TEXTS), TagTable(TAGS))
    theirs = (vectors.transform([t for t, _ in HELD_OUT]) @ vectors.transform(TEXTS).T).toarray()
    for (query, _), expected in zip(HELD_OUT, theirs, strict=True):
        assert rows.similarities(rows.index.ids(query)) == pytest.approx(expected, abs=1e-12)


def plain_naive_bayes(
    texts: list[str], tags: list[list[str]], query: set[str], a: float, known: list[str]
) -> list[float]:
    sets = [features(text) for text in texts]
    every = set().union(*(features(text) for text in TEXTS))  # smoothing spreads over all features, row left out or not
    found = []
    for tag in known:
        outside = Counter(f for one, own in zip(sets, tags, strict=True) if tag not in own for f in one)
        total = sum(outside.values()) + a * len(every)
        found.append(-sum(math.log((outside[f] + a) / total) for f in query & every))
    return found


@pytest.mark.parametrize("left_out", [None, 0, 7])
def test_naive_bayes_equals_a_plain_loop_also_with_a_row_left_out(left_out: int | None) -> None:
    bayes = NaiveBayes(TextIndex(TEXTS), TagTable(TAGS))
    text = HELD_OUT[0][0] if left_out is None else TEXTS[left_out]
    ids = bayes.index.ids(text) if left_out is None else bayes.index.rows[left_out]
    others = [r for r in range(len(TEXTS)) if r != left_out]
    for found, a in zip(bayes.scores(ids, left_out), SMOOTHINGS, strict=True):
        plain = plain_naive_bayes(
            [TEXTS[r] for r in others], [TAGS[r] for r in others], features(text), a, list(bayes.tags.names)
        )
        # The term that all tags share is left out of ours: what counts is how far the tags lie apart.
        assert found - found[0] == pytest.approx(np.array(plain) - plain[0], abs=1e-9)


def test_naive_bayes_equals_scikit_learns() -> None:
    bayes_module = pytest.importorskip("sklearn.naive_bayes")
    text = pytest.importorskip("sklearn.feature_extraction.text")
    single = [own[:1] for own in TAGS]  # scikit-learn's is for one tag a row
    ours = NaiveBayes(TextIndex(TEXTS), TagTable(single))
    counts = text.CountVectorizer(analyzer=lambda t: sorted(features(t))).fit(TEXTS)
    for v, a in enumerate(SMOOTHINGS):
        theirs = bayes_module.ComplementNB(alpha=a).fit(counts.transform(TEXTS), [own[0] for own in single])
        for query, _ in HELD_OUT:
            expected = dict(
                zip(theirs.classes_, theirs.predict_joint_log_proba(counts.transform([query]))[0], strict=True)
            )
            found = dict(zip(ours.tags.names, ours.scores(ours.index.ids(query))[v], strict=True))
            first = ours.tags.names[0]
            assert [found[t] - found[first] for t in expected] == pytest.approx(
                [expected[t] - expected[first] for t in expected], abs=1e-9
            )


@pytest.mark.parametrize("kind", [NearestRows, NaiveBayes])
def test_leave_one_out_equals_fitting_again_without_the_row(kind: type[NearestRows] | type[NaiveBayes]) -> None:
    """Each training row asked of a model of all the others: the figure by which settings are chosen. (tf-idf keeps the
    row's words in its document frequencies, so that one is held to the similarities without it.)"""
    ranker = kind(TextIndex(TEXTS), TagTable(TAGS))
    baseline = chosen(ranker)
    best = (-1.0, 0, 0)
    for v in range(len(ranker.variants)):
        orders = []
        for r in range(len(TEXTS)):
            scores = ranker.scores(ranker.index.rows[r], r)[v]
            orders.append(sorted(range(len(scores)), key=lambda t: (-scores[t], t)))
        for size in [n for n in SIZES if n <= len(ranker.tags.names)]:
            named = [[ranker.tags.names[t] for t in order[:size]] for order in orders]
            best = max(best, (tag_f1(named, TAGS), -v, -size))
    assert (baseline.left_out_f1, -baseline.variant, -baseline.size) == (pytest.approx(best[0]), *best[1:])
    assert 0 < baseline.left_out_f1 < 1


def test_a_row_left_out_does_not_answer_for_itself() -> None:
    """Texts and tags without any relation: whoever sees the row's own tags scores 1, and who does not scores by chance."""
    chance = random.Random(3)
    texts = [f"word{i} word{i}a word{i}b" for i in range(80)]
    tags = [[chance.choice("abcdefgh")] for _ in texts]
    for baseline in fit_baselines(texts, tags):
        assert baseline.left_out_f1 < 0.45, baseline.ranker.name
        seen = tag_f1(baseline.tags_for(texts), tags)
        if baseline.ranker.key == "nearest_rows" and baseline.settings["neighbours"] == 1:
            assert seen > 0.9, "a row that is asked for again finds itself"


def test_nothing_of_a_held_out_row_is_in_them() -> None:
    """The features of other texts do not enlarge the index, and their order changes no answer."""
    queries = [text for text, _ in HELD_OUT]
    first = [baseline.tags_for(queries) for baseline in fit_baselines(TEXTS, TAGS)]
    again = [baseline.tags_for([*queries[::-1], "zebra quagga"])[:-1][::-1] for baseline in fit_baselines(TEXTS, TAGS)]
    assert first == again and len(first) == 2
    index = TextIndex(TEXTS)
    before = len(index.numbers)
    assert len(index.ids("zebra quagga")) == 0 and len(index.numbers) == before


def test_ties_go_to_the_more_frequent_tag_then_by_name() -> None:
    table = TagTable([["b"], ["b", "z"], ["a"], ["z", "z"]])
    assert table.names == ("b", "z", "a") and table.ranked(np.zeros(3), 2) == ["b", "z"]
    for baseline in fit_baselines(["one", "two", "three", "four"], [["b"], ["b", "z"], ["a"], ["z"]]):
        (named,) = baseline.tags_for(["nothing of these"])
        assert named == ["b", "z", "a"][: baseline.size]
    assert list(fit_baselines(["one"], [[]])) == [] and nearest_texts(["one", "two"], ["zebra"]) == ["one"]


def answers() -> str:
    return "\n".join(f"{b.settings} {b.tags_for([text for text, _ in HELD_OUT])}" for b in fit_baselines(TEXTS, TAGS))


def test_they_answer_the_same_in_every_process() -> None:
    """A set's order changes with the seed of its hashes."""
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = subprocess.run(
        [sys.executable, "-c", "from tests.evaluation import test_baselines as own; print(own.answers())"],
        env={**os.environ, "PYTHONHASHSEED": seed},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == answers() and done.stdout.count("leave_one_out_f1") == 2


def test_baselines_learn_tags_that_the_text_decides() -> None:
    wanted = [tags for _, tags in HELD_OUT]
    for baseline in fit_baselines(TEXTS, TAGS):
        assert tag_f1(baseline.tags_for([text for text, _ in HELD_OUT]), wanted) > 0.7


def test_a_paired_difference_equals_a_plain_loop() -> None:
    a, b, c, d = ([CHANCE.randrange(0, 5) for _ in range(30)] for _ in range(4))
    b, d = [x + 1 for x in b], [x + 1 for x in d]
    found = change_of_ratios(a, b, c, d)
    drawn = []
    for weights in bootstrap_weights(30):
        sums = [sum(w * x for w, x in zip(weights, one, strict=True)) for one in (a, b, c, d)]
        drawn.append(sums[0] / sums[1] - sums[2] / sums[3])
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert found == Metric(sum(a) / sum(b) - sum(c) / sum(d), pytest.approx(low), pytest.approx(high))
    assert change_of_ratios([], [], [], []) is None and change_of_ratios([1], [0], [1], [1]) is None


WANTED = [["a", "b"], ["c"], [], ["a"]] * 10
RIGHT, WRONG = [["a", "b"], ["c"], ["x"], ["a"]] * 10, [["b"], ["z"], ["a"], ["b"]] * 10
HALF = [["a", "z"], ["c"], [], ["b"]] * 10


@pytest.mark.parametrize(
    ("tuned", "other", "said"),
    [
        (RIGHT, WRONG, "the tuned model is better than the best baseline, Somebody"),
        (WRONG, RIGHT, "Somebody, fitted to the same training rows, is better than the tuned model"),
        (HALF, HALF, "no difference seen between the tuned model and Somebody"),
    ],
)
def test_the_sentence_says_who_is_better(tuned: list[list[str]], other: list[list[str]], said: str) -> None:
    found = compare_tags(tuned, {"worse": ("Nobody", [[]] * 40), "it": ("Somebody", other)}, WANTED)
    assert found is not None and found.best == "it" and said in found.sentence
    mine, theirs = tag_scores(tuned, WANTED), tag_scores(other, WANTED)
    assert mine is not None and theirs is not None and found.micro_f1 is not None
    assert found.micro_f1.value == pytest.approx(mine.micro_f1.value - theirs.micro_f1.value)
    assert found.precision_at_3.value == pytest.approx(mine.precision_at_3.value - theirs.precision_at_3.value)
    assert f"micro F1 tuned {mine.micro_f1.value:.3f}, Somebody {theirs.micro_f1.value:.3f}" in found.sentence


def test_no_comparison_without_a_baseline_or_a_tag() -> None:
    assert compare_tags(RIGHT, {}, WANTED) is None
    assert compare_tags([["a"]], {"it": ("Somebody", [["a"]])}, [[]]) is None
