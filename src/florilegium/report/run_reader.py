"""A run's folder, read for the report. Whatever is missing or broken there is left out: a report can be made of a run
that was stopped.

Numbers are taken only where they are numbers, text only where it is text: the page must not fall over a file that
somebody edited."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from florilegium.config import current_settings, read_config
from florilegium.errors import UsageError
from florilegium.storage.run_directory import RunDirectory


@dataclass(frozen=True)
class ShownVerdict:
    """What the run said of itself at its end (`runs/verdict.py`)."""

    works: bool
    sentence: str
    advice: str


@dataclass(frozen=True)
class RunRecord:
    """`steps` are the logged steps, `evaluations` the held-out losses, `samples` what the model wrote as it learned;
    `findings` are the data doctor's, `evaluation` the metrics of `florilegium evaluate`; each empty where it is not
    there."""

    directory: Path
    manifest: Mapping[str, object]
    config: Mapping[str, object]
    steps: Sequence[Mapping[str, object]]
    evaluations: Sequence[Mapping[str, object]]
    samples: Sequence[Mapping[str, object]]
    data: Mapping[str, object]
    evaluation: Mapping[str, object]

    @property
    def name(self) -> str:
        return self.directory.resolve().name

    @property
    def is_finished(self) -> bool:
        return "steps" in self.manifest

    @property
    def verdict(self) -> ShownVerdict | None:
        found = self.manifest.get("verdict")
        if not isinstance(found, dict) or not isinstance(found.get("sentence"), str):
            return None
        return ShownVerdict(found.get("works") is True, found["sentence"], str(found.get("advice") or ""))

    @property
    def kept_step(self) -> int | None:
        """The step of the adapter that was kept."""
        found = self.manifest.get("best_step")
        return found if isinstance(found, int) else None

    def series(self, key: str, rows: Iterable[Mapping[str, object]] | None = None) -> list[tuple[float, float]]:
        """(step, value) of a metric, where both are finite numbers."""
        pairs = ((_number(row.get("step")), _number(row.get(key))) for row in (self.steps if rows is None else rows))
        return [(x, y) for x, y in pairs if x is not None and y is not None]


def read_run(directory: Path) -> RunRecord:
    """Raises ModelError for a folder that is no run."""
    run = RunDirectory(directory).check()
    metrics = run.read_metrics()
    config: Mapping[str, object] = {}
    with contextlib.suppress(UsageError):
        config = current_settings(read_config(run.config))
    return RunRecord(
        directory,
        run.read_manifest(),
        config,
        [row for row in metrics if "loss" in row],
        [row for row in metrics if "eval_loss" in row],
        run.read_samples(),
        run.read_data_report(),
        run.read_evaluation(),
    )


def _number(value: object) -> float | None:
    return (
        float(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        else None
    )
