"""What a run that trains another one further has forgotten of the other's rows: their held-out loss before the first step
and after the last.

    forgotten  held-out loss on the 116 rows of runs/first: 3.621 before, 3.744 after
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import torch

from florilegium.config import make_config, read_run_config, settings_of_run
from florilegium.data import read_rows_of, split_by_config
from florilegium.errors import FlorilegiumError
from florilegium.model import set_adapter_state
from florilegium.runs.moved import found_again
from florilegium.runs.prepare import Prepared
from florilegium.runs.recorder import ProgressView
from florilegium.storage.run_directory import RunDirectory, adapter_folder, find_run
from florilegium.tokens import Example, chat_rows, encode_ways
from florilegium.training import Trainer, held_out_loss

MOST_ROWS = 500


@dataclass(frozen=True)
class PreviousRows:
    """Held-out rows of the run that this one started from."""

    run: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Forgotten:
    """Mean loss a token, in nats, on the previous run's held-out rows."""

    run: str
    rows: int
    loss_before: float
    loss_after: float

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    def __str__(self) -> str:
        rows = f"{self.rows:,} {'row' if self.rows == 1 else 'rows'}"
        return f"held-out loss on the {rows} of {self.run}: {self.loss_before:.3f} before, {self.loss_after:.3f} after"


def read_previous_rows(prepared: Prepared, view: ProgressView) -> PreviousRows | None:
    """The held-out rows of the run that `--from` names, where they are others than this run's. None where there are
    none; where they cannot be read, the view is told."""
    name = prepared.config.start_from
    if not name:
        return None
    try:
        folder = find_run(name)
        run = RunDirectory(folder if RunDirectory(folder).is_run else adapter_folder(folder).parent)
        if not run.is_run or run.data_digest() == prepared.rows.digest:
            return None
        config = make_config(settings_of_run(read_run_config(run.config)), source=str(run.config))
        rows = read_rows_of(found_again(config, run.path))
        if config.chat:
            rows = chat_rows(rows, prepared.base.tokenizer, config.model)
        split = split_by_config(config, rows)
        numbers = split.test[:: max(1, -(-len(split.test) // MOST_ROWS))]
        quotes, places = [rows.quotes[i] for i in numbers], [rows.places[i] for i in numbers]
        encoded = encode_ways(
            prepared.base.tokenizer,
            rows.template,
            quotes,
            max_length=prepared.base.longest_row(config.max_length),
            loss_on=config.loss_on,
            places=places,
        )
    except FlorilegiumError as error:
        view.say(f"         what is forgotten of the rows of {name} is not measured: {error.cause}")
        return None
    return PreviousRows(name, tuple(encoded.examples)) if encoded.examples else None


def loss_on(trainer: Trainer, previous: PreviousRows | None) -> float | None:
    return held_out_loss(_for_rows(trainer, previous), previous.examples) if previous is not None else None


def _for_rows(trainer: Trainer, previous: PreviousRows) -> Trainer:
    """The trainer, without the fused layers where these rows are longer than what those were put in place for."""
    layers = trainer.options.fused_layers
    longest = max(len(example.token_ids) - 1 for example in previous.examples)
    if layers is None or longest <= layers.runner.longest:
        return trainer
    return replace(trainer, options=replace(trainer.options, fused_layers=None))


def forgotten(
    trainer: Trainer, previous: PreviousRows | None, before: float | None, best: Mapping[str, torch.Tensor]
) -> Forgotten | None:
    """Before against the adapter that is kept: `best`, or the last step's where that is empty. `before` is None in a run
    that was resumed: what stood then is not known any more."""
    if previous is None or before is None:
        return None
    if best:
        set_adapter_state(trainer.loaded.model, best)
    return Forgotten(
        previous.run, len(previous.examples), before, held_out_loss(_for_rows(trainer, previous), previous.examples)
    )
