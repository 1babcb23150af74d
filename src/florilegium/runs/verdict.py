"""Did it work? Some texts are written at the end of a run, and judged by what a person would see at once.

    20 of 20 have tags, 20 end cleanly, 0 copied: it works
    only 3 of 20 have tags: train longer: florilegium train --from runs/NAME --epochs 9
    14 of 20 have tags (70% of the training rows do), 20 end cleanly, 0 copied: it works

Tags are asked for as often as the training rows have them: a model that imitates rows without tags does what it learned.
The figures with intervals are `florilegium evaluate`'s; this is the sentence for who reads only one."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from florilegium.data import Quote, Template
from florilegium.errors import counted
from florilegium.generation import Generated
from florilegium.generation.tuned import Tuned
from florilegium.tokens import label_prompt
from florilegium.training import RunLength

ENOUGH_FORM, ENOUGH_ENDS, MOST_COPIES = 0.9, 0.75, 0.1  # shares of the texts
LONGER_STEPS = 400  # what a run that was too short should have had


@dataclass(frozen=True)
class Verdict:
    """How many of `texts` have the form of a training row, end by themselves, and copy one; None where there is no
    record of the rows. `advice` is a command, or empty."""

    works: bool
    texts: int
    well_formed: int
    finished: int
    copied: int | None
    sentence: str
    advice: str

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def draw_verdict(
    tuned: Tuned,
    texts: int,
    seed: int,
    length: RunLength,
    run: str,
    quotes: Sequence[Quote],
    filled: float = 1.0,
    config_file: str = "",
    underway: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> tuple[Verdict, list[Generated]]:
    """Writes `texts` quotes as `florilegium generate` does, and judges them: from nothing, and half of them for the tags
    of `quotes` where both ways were trained. `filled`, `config_file` as in `judge`; `underway` hears what is
    being written, and how much of it."""
    settings, way = tuned.sampling(seed=seed), tuned.template.tags_first
    prompts = [label_prompt(way, quote) for quote in quotes if quote[way.columns[0]]] if way else []
    asked = [prompts[i % len(prompts)] for i in range(texts // 2)] if prompts else []
    prompts = [*[tuned.prompt_text("")] * (texts - len(asked)), *asked]
    rows = tuned.complete(
        prompts, settings, tell=partial(underway, f"writing {counted(texts, 'text')} for the verdict")
    )
    return judge(rows, tuned.template, length, run, filled, config_file), rows


def filled_share(template: Template, quotes: Sequence[Quote]) -> float:
    """The share of rows that have an item in every list; 1 of none."""
    return sum(is_filled(template, quote) for quote in quotes) / len(quotes) if quotes else 1.0


def is_filled(template: Template, quote: Quote) -> bool:
    return all(quote[name] for name in template.list_columns)


def judge(
    rows: Sequence[Generated],
    template: Template,
    length: RunLength,
    run: str,
    filled: float = 1.0,
    config_file: str = "",
) -> Verdict:
    """The verdict on what was written. `length` and `run` are those of the run, for the advice; `filled` is the share of
    its training rows that have an item in every list; `config_file`: of a run that can only be
    trained again from the start."""
    lists = template.list_columns
    quotes = [row.quote for row in rows if row.quote is not None]
    formed = sum(is_filled(template, quote) for quote in quotes)
    finished = sum(row.finished for row in rows)
    known = [row.novel for row in rows if row.novel is not None]
    copied = known.count(False) if known else None
    form = "have tags" if lists == ("tags",) else "have the template's form"
    if f"{filled:.0%}" != "100%":
        form += f" ({filled:.0%} of the training rows do)"
    begin = (
        f"--config {shlex.quote(config_file)} --output {shlex.quote(run + '-longer')}"
        if config_file
        else f"--from {shlex.quote(run)}"
    )
    longer = f"florilegium train {begin} --epochs {_longer(length)}"

    def verdict(works: bool, sentence: str, advice: str = "") -> Verdict:
        return Verdict(works, len(rows), formed, finished, copied, sentence, advice)

    if len(quotes) < ENOUGH_FORM * len(rows) and formed >= _enough(filled, len(rows)):
        return verdict(False, f"{_few(len(quotes))} of {len(rows)} hold the template: train longer", longer)
    if formed < _enough(filled, len(rows)):
        return verdict(False, f"{_few(formed)} of {len(rows)} {form}: train longer", longer)
    if finished < ENOUGH_ENDS * len(rows):
        return verdict(False, f"{_few(finished)} of {len(rows)} end cleanly: train longer", longer)
    if copied is not None and copied > MOST_COPIES * len(rows):
        again = f"florilegium generate --run {shlex.quote(run)} --novel-only"
        return verdict(
            False,
            f"{copied} of {len(rows)} copied from training: take more rows or fewer passes, or leave copies out",
            again,
        )
    copies = "" if copied is None else f", {copied} copied"
    return verdict(True, f"{formed} of {len(rows)} {form}, {finished} end cleanly{copies}: it works")


def _enough(filled: float, texts: int) -> float:
    """How many of the texts must have items in their lists, where a share `filled` of the rows has: two standard
    deviations of a draw fewer may."""
    return ENOUGH_FORM * (filled * texts - 2 * math.sqrt(filled * (1 - filled) * texts))


def _few(count: int) -> str:
    return f"only {count}" if count else "none"


def _longer(length: RunLength) -> int:
    """Passes that make a run long enough."""
    return min(20, max(3, math.ceil(max(LONGER_STEPS, length.num_steps) / length.steps_per_epoch)))
