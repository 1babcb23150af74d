"""The general text that `evaluate` measures forgetting with: beside our own pages, texts of the teacher that the student
never read.

They are reflections, scenes, fables and descriptions that were held out, a share of each form, the ones of whose words the
teacher was surest; no two are near copies. About 20,000
tokens of a usual vocabulary see a change of some 0.02 nats."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

SHARES = {"reflection": 40, "scene": 36, "fable": 18, "description": 8}  # forms that claim no facts
FEWEST, MOST = 100, 220  # words


def run(work: Path, own: Path, out: Path) -> None:
    """Write `out`: the paragraphs of `own`, then the chosen texts, with a blank line between two."""
    with (work / "heldout.jsonl").open(encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row["form"] in SHARES]
    by_form = defaultdict(list)
    for row in sorted(rows, key=lambda row: -row["likelihood"]):
        text = " ".join(row["text"].split())
        if FEWEST <= len(text.split()) <= MOST:
            by_form[row["form"]].append(text)
    chosen = [text for form, most in SHARES.items() for text in by_form[form][:most]]
    paragraphs = [part.strip() for part in own.read_text(encoding="utf-8").split("\n\n") if part.strip()]
    out.write_text("\n\n".join(paragraphs + chosen) + "\n", encoding="utf-8")
    print(f"general: {len(chosen)} texts, {sum(len(text.split()) for text in chosen):,} words, in {out}")
