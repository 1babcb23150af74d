"""What of the teacher's writing is worth learning.

Each answer is cleaned on its own first (`clean`): cut to whole sentences, dropped with a reason when it is a list,
markdown, talk about the task instead of the text, another script, too short or going in circles. Then the corpus is
walked once in order: exact and near copies are dropped (more than half of a text's word shingles were seen in kept
texts), and an opening of four words that has become a habit is capped.

Opinions come first (`floors`): of each form the tenth that the teacher wrote least surely is dropped, and of the sayings
all but the share that readers would most readily keep (`taste`; where nothing was read, that the teacher finds sensible).
A small writer has a small vocabulary: a saying with a word that few others use is dropped too.

Held-out texts are chosen by a hash of the text, after the copies are gone and before anything is trained.

A tuned model has to tie a text to its tags, so part of the texts carry their topics in plain English: a heading ("On
patience and time.") or, for sayings mostly, a last line ("Topics: patience, time."). A saying gets one only if it
really mentions one of its topics; further core topics that it mentions are added. The form that users teach when tuning
appears nowhere."""

from __future__ import annotations

import json
import random
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .plain import WORD, compares, repeats
from .prompts import join_words
from .shards import known_words, read_shards, sample_texts, words_of
from .words import CORE

HELD_OUT_IN = 20  # one text of this many is held out
SHINGLE = 5  # words
UNSURE, SENSELESS = 0.1, 0.5  # shares of a form's texts, and of the judged sayings, that these opinions drop
OPENING_SHARE = 0.005  # of a form's texts may share their first four words

TASK_TALK = re.compile(
    r"\bas an? (ai|language model|assistant)\b|language model|\bAI\b|smollm|hugging face|^(sure|certainly|of course)\b[,!.]"
    r"|^(absolutely|great|okay|yes|no problem)\b[,!.]"
    r"|^here (is|are|'s)\b|^(this|the) (sentence|saying|proverb|poem|story|passage|paragraph|text|phrase|quote|fable|dialogue)\b"
    r"|i'?d be happy to|i'?m sorry,? but|i apologi[sz]e|\bprompt\b|\buser\b"
    r"|\bwrite (a|an|the|your) (short|sentence|story|letter|paragraph|saying|scene|reflection)"
    r"|in this (fable|story|scene|sentence|passage|paragraph|poem|example)|please (provide|let me know)|https?:|www\.|@",
    re.IGNORECASE,
)
SAYING_TALK = re.compile(
    r"\b(sayings?|proverbs?|quotes?|sentences?|phrases?|once upon|metaphor|i am reminded|i'm reminded|writing style|your words)\b|:",
    re.IGNORECASE,
)
MARKUP = re.compile(r"[\[\]{}<>|\\*_#`~^=]|^\s*([-•]|\d+[.)])\s", re.MULTILINE)
OTHER_SCRIPT = re.compile(r"[^\x20-\x7e\n“”‘’—–…éèêëàâäáíïóôöúüçñÉ£€°½]")
SENTENCE_END = re.compile(r"[.!?…][\"”’')]*(?=\s|$)")

HEADINGS = ("On {and_}.\n", "About {and_}.\n", "A few words on {and_}.\n", "{And}.\n", "Thoughts on {and_}.\n")
COLOPHONS = (
    "\nTopics: {comma}.", "\nThemes: {comma}.", "\nThis was about {and_}.", " This is about {and_}.",
    "\nIt speaks of {and_}.", "\nFiled under {and_}.", "\n({comma})",
)  # fmt: skip


