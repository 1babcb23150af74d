"""`florilegium evaluate RUN [--base]`: everything that can be said about a run in figures, the untuned base beside it.

    losses         of held-out rows, the quote's part and the tags' apart; of general text, before and after
    tags           written for the held-out quotes (greedily), against the rows' own; and what always naming frequent tags would get
    free texts     written from nothing with fixed seeds: form, stopping, is_repetitive, variety, copies of training rows
    relevance      do the tags that were written fit their quotes

The rows are read again and split again as the run did it, and must be the same (the digest in manifest.json). The
answer is one JSON object, `evaluation.json` in the run's folder, and report.html there is written anew. A figure is
`{"value", "low", "high"}`: a 95% bootstrap interval."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from florilegium.config import SamplingSettings, TrainConfig, make_config, read_config
from florilegium.config.installed import installed_version
from florilegium.data import Quote, Rows, Split, Template, read_rows_of, split_by_config
from florilegium.errors import DataError, UsageError, counted
from florilegium.evaluation import (
    GENERAL,
    TrainingTexts,
    copy_metrics,
    distinct_n,
    forgetting,
    general_parts,
    instrument_check,
    is_repetitive,
    loss_metrics,
    mean,
    most_frequent_tags,
    read_general,
    row_parts,
    share,
    tag_relevance,
    tag_scores,
    words,
)
from florilegium.generation import Generated, generate_texts
from florilegium.generation.tuned import Tuned, load
from florilegium.report import write_report
from florilegium.runs.recorder import Silent, View
from florilegium.storage.atomic_files import write_json
from florilegium.storage.run_directory import RunDirectory, adapter_folder, find_run
from florilegium.tokens import label_prompt

TAG_TOKENS = 40


@dataclass(frozen=True)
class EvalData:
    """The rows that a run was trained and is examined on."""

    config: TrainConfig
    rows: Rows
    split: Split
    training: list[Quote]
    held_out: list[Quote]
    places: list[str]

    @property
    def main_texts(self) -> list[str]:
        return [str(quote[self.rows.template.main_column]) for quote in self.training]


def evaluate(
    run: str | Path = "latest",
    *,
    base: bool = False,
    data: str | None = None,
    model: str | None = None,
    general: str | Path | None = None,
    generations: int = 200,
    rows: int = 500,
    seed: int = 0,
    bits: int | None = None,
    device: str = "auto",
    view: View | None = None,
) -> dict[str, Any]:
    """The figures of `run`, also written to its `evaluation.json`. `base` examines the untuned model too; `data` and
    `model` say where the run's rows and base lie now; at most `rows` held-out rows are used, `generations` free texts
    written.

    Raises UsageError when there is no such run, DataError when its rows are gone, changed or none was held out, and
    what loading raises."""
    view, began = view or Silent(), time.monotonic()
    if generations < 1 or rows < 1:
        raise UsageError(f"--{'generations' if generations < 1 else 'rows'} is below 1", "It takes 1 or more")
    directory = find_run(str(run))
    adapter_folder(directory)
    material = read_eval_data(directory, data, rows)
    paragraphs = read_general(Path(general) if general else GENERAL)
    tuned = load(directory, model=model, bits=bits, device=device)
    evaluator = Evaluator(tuned, material, SamplingSettings(seed=seed), generations, view)
    sides = {"tuned": evaluator.side(use_base=False), "base": evaluator.side(use_base=True) if base else None}
    view.say("tuned  loss on general text, with and without the adapter")
    report = {
        "version": installed_version("florilegium"),
        "held_out_rows": len(material.held_out),
        "split_by": material.config.split_by,
        "leaks": material.split.leaks,
        "generations": generations,
        "sampling": asdict(evaluator.settings),
        "interval": "95%, bootstrap over rows, 1,000 resamples; Wilson for shares of texts",
        **evaluator.compare(sides),
        "general": str(Path(general).name) if general else "bundled",
        "forgetting": evaluator.forgetting(paragraphs),
        "elapsed_seconds": round(time.monotonic() - began, 1),
    }
    write_json(RunDirectory(directory).evaluation, report)
    view.say(f"report {write_report(directory)}")
    return report


def read_eval_data(directory: Path, data: str | None = None, most_rows: int = 500) -> EvalData:
    """The run's rows, read and split again. Raises UsageError for a folder that is no run, DataError for other rows
    than it was made on."""
    run = RunDirectory(directory).check()
    config = make_config(read_config(run.config), source=str(run.config))
    rows = read_rows_of(config, data)
    digest = run.read_manifest().get("data", {}).get("digest")
    if digest and digest != rows.digest:
        raise DataError(
            f"{data or config.data} does not hold the rows that {directory} was trained on",
            "Name their file with --data",
        )
    split = split_by_config(config, rows)
    if not split.held_out:
        raise DataError(
            f"{directory} has no held-out rows, so there is nothing to measure on",
            "Train again with --held-out 0.1 and more rows",
        )
    numbers = split.held_out[:: max(1, -(-len(split.held_out) // most_rows))]
    held_out, places = [rows.quotes[i] for i in numbers], [rows.places[i] for i in numbers]
    return EvalData(config, rows, split, [rows.quotes[i] for i in split.training], held_out, places)


@dataclass
class Evaluator:
    """Asks one tuned model everything, with its adapter on or off."""

    tuned: Tuned
    material: EvalData
    settings: SamplingSettings
    generations: int
    view: View

    def side(self, *, use_base: bool) -> dict[str, Any]:
        """The figures of one side that need no other, and under `_` what `compare` needs besides."""
        name = "base " if use_base else "tuned"
        with self.tuned.adapter_off() if use_base else contextlib.nullcontext():
            self.view.say(f"{name}  losses of {counted(len(self.material.held_out), 'held-out row')}")
            losses = self._losses()
            self.view.say(f"{name}  tags for their quotes")
            tags = self._written_tags()
            self.view.say(f"{name}  {counted(self.generations, 'unconditional sample')}")
            texts = self.tuned.generate("", n=self.generations, settings=self.settings)
        return {
            "losses": losses,
            "form": self._form(texts),
            "_tags": tags,
            "_texts": [self._main_text(row) for row in texts],
        }

    def compare(self, sides: dict[str, dict[str, Any] | None]) -> dict[str, Any]:
        """Both sides with the figures that need a common measure, and the controls."""
        held_out_texts = [str(quote[self._template.main_column]) for quote in self.material.held_out]
        texts = {name: side["_texts"] for name, side in sides.items() if side} | {"held_out": held_out_texts}
        budget = min(sum(len(words(text)) for text in own) for own in texts.values())
        index = TrainingTexts(self.material.main_texts)
        wanted = self._tags_of(self.material.held_out)
        own_tags = self._relevance(wanted) if wanted is not None else None
        out: dict[str, Any] = {}
        for name, side in sides.items():
            if side is None:
                out[name] = None
                continue
            self.view.say(f"{name:<5}  copies, variety, tag match")
            written = side["_tags"]
            out[name] = {
                **side["losses"],
                "written_tags": tag_scores(written, wanted) if written is not None and wanted is not None else None,
                "form": side["form"],
                "variety": _variety(texts[name], budget),
                "copies": copy_metrics(index, texts[name]),
                "relevance": self._relevance(written) if written is not None else None,
            }
        out["controls"] = {
            "frequent_tags": self._frequent_tags(wanted),
            "held_out": {
                "variety": _variety(held_out_texts, budget),
                "copies": copy_metrics(index, held_out_texts),
                "relevance": own_tags,
            },
            "copies_instrument": instrument_check(index, self.material.main_texts),
            "variety_words": budget,
        }
        return out

    def forgetting(self, paragraphs: Sequence[str]) -> dict[str, Any]:
        after = general_parts(self.tuned.loaded, paragraphs)
        with self.tuned.adapter_off():
            before = general_parts(self.tuned.loaded, paragraphs)
        return forgetting(before, after)

    @property
    def _template(self) -> Template:
        return self.tuned.template

    def _losses(self) -> dict[str, Any]:
        limit = self.material.config.max_length
        parts = row_parts(self.tuned.loaded, self._template, self.material.held_out, limit, self.material.places)
        return loss_metrics(parts)

    def _written_tags(self) -> list[list[str]] | None:
        """The tags that the model writes behind each held-out quote; None where the template does not end in a list."""
        if self._tags_of([]) is None:
            return None
        prompts = [label_prompt(self._template, quote) for quote in self.material.held_out]
        settings = SamplingSettings(max_new_tokens=TAG_TOKENS, temperature=0.0)
        rows = generate_texts(self.tuned.loaded, self._template, prompts, settings)
        column = self._template.columns[-1]
        return [list((row.quote or {}).get(column, [])) for row in rows]

    def _tags_of(self, quotes: Sequence[Quote]) -> list[list[str]] | None:
        columns = self._template.columns
        return (
            [list(quote[columns[-1]]) for quote in quotes]
            if len(columns) > 1 and columns[-1] in self._template.list_columns
            else None
        )

    def _frequent_tags(self, wanted: Sequence[Sequence[str]] | None) -> dict[str, Any] | None:
        trained = self._tags_of(self.material.training)
        if trained is None or wanted is None:
            return None
        answer = most_frequent_tags(trained)
        figures = tag_scores([answer] * len(wanted), wanted)
        return {**figures, "answer": answer} if figures else None

    def _relevance(self, tags: Sequence[Sequence[str]]) -> dict[str, Any] | None:
        limit = self.material.config.max_length
        with self.tuned.adapter_off():
            return tag_relevance(self.tuned.loaded, self._template, self.material.held_out, tags, limit)

    def _form(self, rows: Sequence[Generated]) -> dict[str, Any]:
        columns = self._template.list_columns
        good = [row.quote is not None and all(row.quote[name] for name in columns) for row in rows]
        return {
            "format_rate": share(good),
            "stop_rate": share([row.finished for row in rows]),
            "loop_rate": share([is_repetitive(row.text) for row in rows]),
            "words": mean([float(len(words(self._main_text(row)))) for row in rows]),
        }

    def _main_text(self, row: Generated) -> str:
        return str(row.quote[self._template.main_column]) if row.quote else row.text


def _variety(texts: Sequence[str], budget: int) -> dict[str, float | None]:
    return {f"distinct_{n}": distinct_n(texts, n, budget) for n in (1, 2, 3)}
