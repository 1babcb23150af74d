"""The model card, filled: what it is, what it scored, what it copies and forgot, how to load it, under which terms.

One card for all forms. Every text that a run, a user or a model brought is written as a quotation or as code, so that
none of it becomes the page's own markup; the metadata on top is YAML by a YAML library."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from florilegium.export.card_use import THIS, ways_to_load
from florilegium.export.origin import HUB_ID, Origin
from florilegium.export.verdict import Verdict
from florilegium.storage.json_record import JsonRecord

TITLES = {
    "adapter": "LoRA adapter",
    "merged": "Tuned model",
    "quantised": "Tuned model, quantised",
    "gguf": "Tuned model in GGUF",
    "gguf-adapter": "LoRA adapter in GGUF",
}
RELATIONS = {
    "adapter": "adapter",
    "merged": "finetune",
    "quantised": "quantized",
    "gguf": "quantized",
    "gguf-adapter": "adapter",
}
LIBRARIES = {
    "adapter": "peft",
    "merged": "transformers",
    "quantised": "transformers",
    "gguf": "gguf",
    "gguf-adapter": "gguf",
}


@dataclass(frozen=True)
class RunFigures(JsonRecord):
    """What the card says of a run's manifest.json; None where that does not."""

    version: str = ""
    training_rows: int | None = None
    held_out_rows: int | None = None
    validation_rows: int = 0
    trained_parameters: int = 0
    total_parameters: int = 1
    steps: int | None = None
    eval_loss_before: float | None = None
    eval_loss: float | None = None
    verdict: dict[str, object] | None = None


@dataclass(frozen=True)
class CardFacts:
    """What the card says. `config` and `figures` are those of the run, or empty for an adapter that has none; `scores`
    are lines of the evaluation: its group, then name, base, tuned, what to compare with."""

    to: str
    base: Origin
    template: str
    config: Mapping[str, object] = field(default_factory=dict)
    figures: RunFigures | None = None
    scores: Sequence[tuple[str, str, str, str, str]] = ()
    samples: Sequence[str] = ()
    rank: int = 0
    alpha: float = 0.0
    where: str = THIS
    data_is_local: bool = True
    files: Mapping[str, int] = field(default_factory=dict)
    kind: str = ""
    verdict: Verdict | None = None
    prompts: Sequence[str] = ()


def make_card(facts: CardFacts) -> str:
    """The README.md of what is described by `facts`."""
    parts = [
        f"---\n{_metadata(facts)}---\n\n# {TITLES[facts.to]} on {facts.base.name}",
        _what_it_is(facts),
        _figures(facts),
        _files(facts),
        f"## Load it\n\n{ways_to_load(facts.to, facts.base, facts.where, facts.template, facts.files)}",
        "## As it came out\n\n" + ("\n\n".join(_quoted(text) for text in facts.samples) or "No samples were taken."),
        _limits(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metadata(facts: CardFacts) -> str:
    import yaml

    values: dict[str, object] = {
        "library_name": LIBRARIES[facts.to],
        "pipeline_tag": "text-generation",
        "tags": ["lora", "florilegium", "quotes", *(["gguf", "llama.cpp"] if facts.to.startswith("gguf") else [])],
    }
    if facts.base.licence:
        values["license"] = facts.base.licence
    if facts.base.on_hub:
        values |= {"base_model": facts.base.name, "base_model_relation": RELATIONS[facts.to]}
    source = str(facts.config.get("data", ""))
    if HUB_ID.fullmatch(source) and not facts.data_is_local:
        values["datasets"] = [source]
    if facts.prompts:
        values["widget"] = [{"text": prompt} for prompt in facts.prompts]
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _what_it_is(facts: CardFacts) -> str:
    config, figures = facts.config, facts.figures
    lora = f"LoRA (rank {facts.rank}, alpha {facts.alpha:g}) on {facts.base.name}"
    if figures is None:
        return f"{lora}. It was trained on rows rendered as\n\n{_code(facts.template)}"
    trained, total = figures.trained_parameters, figures.total_parameters
    lines = [
        f"{lora}, its base frozen in {_known(config, 'bits')} bits while it was trained by florilegium "
        f"{figures.version} on {_counted(figures.training_rows)} rows rendered as\n\n{_code(facts.template)}\n",
        f"{trained:,} of {total:,} parameters were trained ({100 * trained / max(1, total):.3f}%).\n",
        "| | |\n|---|---|",
        f"| steps, rows a step | {_counted(figures.steps)}, {_known(config, 'batch_size')} |",
        f"| learning rate, schedule | {_known(config, 'learning_rate')}, {_known(config, 'lr_schedule')} |",
        f"| seed | {_known(config, 'seed')} |",
    ]
    if figures.verdict is not None:
        lines.append(f"| verdict | {_cell(str(figures.verdict.get('sentence', '')))} |")
    return "\n".join(lines)


def _counted(number: int | None) -> str:
    return "?" if number is None else str(number)


def _known(values: Mapping[str, object], name: str) -> str:
    """A value as text; `default` where the run left it to the program."""
    found = values.get(name, "?")
    return "default" if found is None else str(found)


def _figures(facts: CardFacts) -> str:
    """Losses of the training, the evaluation's table with its intervals, and the verdict on this export."""
    lines, figures = ["## Figures\n"], facts.figures
    if figures and figures.eval_loss is not None:
        rows = "?" if figures.held_out_rows is None else figures.held_out_rows - figures.validation_rows
        losses = f"{figures.eval_loss_before:.3f} before, {figures.eval_loss:.3f} after"
        lines.append(f"Held-out loss {losses} (per token, {rows} rows).\n")
    if facts.scores:
        lines += ["| | base | tuned | to compare |\n|---|---|---|---|"]
        for group in dict.fromkeys(score[0] for score in facts.scores):
            lines.append(f"| **{group}** | | | |")
            lines += [
                f"| {_cell(n)} | {_cell(b)} | {_cell(t)} | {_cell(c)} |" for g, n, b, t, c in facts.scores if g == group
            ]
        lines.append("\nIn brackets: 95% intervals, by bootstrap over rows (Wilson for shares of texts).\n")
    elif figures:
        lines.append("What it learned, forgot and copies was not measured (`florilegium evaluate --base` does).\n")
    if facts.verdict is not None:
        lines.append(f"This export, {facts.kind}, against the live adapter on its base: {facts.verdict.sentence()}.")
        if facts.verdict.rows_are:
            lines.append(f"({facts.verdict.rows} {facts.verdict.rows_are})")
    return "\n".join(lines).rstrip() if len(lines) > 1 else ""


def _files(facts: CardFacts) -> str:
    shown = {name: size for name, size in facts.files.items() if name.endswith((".gguf", ".safetensors", "Modelfile"))}
    if not shown or facts.to == "adapter":
        return ""
    lines = [f"| `{name}` | {size / 1e6:,.1f} MB |" for name, size in shown.items()]
    return "## Files\n\n| file | size |\n|---|---|\n" + "\n".join(lines)


def _limits(facts: CardFacts) -> str:
    terms = facts.base.restrictions()
    return (
        "## Limits and terms\n\nIt writes what its training rows and its base model make likely, which may be wrong, unfair "
        f"or close to a text it was trained on.\n\n{terms}"
    )


def _code(text: str) -> str:
    """`text` as a block of code, whatever backticks it holds."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def _quoted(text: str) -> str:
    return "> " + _plain(text).replace("\n", "\n> ")


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|").replace("\n", " ")


def _plain(text: str) -> str:
    """Text that stays text in Markdown: no HTML, no link, no image."""
    return re.sub(r"([\\`<\[!])", r"\\\1", text)