def cut_to_sentences(text: str, most: int | None = None) -> str:
    """The text up to its last (or its `most`-th) sentence end at which every quotation is closed."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    ends = [end for end in ends if text.count('"', 0, end) % 2 == 0]
    return text[: ends[min(len(ends), most or len(ends)) - 1]].strip() if ends else ""


def goes_in_circles(words: Sequence[str]) -> bool:
    """A word twice in a row, or too few different triples of words."""
    if any(a == b and a not in ("that", "had", "very", "never") for a, b in zip(words, words[1:], strict=False)):
        return True
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(triples)) < 0.8 * len(triples)


def clean(form: str, text: str) -> tuple[str | None, str]:
    """`(text, "")`, or `(None, reason)` when it is dropped."""
    text = re.sub(r"[ \t]+", " ", text.replace("\u00a0", " ")).strip()
    text = re.sub(r" ?\n ?", "\n", re.sub(r"\n{2,}", "\n\n", text))
    if form == "saying":
        text = text.removeprefix('"').removesuffix('"').strip() if text.count('"') == 2 else text
        text = cut_to_sentences(text, most=2)
    else:
        text = cut_to_sentences(text)
    words = WORD.findall(text.lower())
    fewest, most = (4, 45) if form == "saying" else (30, 260)
    if not fewest <= len(words) <= most:
        return None, "length"
    if not (text[0].isupper() or text[0] in '"“'):
        return None, "start"
    if MARKUP.search(text) or text.count("\n") > 12:
        return None, "markup or list"
    if OTHER_SCRIPT.search(text) or sum(character.isalpha() for character in text) < 0.7 * len(text):
        return None, "script"
    if TASK_TALK.search(text) or (form == "saying" and SAYING_TALK.search(text)):
        return None, "talk about the task"
    if text.count('"') % 2:
        return None, "open quotation"
    if goes_in_circles(words) or (form == "saying" and repeats(text)):
        return None, "circles"
    if form == "saying" and compares(text):
        return None, "comparison"
    return text, ""


def clean_row(row: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    text, reason = clean(row["form"], row["text"])
    return (None, reason) if text is None else (row | {"text": text}, "")


def floors(rows: Iterable[dict[str, Any]]) -> tuple[dict[str, float], float]:
    """The least likelihood of each form, and the least sense of a saying, that are kept."""
    likelihoods: dict[str, list[float]] = {}
    senses: list[float] = []
    for row in rows:
        likelihoods.setdefault(row["form"], []).append(row["likelihood"])
        senses += [row["sense"]] if "sense" in row else []
    least = {form: float(np.quantile(values, UNSURE)) for form, values in likelihoods.items()}
    return least, float(np.quantile(senses, SENSELESS)) if senses else 0.0


def opinion(row: dict[str, Any], least: dict[str, float], least_sense: float) -> str:
    """Why the teacher would drop it, or nothing."""
    if row["likelihood"] < least[row["form"]]:
        return "unsure"
    return "senseless" if row["form"] == "saying" and row.get("sense", float("-inf")) < least_sense else ""


def mentions(text: str, topic: str) -> bool:
    """Whether a word of the text begins like the topic (patience: patient, patiently)."""
    stem = topic.removesuffix("s")
    pattern = rf"\b{stem}(s|ed|ing)?\b" if len(stem) <= 5 else rf"\b{stem[: max(5, int(0.7 * len(stem)))]}"
    return re.search(pattern, text, re.IGNORECASE) is not None


def topics_of(row: dict[str, Any]) -> list[str]:
    """The topics to name: those asked for and, for a saying, core topics it mentions; none if it mentions none. At most
    five."""
    if row["form"] == "account":  # its subject is not among the topics
        return []
    if row["form"] != "saying":
        return list(row["topics"])
    mentioned = [topic for topic in CORE if mentions(row["text"], topic)]
    if not mentioned and not any(mentions(row["text"], topic) for topic in row["topics"]):
        return []
    return sorted(sorted(set(row["topics"]) | set(mentioned), key=lambda topic: topic not in mentioned)[:5])


def render(row: dict[str, Any], rng: random.Random) -> str:
    """The document that is learnt: the text, for part of them with a heading or a last line that names the topics."""
    topics = topics_of(row)
    heading, colophon = (0.08, 0.6) if row["form"] == "saying" else (0.2, 0.2)
    draw = rng.random()
    if not topics or draw > heading + colophon:
        return str(row["text"])
    names = {"and_": join_words(topics), "And": join_words(topics).capitalize(), "comma": ", ".join(topics)}
    if draw < heading:
        return rng.choice(HEADINGS).format(**names) + str(row["text"])
    return str(row["text"]) + rng.choice(COLOPHONS).format(**names)


def digest(text: str) -> int:
    return zlib.crc32(text.encode())


def shingles_of(text: str) -> set[int]:
    """A number for each run of `SHINGLE` words (for fewer words, of all)."""
    words = WORD.findall(text.lower())
    return {digest(" ".join(words[i : i + SHINGLE])) for i in range(max(1, len(words) - SHINGLE + 1))}


def drop_copies(
    rows: Iterable[dict[str, Any]], counts: Counter[str], unread: Iterable[str] = ()
) -> Iterator[dict[str, Any]]:
    """The rows that are no near copy of an earlier one or of an `unread` text, and do not open like too many others of
    their form."""
    seen = {shingle for text in unread for shingle in shingles_of(text)}
    openings: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for row in rows:
        words = WORD.findall(row["text"].lower())
        every = 1 if row["form"] == "saying" else 3  # long texts are judged by a third of their shingles
        shingles = shingles_of(row["text"])
        shingles = {shingle for shingle in shingles if shingle % every == 0} or shingles
        opening = row["form"] + " " + " ".join(words[:4])
        if sum(shingle in seen for shingle in shingles) > 0.5 * len(shingles):
            counts["dropped: copy"] += 1
        elif openings[opening] > 20 + OPENING_SHARE * kept[row["form"]]:
            counts["dropped: opening"] += 1
        else:
            seen |= shingles
            openings[opening] += 1
            kept[row["form"]] += 1
            yield row


def run(work: Path, seed: int, workers: int, unread: Path) -> None:
    """Write `train.jsonl` and `heldout.jsonl` (rows with `form`, `topics`, `text`, `sense`, `document`), without the sayings
    of the sample `unread`, which users tune on."""
    train, held_out = work / "train.jsonl", work / "heldout.jsonl"
    if train.exists():
        print("filter: done before")
        return
    counts: Counter[str] = Counter()

    least, least_sense = floors(read_shards(work / "shards"))
    print(f"filter: a saying's sense is at least {least_sense:.2f}")

    def liked() -> Iterator[dict[str, Any]]:
        for row in read_shards(work / "shards"):
            reason = opinion(row, least, least_sense)
            if reason:
                counts[f"dropped: {reason}"] += 1
            else:
                yield row

    def cleaned() -> Iterator[dict[str, Any]]:
        with ProcessPoolExecutor(workers) as pool:
            for row, reason in pool.map(clean_row, liked(), chunksize=2000):
                counts["read" if row is not None else f"dropped: {reason}"] += 1
                if row is not None:
                    yield row

    known = known_words(row["text"] for row in read_shards(work / "shards") if row["form"] == "saying")
    print(f"filter: sayings are written with {len(known):,} words")

    def plain() -> Iterator[dict[str, Any]]:
        for row in cleaned():
            if row["form"] == "saying" and not known.issuperset(words_of(row["text"])):
                counts["dropped: rare word"] += 1
            else:
                yield row

    partial = train.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as train_file, held_out.open("w", encoding="utf-8") as held_out_file:
        for row in drop_copies(plain(), counts, sample_texts(unread)):
            key = digest(row["text"])
            row["document"] = render(row, random.Random(seed * 2**32 + key))
            held = key % HELD_OUT_IN == 0
            counts[f"{'held out' if held else 'train'}: {row['form']}"] += 1
            counts["held out characters" if held else "train characters"] += len(row["document"])
            (held_out_file if held else train_file).write(json.dumps(row, ensure_ascii=False) + "\n")
    partial.rename(train)
    for name, count in sorted(counts.items()):
        print(f"filter: {name} {count:,}")
