# ruff: noqa: SIM905  (lists of words read better as text)
"""What the teacher is asked: a seeded grid of topics, forms, voices, settings and subjects.

A small teacher repeats itself when asked the same thing twice. Three things keep its answers apart: one to three topics
out of some 260 in each request, a voice or a setting in many of them, and an *opening*, the first words of the answer,
which we write and the teacher continues. The opening also stops it from beginning with "Sure, here is".

Short sayings are the largest share, because sayings are what the model will be tuned on. The eighty `CORE` topics are
drawn more often than the others, because they are the tags of the bundled sayings."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from .words import CORE, CREATURES, EXTRA, NAMES, SAYING_OPENINGS, SETTINGS, SUBJECTS, VOICES


@dataclass(frozen=True)
class Form:
    """One kind of text: how often it is asked for, how long it may be, what the request says and how the answer may
    begin."""

    name: str
    share: float  # of all requests
    max_new: int  # tokens
    requests: tuple[str, ...]
    openings: tuple[str, ...]


FORMS = (
    Form(
        "saying",
        0.91,
        56,
        ("{topics}",),  # asked for by the line: see `teacher.py`
        tuple(SAYING_OPENINGS),
    ),
    Form(
        "reflection",
        0.02,
        200,
        (
            "Write a short reflection on {topics}.",
            "Write a short reflection on {topics}, in the voice of {voice}.",
            "Write one paragraph about what {topics} can teach us.",
        ),
        tuple(
            "|I|When|There is|Most people|It is|We|In my|As a child,|I used to|The|Every|Some days|For a long time|Nobody|One morning"
            "|To me,".split("|")
        ),
    ),
    Form(
        "scene",
        0.02,
        216,
        (
            "Write a short scene set in {setting}, about {topics}. Use plain words.",
            "Write a short story about {name}, {voice}, and {topics}.",
            "Tell a small story about {topics} that takes place in {setting}.",
        ),
        tuple(
            "|The|{name}|It was|On|In the|{name} had|{name} sat|Nobody|That morning,|One evening,|She|He|There was|After".split(
                "|"
            )
        ),
    ),
    Form(
        "explanation",
        0.015,
        200,
        (
            "Explain in plain words why {topics} matters to people.",
            "Explain to a child what {topics} means.",
            "Write a short, factual paragraph about the history of {topics}.",
            "Write a short, factual paragraph about {topics}.",
            "What do we know about {topics}? Answer in one paragraph.",
        ),
        ("", "The", "{Topic}", "In", "People", "For", "A", "There are", "When", "One", "Since", "Many", "It"),
    ),
    Form(
        "dialogue",
        0.005,
        216,
        (
            "Write a short conversation between {voice} and a child about {topics}. Put what they say in quotation marks.",
            "{name} and {voice} talk about {topics}. Write what they say, in quotation marks.",
        ),
        ('"', '"Why', '"What', '"Do you', '"I', '"Tell me', '"You', '{name} asked, "', '"When', '"Is'),
    ),
    Form(
        "letter",
        0.003,
        216,
        (
            "Write a short letter from {voice} to {name} about {topics}.",
            "Write a short, warm letter to {name} about {topics}.",
        ),
        ("Dear {name},",),
    ),
    Form(
        "fable",
        0.005,
        216,
        ("Write a short fable about a {creature}, with a lesson about {topics}.",),
        tuple(
            "A {creature}|Once a {creature}|There was once a {creature}|An old {creature}|One day a {creature}|The {creature}"
            "|In a {setting_plain},".split("|")
        ),
    ),
    Form(
        "description",
        0.005,
        160,
        ("Describe {setting} in a way that shows {topics}.", "Describe {topics} as {voice} sees it."),
        ("", "The", "A", "In", "There", "It", "At", "You", "From"),
    ),
    Form(
        "account",
        0.017,
        200,
        (
            "Write a factual paragraph about {subject}, as in an encyclopedia, with places and years.",
            "Write a short, factual paragraph about the history of {subject}.",
            "Write a plain, factual paragraph about {subject} and {topics}.",
            "Tell, as a newspaper would, about {subject}.",
        ),
        (
            "",
            "The",
            "In",
            "{Subject}",
            "During",
            "A",
            "It was",
            "Since",
            "By",
            "After",
            "Although",
            "Many",
            "On",
            "There",
        ),
    ),
)
assert abs(sum(form.share for form in FORMS) - 1.0) < 1e-9


@dataclass(frozen=True)
class Prompt:
    """One request. `request` goes to the teacher; `opening` is the beginning of its answer."""

    form: str
    topics: tuple[str, ...]
    request: str
    opening: str
    max_new: int


def join_words(words: tuple[str, ...] | list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def draw_topics(rng: random.Random) -> tuple[str, ...]:
    """One to three different topics, alphabetical, two of three from the core."""
    count = rng.choices((1, 2, 3), (0.45, 0.5, 0.05))[0]
    topics: set[str] = set()
    while len(topics) < count:
        topics.add(rng.choice(CORE if rng.random() < 0.68 else EXTRA))
    return tuple(sorted(topics))


def draw_prompt(rng: random.Random) -> Prompt:
    """One request with everything in it drawn from `rng`."""
    form = rng.choices(FORMS, [form.share for form in FORMS])[0]
    topics = draw_topics(rng)
    words = {
        "topics": join_words(rng.sample(topics, len(topics))),
        "Topic": topics[0].capitalize(),
        "voice": rng.choice(VOICES),
        "setting": rng.choice(SETTINGS),
        "name": rng.choice(NAMES),
        "creature": rng.choice(CREATURES),
        "subject": rng.choice(SUBJECTS),
    }
    words["Subject"] = words["subject"][0].upper() + words["subject"][1:]
    words["setting_plain"] = words["setting"].removeprefix("an ").removeprefix("a ")
    request, opening = rng.choice(form.requests).format(**words), rng.choice(form.openings).format(**words)
    return Prompt(form.name, topics, request, opening, form.max_new)


def prompts(seed: int, chunk: int, count: int) -> Iterator[Prompt]:
    """The `count` requests of one chunk: the same for the same seed and chunk, whatever was run before."""
    rng = random.Random(f"{seed}/{chunk}")
    for _ in range(count):
        yield draw_prompt(rng)
