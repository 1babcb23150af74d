"""Which sayings may become the bundled ones: those that the teacher wrote and the student never read.

A small model that is tuned on sayings far above it forgets how to write: on 2,259 hand-written ones ("A wren weighs less
than a letter and can still wake the whole lane") its held-out loss ends at 3.7 and its sentences fall apart; on the
teacher's own it ends at 1.2 and they stand. So the sample is written in the student's own plain English: held-out
sayings, and sayings that the filter left out because the teacher was unsure of their words, though sure of their sense.

No candidate shares more than a third of its runs of five words with the training texts, or half of its words with
another candidate; each of the eighty tags gets its share. They go to `candidates.tsv`, a line each, to be read by people:
about every second one is kept, some with a word mended, their tags set anew."""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .filter import WORD, clean, floors, mentions, read_shards, shingles_of
from .words import CORE

SENSE_HELD_OUT, SENSE_UNSURE = 1.6, 1.9  # nats by which Yes leads No
FEWEST, MOST = 7, 24  # words
SEEN = 0.34  # share of a saying's shingles that training texts may hold
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
    worth: float  # the teacher's opinion, longer and held-out ones first


def make_candidate(row: dict[str, Any], text: str, held_out: bool) -> Candidate | None:
    """None where it is touchy, too short or long, not sensible enough, or about none of the core topics."""
    words, sense = len(text.split()), row.get("sense", float("-inf"))
    tags = tuple(topic for topic in CORE if topic in row["topics"] or mentions(text, topic))[:5]
    fits = FEWEST <= words <= MOST and sense >= (SENSE_HELD_OUT if held_out else SENSE_UNSURE)
    if not fits or not tags or TOUCHY.search(text):
        return None
    return Candidate(text, tuple(sorted(tags)), sense + 0.05 * min(words, 14) + 0.4 * held_out)


def unread(work: Path) -> Iterator[Candidate]:
    """The sayings that no student has read."""
    with (work / "heldout.jsonl").open(encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row["form"] == "saying"]
    for row in rows:
        if candidate := make_candidate(row, row["text"], held_out=True):
            yield candidate
    least = floors(read_shards(work / "shards"))[0]["saying"]
    for row in read_shards(work / "shards"):
        if row["form"] == "saying" and row["likelihood"] < least:
            text = clean("saying", row["text"])[0]
            if text and (candidate := make_candidate(row, text, held_out=False)):
                yield candidate


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
    with (work / "train.jsonl").open(encoding="utf-8") as file:
        seen = {shingle for line in file for shingle in shingles_of(json.loads(line)["text"])}

    def is_new(candidate: Candidate) -> bool:
        mine = shingles_of(candidate.text)
        return sum(shingle in seen for shingle in mine) <= SEEN * len(mine)

    chosen = choose([candidate for candidate in unread(work) if is_new(candidate)], most)
    random.Random(seed).shuffle(chosen)
    lines = [f"{i}\t{candidate.text}\t{', '.join(candidate.tags)}\n" for i, candidate in enumerate(chosen)]
    (work / "candidates.tsv").write_text("".join(lines), encoding="utf-8")
    print(f"candidates: {len(lines):,}, in {work / 'candidates.tsv'}")
