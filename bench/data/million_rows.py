"""A million rows of JSON lines (185 MB), made up, and what it costs to read them and to find their near-duplicates.

    python -m bench.data.million_rows make /tmp/million.jsonl [--rows 1000000]
    python -m bench.data.million_rows measure /tmp/million.jsonl

Texts are 6 to 34 words drawn by Zipf's law from 50,000 made-up ones; two in a hundred rows are an earlier row with one
word changed, so that there is something to find. Seconds are of CPU (`time.process_time`), memory is the peak of the
process.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from itertools import accumulate
from pathlib import Path

SYLLABLES = [c + v for c in "bdklmnrst" for v in "aeio"]
WORDS, TAGS = 50_000, 400


def word(number: int) -> str:
    """A made-up word for each number; frequent words are short."""
    text = ""
    while True:
        number, place = divmod(number, len(SYLLABLES))
        text += SYLLABLES[place]
        if not number:
            return text
        number -= 1


def make(path: Path, count: int, seed: int = 0) -> None:
    chance = random.Random(seed)
    words = [word(number) for number in range(WORDS)]
    weights = list(accumulate(1 / (rank + 3) for rank in range(WORDS)))
    tags = [word(1_000 + number) for number in range(TAGS)]
    texts: list[list[str]] = []
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            if number > 100 and chance.random() < 0.02:
                text = list(chance.choice(texts))
                text[chance.randrange(len(text))] = chance.choice(words)
            else:
                text = chance.choices(words, cum_weights=weights, k=chance.randint(6, 34))
            if len(texts) < 100_000:
                texts.append(text)
            row = {
                "quote": " ".join(text).capitalize() + ".",
                "author": f"{word(number % 5_000).capitalize()} {word(number % 977).capitalize()}",
                "tags": chance.sample(tags, chance.randint(1, 5)),
            }
            file.write(json.dumps(row) + "\n")


def measure(path: Path) -> None:
    from florilegium.data import make_split, read_rows, report_on

    stages = []
    began = time.process_time()

    def stage(name: str) -> None:
        nonlocal began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        stages.append({"stage": name, "cpu_seconds": round(time.process_time() - began, 1), "peak_mib": round(peak)})
        print(stages[-1], file=sys.stderr)
        began = time.process_time()

    rows = read_rows(path)
    stage(f"read {len(rows.quotes):,} rows")
    split = make_split(rows.quotes, 0.1, 0, authors=rows.authors)
    stage(f"split, with {len(split.pairs):,} near-duplicate pairs")
    report_on(rows, split, 0.1, 0, "near-duplicates")
    stage("describe and examine")
    print(json.dumps(stages))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "measure"))
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    if options.what == "make":
        make(options.path, options.rows)
    else:
        measure(options.path)


if __name__ == "__main__":
    main()
