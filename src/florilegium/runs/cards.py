"""What a run knows, as the facts of a model card (`export/card.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from florilegium.config import TrainConfig, as_dict
from florilegium.evaluation.table import table
from florilegium.export.card import CardFacts, RunFigures, make_card
from florilegium.export.card_use import THIS
from florilegium.export.origin import origin_of
from florilegium.export.subject import Subject
from florilegium.export.verdict import Verdict
from florilegium.model.untrusted import read_json
from florilegium.runs.manifest import RunManifest

WIDGET = ("The sea", "Be kind to")  # how a quote may begin


def adapter_card(config: TrainConfig, manifest: RunManifest, samples: list[str], folder: Path | None) -> str:
    """The card of an adapter whose run has just ended. `folder` is where its base lies."""
    facts = CardFacts(
        "adapter",
        origin_of(config.model, folder),
        config.template,
        as_dict(config),
        RunFigures.from_json(manifest.to_json()),
        samples=samples,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        data_is_local=is_local(config.data),
        prompts=WIDGET,
    )
    return make_card(facts)


def export_card(
    subject: Subject, to: str, kind: str = "", files: Mapping[str, int] | None = None, verdict: Verdict | None = None,
    where: str = THIS,
) -> str:  # fmt: skip
    """The card of an adapter or an export of `subject`; `where` is what its code blocks name."""
    lora = read_json(subject.adapter / "adapter_config.json", f"the adapter_config.json in {subject.adapter}")
    facts = CardFacts(
        to,
        subject.base,
        subject.template.text,
        subject.config,
        subject.figures,
        scores(subject.evaluation),
        subject.samples,
        int(lora.get("r", 0)),
        float(lora.get("lora_alpha", 0)),
        where,
        is_local(str(subject.config.get("data", ""))),
        files or {},
        kind,
        verdict,
        WIDGET,
    )
    return make_card(facts)


def is_local(data: str) -> bool:
    """Whether the rows were a file or folder of this machine rather than a data set of the Hub."""
    return Path(data).expanduser().exists()


def scores(evaluation: Mapping[str, object]) -> list[tuple[str, str, str, str, str]]:
    """The evaluation's table as lines of text; none where it was not measured, or somebody broke the file."""
    if not evaluation:
        return []
    try:
        groups = table(evaluation)
    except (KeyError, TypeError, AttributeError, ValueError):
        return []
    return [
        (group, cells.line.name, cells.base, cells.tuned, cells.control)
        for group, lines in groups.items()
        for cells in lines
    ]
