"""The card: figures with their intervals, what is copied and forgotten, terms; and no text becomes its markup."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from florilegium.export.card import CardFacts, RunFigures, make_card
from florilegium.export.origin import RAIL, Origin
from florilegium.export.verdict import Verdict
from florilegium.runs.cards import scores
from tests.report.made_up import write_run

HOSTILE = "<script>alert(1)</script> ![x](http://x) | `a` ]("
BLOOM = Origin("bigscience/bloom-560m", True, RAIL)


def facts_of(run: Path, **more: object) -> CardFacts:
    evaluation = json.loads((run / "evaluation.json").read_text())
    figures = RunFigures.from_json(json.loads((run / "manifest.json").read_text()))
    config = yaml.safe_load((run / "config.yaml").read_text())
    return CardFacts("adapter", BLOOM, "{quote} ->: {tags}", config, figures, scores(evaluation), **more)  # type: ignore[arg-type]  # any of its fields


def test_it_has_figures_intervals_and_terms(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    verdict = Verdict(True, "llama.cpp", 32, "held-out rows", "log-probabilities", 0.002, 0.0003, "0.03", 32, 32, 32)
    card = make_card(facts_of(run, verdict=verdict, kind="f16", samples=["Be kind. ->: kindness"], prompts=["The sea"]))
    values = yaml.safe_load(card.split("---\n")[1])
    assert values["base_model"] == BLOOM.name and values["base_model_relation"] == "adapter"
    assert values["license"] == RAIL and values["widget"] == [{"text": "The sea"}]
    for wanted in (
        "micro F1",
        "copies (8 words in a row)",
        "95% intervals",
        "Attachment A",
        "greedy texts equal 32 of 32",
    ):
        assert wanted in card, wanted
    line = next(line for line in card.splitlines() if "micro F1" in line)
    assert " to " in line  # an interval
    assert card.count("```") % 2 == 0 and "None" not in card


def test_no_text_becomes_markup(tmp_path: Path) -> None:
    card = make_card(facts_of(write_run(tmp_path / "run"), samples=[HOSTILE, "two\nlines"]))
    assert "<script>" not in card.replace("\\<script>", "") and "![x]" not in card.replace("\\!\\[x]", "")
    assert "> two\n> lines" in card
    template = make_card(CardFacts("adapter", BLOOM, "```\n# {quote}"))
    assert "````\n```\n# {quote}\n````" in template


def test_a_data_set_of_the_hub_is_named_and_a_file_is_not(tmp_path: Path) -> None:
    config = {"data": "Abirate/english_quotes"}
    hub = make_card(CardFacts("merged", BLOOM, "{quote}", config, data_is_local=False))
    assert yaml.safe_load(hub.split("---\n")[1])["datasets"] == ["Abirate/english_quotes"]
    local = make_card(CardFacts("merged", BLOOM, "{quote}", config, data_is_local=True))
    assert "datasets" not in yaml.safe_load(local.split("---\n")[1])
