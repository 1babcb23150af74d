"""Which of the teacher's sayings may become the bundled ones, which the student never reads (`filter` leaves them out).

A small model that is tuned on sayings far above it forgets how to write: on 2,259 hand-written ones ("A wren weighs less
than a letter and can still wake the whole lane") its held-out loss ends at 3.7 and its sentences fall apart; on the
teacher's own it ends at 1.2 and they stand. So the sample is written in the student's own plain English.

Candidates are among the quarter that the teacher calls the clearest and most sensible; no two share half of their words,
and each of the eighty tags gets its share. They go to `candidates.tsv`, a line each, to be read by people: about every
second one is kept, some with a word mended, their tags set anew."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .filter import clean, mentions
from .plain import WORD
from .shards import read_shards
from .words import CORE

SENSE = 2.0  # nats by which Yes leads No
FEWEST, MOST = 7, 24  # words
ALIKE = 0.5  # share of words that two candidates may have in common
SAME_START = 70  # candidates with the same two first words
PER_TAG = (25, 60, 110, 180)  # rounds: first every tag gets some, then more
TOUCHY = re.compile(
    r"\b(god|lord|jesus|bible|church|prayers?|allah|wom[ae]n|girls?|m[ae]n|wife|husband|slaves?|kill|suicide|sex|war|religio\w*"
    r"|politic\w*|devil|sins?|heaven|hell|she|her)\b|[“”’—]| - ",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Candidate:
    text: str
    tags: tuple[str, ...]
    worth: float  # the teacher's opinion, longer ones first


def make_candidate(row: dict[str, Any]) -> Candidate | None:
    """None where it is touchy, too short or long, not sensible enough, or about none of the core topics."""
    text = clean("saying", row["text"])[0] if row["form"] == "saying" and row.get("sense", 0.0) >= SENSE else None
    if text is None or not FEWEST <= len(text.split()) <= MOST or TOUCHY.search(text):
        return None
    tags = tuple(topic for topic in CORE if topic in row["topics"] or mentions(text, topic))[:5]
    return Candidate(text, tuple(sorted(tags)), row["sense"] + 0.05 * min(len(text.split()), 14)) if tags else None


def choose(candidates: Sequence[Candidate], most: int) -> list[Candidate]:
    """The worthiest, no two alike, each tag in turn."""
    ranked = sorted(candidates, key=lambda candidate: -candidate.worth)
    chosen: dict[int, frozenset[str]] = {}
    per_tag, starts = Counter[str](), Counter[str]()
    with_word: dict[str, list[int]] = defaultdict(list)
    for cap in PER_TAG:
        for index, candidate in enumerate(ranked):
            words = frozenset(word.lower() for word in WORD.findall(candidate.text))
            start = " ".join(candidate.text.lower().split()[:2])
            common = Counter(other for word in words for other in with_word[word])
            if (
                index in chosen or len(chosen) == most or starts[start] == SAME_START
                or all(per_tag[tag] >= cap for tag in candidate.tags)
                or any(shared > ALIKE * len(words | chosen[other]) for other, shared in common.most_common(12))
            ):  # fmt: skip
                continue
            chosen[index] = words
            starts[start] += 1
            per_tag.update(candidate.tags)
            for word in words:
                with_word[word].append(index)
    return [ranked[index] for index in chosen]


def run(work: Path, seed: int, most: int = 4200) -> None:
    """Write `candidates.tsv`: a number, the saying, its proposed tags."""
    chosen = choose([c for c in map(make_candidate, read_shards(work / "shards")) if c], most)
    random.Random(seed).shuffle(chosen)
    lines = [f"{i}\t{candidate.text}\t{', '.join(candidate.tags)}\n" for i, candidate in enumerate(chosen)]
    (work / "candidates.tsv").write_text("".join(lines), encoding="utf-8")
    print(f"candidates: {len(lines):,}, in {work / 'candidates.tsv'}")
