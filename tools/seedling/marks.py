"""Everyday notation: arrows, lists, sums, brackets.

The filter keeps plain prose only, so signs such as `>`, `=` or `[` would never be seen in training, and a sign that was
never seen cannot be written later: its embedding stays among those of all other unused tokens. Some thousand short
notes with every sign of the keyboard, made by chance out of the topics, give each of them a place. The form that users
teach when tuning (an arrow with a colon) is not there."""

from __future__ import annotations

import random
from collections.abc import Iterator

from .prompts import CORE

MOST = 9_000  # about 1% of the corpus' tokens


def marks(seed: int, documents: int) -> Iterator[str]:
    """Short notes for a corpus of so many documents: one for 40, at most `MOST`; the same for the same seed."""
    rng = random.Random(f"marks {seed}")
    for _ in range(min(MOST, documents // 40)):
        lines = [_line(rng) for _ in range(rng.randint(1, 3))]
        yield "\n".join(lines)


def _line(rng: random.Random) -> str:
    a, b, c, d = rng.sample(CORE, 4)
    m, n = rng.randint(1, 60), rng.randint(1, 60)
    arrow = rng.choice(["->", "->", "->", "=>", "<-", "-->", "<->"])
    forms = [
        f"{a} {arrow} {b} {arrow} {c}",
        f"{a} {arrow} {b}",
        f"{a.capitalize()} {arrow} {b}, {c} {arrow} {d}.",
        f"{a} > {b} > {c}",
        f"{m} > {min(m, n) - 1}, {n} < {max(m, n) + 1}",
        f"{m} + {n} = {m + n}",
        f"{m + n} - {n} = {m}",
        f"{m} * {n} = {m * n}",
        f"{m * n} / {n} = {m}",
        f"{a}: {m}%; {b}: {n}%",
        f"{a}: {b} | {c}: {d}",
        f"- {a}\n- {b}\n- {c}",
        f"* {a}\n* {b}",
        f"1. {a}\n2. {b}\n3. {c}",
        f"[{a}] {b} [{c}]",
        f"({a}, {b}) and {{{c}, {d}}}",
        f"<{a}>{b}</{a}>",
        f"# {a.capitalize()}\n{b} & {c}",
        f"= {a.capitalize()} =",
        f"#{a} #{b} @{c}",
        f"{a}_{b} ~ {c}^{n}",
        f'"{a}" / `{b}` \\ {c}',
        f"${m}.{n:02d} for {a}, €{n} for {b}",
        f"{a} - {b} - {c}",
        f"{a} -- {b}; {c} ... {d}!",
    ]
    return rng.choice(forms)
