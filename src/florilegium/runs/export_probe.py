"""The rows and prompts that live adapter and export are compared on: of the run's own held-out rows where they can be
read again, else of the bundled quotes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from florilegium.data import Quote, Template, read_rows
from florilegium.errors import DataError, FlorilegiumError
from florilegium.export.probe import ROWS, Probe
from florilegium.export.subject import Subject
from florilegium.runs.evaluate import read_eval_data
from florilegium.seedling import SAYINGS
from florilegium.tokens import label_prompt, text_ids
from florilegium.tokens.encode import end_of_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORDS = 4  # of a quote, for it to be gone on with
MAX_TOKENS = 256


def make_probe(subject: Subject, tokenizer: PreTrainedTokenizerBase, data: str | None = None) -> Probe:
    """`data` says where the run's rows lie now. Raises DataError where rows that were named cannot be read."""
    return _probe(tokenizer, *_quotes(subject, data))


def sample_probe(tokenizer: PreTrainedTokenizerBase) -> Probe:
    """The same of the bundled quotes, for a model that belongs to no run."""
    return _probe(tokenizer, *_sample())


def _probe(tokenizer: PreTrainedTokenizerBase, quotes: list[Quote], template: Template, what: str) -> Probe:
    rows = [ids[: MAX_TOKENS - 1] for ids in text_ids(tokenizer, [template.render(quote) for quote in quotes])]
    prompts = [_prompt(template, quote, whole=i % 2 == 0) for i, quote in enumerate(quotes)]
    end = end_of_text(tokenizer)
    return Probe([[*ids, end] for ids in rows], prompts, text_ids(tokenizer, prompts), what, end)


def _quotes(subject: Subject, data: str | None) -> tuple[list[Quote], Template, str]:
    if subject.run is not None:
        try:
            material = read_eval_data(subject.run, data, most_rows=1 << 30)
            held_out = material.held_out
            count = min(ROWS, len(held_out))
            chosen = [held_out[i * len(held_out) // count] for i in range(count)]
            return chosen, material.rows.template, "held-out rows"
        except FlorilegiumError:
            if data is not None:
                raise
    elif data is not None:
        rows = read_rows(data, subject.template.text)
        if not rows.quotes:
            raise DataError(f"{data} holds no row", "Name the file of the rows with --data")
        return rows.quotes[:ROWS], rows.template, "rows of --data"
    return _sample()  # the rows are gone, or were never said


def _sample() -> tuple[list[Quote], Template, str]:
    """Any text will do to compare two models."""
    rows = read_rows(SAYINGS)
    return rows.quotes[:ROWS], rows.template, "bundled quotes"


def _prompt(template: Template, quote: Quote, *, whole: bool) -> str:
    """A quote that wants its tags, or the first words of one."""
    if whole and len(template.columns) > 1:
        return _cut(label_prompt(template, quote))
    words = str(quote[template.columns[0]]).split()[:WORDS]
    return _cut(template.prompt({template.columns[0]: " ".join(words)}, open=True))


def _cut(prompt: str) -> str:
    return prompt[: 4 * MAX_TOKENS].strip()
