"""A run's folder written by hand, with every text in it chosen by the test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from florilegium.config import TrainConfig, as_dict
from florilegium.evaluation.table import LINES

Text = Callable[[str], str]


def write_run(folder: Path, text: Text = lambda what: what, *, prompts: int = 3, loss: float = 3.6) -> Path:
    """`text(what)` gives each text that a user, a model or a path could have brought; `what` says which it is."""
    folder.mkdir(parents=True)
    (folder / "adapter").mkdir()
    config = as_dict(TrainConfig()) | {
        "data": text("data"),
        "model": text("model"),
        "template": text("template"),
        "output": text("output"),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    steps = [
        {
            "step": i,
            "loss": 7 - i / 15,
            "learning_rate": 1e-3 * i / 40,
            "tokens_per_second": 900 + i,
            "peak_memory_bytes": 2**30 + i * 2**20,
        }
        for i in range(1, 41)
    ]
    looks = [{"step": i, "eval_loss": 7 - i / 12} for i in (0, 20, 40)]
    _lines(folder / "metrics.jsonl", [*steps, *looks])
    samples = [
        {"step": step, "prompt": text(f"prompt {i}"), "text": text(f"written {i}"), "tags": [text("tag")]}
        for i in range(prompts)
        for step in (0, 20, 40)
    ]
    _lines(folder / "samples.jsonl", samples)
    manifest = {
        "version": text("version"), "python": "3.11", "libraries": {text("library"): text("library version")}, "device": text("device"),
        "seed": 0, "base": {"name": text("base"), "digest": text("digest"), "tokenizer_digest": text("tokenizer")},
        "data": {"source": text("source"), "digest": text("rows digest")}, "trained_parameters": 143_360, "total_parameters": 11_396_800,
        "steps": 40, "tokens": 30_000, "elapsed_seconds": 75.5, "tokens_per_second": 1200.5, "peak_memory_bytes": 900 * 2**20,
        "eval_loss_before": 7.0, "eval_loss": loss,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "data.json").write_text(json.dumps(_data(text, prompts)))
    (folder / "evaluation.json").write_text(json.dumps(_evaluation(text, prompts)))
    return folder


def _data(text: Text, count: int) -> dict[str, Any]:
    found = {"rows": 2, "places": [text("place")], "examples": [text("tag example")], "tags": 2}
    near = {"pairs": 1, "clusters": 1, "rows": 2, "largest": 2}
    clusters = [[{"place": text(f"place {i}"), "text": text(f"near {i}")} for i in range(count)]]
    findings = {
        "near_duplicates": {**near, "shown": clusters},
        "repair": {
            "mended": 0,
            "can_be_mended": 1,
            "still_broken_then": 0,
            "example": {"before": text("broken"), "after": text("mended")},
        },
        "suspicious_tags": {"a_sentence": found},
        "authors": {"unknown": found},
        "long_outliers": {**found, "limit": 88},
        "tag_outliers": {**found, "limit": 13},
        "no_text": found,
    }
    return {
        "training_rows": 90,
        "held_out_rows": 10,
        "set_aside_rows": 1,
        "leaks": {"cluster": 0, "random": 5},
        "findings": findings,
    }


def _evaluation(text: Text, count: int) -> dict[str, Any]:
    figure = {"value": 0.5, "low": 0.4, "high": 0.6}
    side: dict[str, Any] = {}
    for line in (line for lines in LINES.values() for line in lines):
        *path, last = line.path.split(".")
        place = side
        for key in path:
            place = place.setdefault(key, {})
        place[last] = figure
    closest = [
        {"text": text(f"close {i}"), "nearest": text(f"nearest {i}"), "longest_run": 7, "containment": 0.5}
        for i in range(count)
    ]
    side["copies"]["closest"] = closest
    controls = {
        "frequent_tags": side["written_tags"],
        "baselines": {"naive_bayes": {**side["written_tags"], "name": text("baseline")}},
        "own_tags": side["written_tags"],
        "held_out": side,
        "retrieved": side,
        "copies_instrument": {"planted_found": 1.0, "shuffled_found": 0.0},
    }
    general = {"before": {"loss": figure}, "after": {"loss": figure}, "change": figure}
    comparison = {"best": "naive_bayes", "micro_f1": figure, "sentence": text("comparison")}
    return {
        "tuned": side,
        "base": side,
        "baseline_comparison": comparison,
        "controls": controls,
        "forgetting": general,
        "interval": text("interval"),
    }


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
