"""Documents to rows of 513 tokens: each document whole, in front of it `</s>`, as little padding as can be.

A row starts with the next document of a shuffled order and is filled up with the longest waiting document that fits. A
document longer than a row is cut to it. The last token of a document predicts the `</s>` that follows, so the model
learns to stop.

The sayings that readers would most readily keep are packed a second time, by themselves: the training ends on them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from .marks import marks
from .tokenizer import END, documents

ROW = 513  # 512 to read, and each token's successor
PAD = 3
FINEST = 0.4  # share of the sayings


def pack(documents_ids: Iterable[list[int]], row: int, seed: int) -> np.ndarray:
    """uint16 `[rows, row]`: `</s> document </s> document ... </s>`, then padding."""
    waiting: list[list[list[int]]] = [[] for _ in range(row + 1)]  # by the room they take: `</s>` and the text
    for ids in documents_ids:
        text = ids[: row - 2]
        waiting[len(text) + 1].append(text)
    rng = random.Random(seed)
    for same_length in waiting:
        rng.shuffle(same_length)
    order = [length for length in range(row + 1) for _ in waiting[length]]
    rng.shuffle(order)
    present = sum(1 << length for length in range(row + 1) if waiting[length])  # bit n: a document of length n waits
    rows: list[list[int]] = []
    for first in order:
        length = first if waiting[first] else 0
        tokens: list[int] = []
        while length:
            tokens += [END, *waiting[length].pop()]
            if not waiting[length]:
                present &= ~(1 << length)
            room = row - 1 - len(tokens)  # the closing `</s>` stays free
            length = (present & ((1 << (room + 1)) - 1)).bit_length() - 1 if room > 0 else 0
            length = max(length, 0)
        if tokens:
            rows.append([*tokens, END] + [PAD] * (row - 1 - len(tokens)))
    return np.array(rows, dtype=np.uint16)


def encode(tokenizer: Any, corpus: Iterable[str], batch: int = 10_000) -> Iterable[list[int]]:
    texts: list[str] = []
    for text in corpus:
        texts.append(text)
        if len(texts) == batch:
            yield from tokenizer(texts).input_ids
            texts = []
    if texts:
        yield from tokenizer(texts).input_ids


def finest(path: Path) -> Iterator[str]:
    """The best two fifths of the sayings, as readers would have it."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    senses = [row["sense"] for row in rows if "sense" in row]
    least = float(np.quantile(senses, 1 - FINEST)) if senses else 0.0
    return (row["document"] for row in rows if row.get("sense", float("-inf")) >= least)


def write_rows(target: Path, name: str, tokenizer: Any, corpus: Iterable[str], seed: int) -> None:
    rows = pack(encode(tokenizer, corpus), ROW, seed).reshape(-1, ROW)  # of no documents too
    np.random.default_rng(seed).shuffle(rows)
    np.save(target, rows)
    ends, padding = (rows == END).sum() - len(rows), (rows == PAD).sum() / max(1, rows.size)
    print(
        f"pack: {name}: {len(rows):,} rows, {(rows != PAD).sum():,} tokens, {ends:,} documents, {padding:.2%} padding"
    )


def run(work: Path, seed: int) -> None:
    """Write `rows.npy` and `finest.npy`."""
    from transformers import AutoTokenizer

    if (work / "rows.npy").exists():
        print("pack: done before")
        return
    tokenizer, train = AutoTokenizer.from_pretrained(work / "tokenizer"), work / "train.jsonl"
    with train.open("rb") as file:
        number = sum(1 for _ in file)
    write_rows(work / "finest.npy", "finest", tokenizer, finest(train), seed)
    write_rows(work / "rows.npy", "all", tokenizer, chain(documents(train), marks(seed, number)), seed)
