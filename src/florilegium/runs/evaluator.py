"""One tuned model asked everything, with its adapter on or off; what `evaluate.py` puts together.

measured = evaluator.measure(use_base=False)     losses, form, tags, texts of one side
report = evaluator.compare(measured, None)     with what needs a common measure, as JSON
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

from florilegium.config import SamplingSettings, TrainConfig
from florilegium.data import Quote, Rows, Split, Template
from florilegium.errors import counted
from florilegium.evaluation import (
    FIRST_WINDOWS,
    Cloze,
    Forgetting,
    FormMetrics,
    RowParts,
    TagRelevance,
    TrainingTexts,
    cloze_items,
    cloze_metrics,
    copy_metrics,
    forgetting,
    general_parts,
    instrument_check,
    is_repetitive,
    mean,
    nearest_texts,
    right_choices,
    row_parts,
    share,
    sums_of_rows,
    tag_relevance,
    windows_to_see,
    words,
)
from florilegium.evaluation.general import GOAL
from florilegium.evaluation.rows_relevance import writes_known_tags
from florilegium.generation import Generated, generate_texts
from florilegium.generation.tuned import Tuned
from florilegium.runs.controls import Compared, texts_to_json, variety
from florilegium.runs.known_tags import known_tags_to_json, rank_known_tags
from florilegium.runs.sides import Measured, SideReport
from florilegium.runs.tag_baselines import TagBaselines, tag_baselines
from florilegium.runs.tags_first import TagsFirst, measure_tags_first
from florilegium.runs.time_left import TimeLeft
from florilegium.runs.verdict import filled_share, is_filled
from florilegium.tokens import label_prompt

TAG_TOKENS = 40


@dataclass(frozen=True)
class EvalData:
    """The rows that a run was trained and is examined on; of `held_out` and `validation` as many as were asked for."""

    config: TrainConfig
    rows: Rows
    split: Split
    training: list[Quote]
    held_out: list[Quote]
    places: list[str]
    validation: list[Quote]

    @property
    def main_texts(self) -> list[str]:
        return [str(quote[self.rows.template.main_column]) for quote in self.training]

    @property
    def held_out_texts(self) -> list[str]:
        return [str(quote[self.rows.template.main_column]) for quote in self.held_out]


@dataclass
class Evaluator:
    """Asks one tuned model everything, with its adapter on or off."""

    tuned: Tuned
    material: EvalData
    settings: SamplingSettings
    generations: int
    view: TimeLeft
    known_tags: bool = False

    def measure(self, *, use_base: bool) -> Measured:
        name = "base " if use_base else "tuned"
        with self.tuned.adapter_off() if use_base else contextlib.nullcontext():
            self.view.start(
                f"{name.strip()} losses", f"{name}  losses of {counted(len(self.material.held_out), 'held-out row')}"
            )
            rows = self._rows()
            self.view.start(f"{name.strip()} tags", f"{name}  tags for their quotes")
            tags = self._written_tags()
            samples = counted(self.generations, "unconditional sample")
            self.view.start(f"{name.strip()} samples", f"{name}  {samples}")
            texts = self._samples(name)
            asked = self._tags_first(name)
        return Measured(rows, self._form(texts), tags, [self._main_text(row) for row in texts], asked)

    def compare(self, tuned: Measured, base: Measured | None) -> Compared:
        """Both sides with the metrics that need a common measure, and the controls, as JSON."""
        training, held_out = self.material.main_texts, self.material.held_out_texts
        retrieved = nearest_texts(training, held_out)
        texts = [held_out, retrieved, tuned.texts, *([base.texts] if base else [])]
        budget = min(sum(len(words(text)) for text in own) for own in texts)
        index = TrainingTexts(training)
        wanted = self._tags_of(self.material.held_out)
        own_tags = self._relevance(wanted) if wanted is not None else None
        baselines, filled = self._baselines(wanted), filled_share(self._template, self.material.training)

        def report(name: str, side: Measured) -> dict[str, object]:
            self.view.start(f"{name} copies", f"{name:<5}  copies, variety, tag match")
            copies = copy_metrics(index, side.texts)
            by_row, varied = sums_of_rows(held_out, side.rows, side.tags, wanted), variety(side.texts, budget)
            if side.tags is None:
                return SideReport(side, None, varied, copies, None, None, by_row).to_json()
            scores = baselines.scores(side.tags) if baselines else None
            if baselines and not writes_known_tags(side.tags, wanted or [], baselines.table):
                return SideReport(side, scores, varied, copies, None, None, by_row).to_json()
            match, by_rows = self._relevance(side.tags), baselines.relevance(side.tags) if baselines else None
            return SideReport(side, scores, varied, copies, match, by_rows, by_row).to_json()

        ranked = self._ranked(baselines) if self.known_tags and baselines else {}
        by_own_rows = baselines.relevance(wanted) if baselines and wanted is not None else None
        comparison = baselines.compare(tuned.tags) if baselines and tuned.tags is not None else None
        return {
            "tuned": {**report("tuned", tuned), **ranked},
            "base": report("base", base) if base else None,
            "baseline_comparison": asdict(comparison) if comparison else None,
            "controls": {
                "frequent_tags": baselines.frequent_to_json() if baselines else None,
                "baselines": baselines.to_json() if baselines else {},
                "own_tags": baselines.own_to_json() if baselines else None,
                "training": {"form": {"format_rate": filled}} if filled < 1 else {},
                "held_out": {
                    **texts_to_json(index, held_out, budget),
                    "relevance": own_tags and own_tags.to_json(),
                    "relevance_by_rows": by_own_rows and by_own_rows.to_json(),
                },
                "retrieved": texts_to_json(index, retrieved, budget),
                "copies_instrument": instrument_check(index, training).to_json(),
                "variety_words": budget,
            },
        }

    def forgetting(self, paragraphs: Sequence[str]) -> Forgetting:
        line = "tuned  loss on general text and its next words, with and without the adapter"
        self.view.start("general text", line)
        items, loaded = cloze_items(paragraphs), self.tuned.loaded
        chosen_after = right_choices(loaded, items)
        with self.tuned.adapter_off():
            chosen_before = right_choices(loaded, items)
        words = cloze_metrics(chosen_before, chosen_after)
        found = self._general(paragraphs, words, FIRST_WINDOWS)
        needed = windows_to_see(found)
        if found.windows < FIRST_WINDOWS or needed <= found.windows:  # that was all of the text, or enough of it
            return found
        few = f"{counted(found.windows, 'window')} of general text cannot show a change of {GOAL} nats per token"
        self.view.say(f"       {few}: up to {counted(needed, 'window')} now")
        return self._general(paragraphs, words, needed)

    def _general(self, paragraphs: Sequence[str], words: Cloze | None, most: int) -> Forgetting:
        after = general_parts(self.tuned.loaded, paragraphs, most)
        with self.tuned.adapter_off():
            before = general_parts(self.tuned.loaded, paragraphs, most)
        return forgetting(before, after, words)

    @property
    def _template(self) -> Template:
        return self.tuned.template

    def _tags_first(self, name: str) -> TagsFirst | None:
        if self._template.asked_by_tags is None:
            return None
        self.view.say(f"{name}  quotes for the tags of held-out rows")
        held_out, limit = self.material.held_out, self.material.config.max_length
        return measure_tags_first(self.tuned, held_out, self.material.places, limit, self.settings)

    def _rows(self) -> list[RowParts]:
        limit = self.material.config.max_length
        parts = row_parts(self.tuned.loaded, self._template, self.material.held_out, limit, self.material.places)
        # A template that begins with its tags has the quote behind them.
        return [row.turned for row in parts] if self._template.begins_with_tags else parts

    def _samples(self, name: str) -> list[Generated]:
        tell = partial(self.view.underway, f"writing {counted(self.generations, 'text')}, {name.strip()}")
        prompts = [self.tuned.prompt_text("")] * self.generations
        return self.tuned.complete(prompts, self.settings, tell=tell)

    def _written_tags(self) -> list[list[str]] | None:
        """The tags that the model writes behind each held-out quote; None where the template does not end in a list."""
        if self._tags_of([]) is None:
            return None
        prompts = [label_prompt(self._template, quote) for quote in self.material.held_out]
        settings = SamplingSettings(max_new_tokens=TAG_TOKENS, temperature=0.0)
        tell = partial(self.view.underway, "writing tags")
        rows = generate_texts(self.tuned.loaded, self._template, prompts, settings, tell=tell)
        return [_written(self._template, prompt, row) for prompt, row in zip(prompts, rows, strict=True)]

    def _tags_of(self, quotes: Sequence[Quote]) -> list[list[str]] | None:
        columns = self._template.columns
        return (
            [list(quote[columns[-1]]) for quote in quotes]
            if len(columns) > 1 and columns[-1] in self._template.list_columns
            else None
        )

    def _baselines(self, wanted: Sequence[Sequence[str]] | None) -> TagBaselines | None:
        trained = self._tags_of(self.material.training)
        if trained is None or wanted is None or not any(wanted) or not any(trained):
            return None
        self.view.start("baselines", "       baselines: nearest training rows, naive Bayes")
        return tag_baselines(self.material.main_texts, trained, self.material.held_out_texts, wanted)

    def _ranked(self, baselines: TagBaselines) -> dict[str, object]:
        self.view.say(f"tuned  probabilities of {counted(len(baselines.table.names), 'known tag')}")
        ranked = rank_known_tags(self.tuned, baselines.table.names, self.material.held_out, self.material.validation)
        return {"known_tags": known_tags_to_json(ranked, baselines)}

    def _relevance(self, tags: Sequence[Sequence[str]]) -> TagRelevance | None:
        limit = self.material.config.max_length
        with self.tuned.adapter_off():
            return tag_relevance(self.tuned.loaded, self._template, self.material.held_out, tags, limit)

    def _form(self, rows: Sequence[Generated]) -> FormMetrics:
        good = [row.quote is not None and is_filled(self._template, row.quote) for row in rows]
        return FormMetrics(
            format_rate=share(good),
            stop_rate=share([row.finished for row in rows]),
            loop_rate=share([is_repetitive(row.text) for row in rows]),
            words=mean([float(len(words(self._main_text(row)))) for row in rows]),
        )

    def _main_text(self, row: Generated) -> str:
        return str(row.quote[self._template.main_column]) if row.quote else row.text


def _written(template: Template, prompt: str, row: Generated) -> list[str]:
    """The tags as they were written, those that stand there twice twice: the parser takes each once."""
    tags = list((row.quote or {}).get(template.columns[-1], []))
    pieces = [item.strip() for item in row.text.removeprefix(prompt).split(",") if item.strip()]
    return pieces if list(dict.fromkeys(pieces)) == tags else tags
