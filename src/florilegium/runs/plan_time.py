"""About how long a run will take, for its plan line: what `estimate` says of a config.json, of a model that is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from florilegium.model import Base
from florilegium.model.card_memory import this_card
from florilegium.model.products import product_parameters
from florilegium.runs.plan import ExecutionPlan
from florilegium.runs.prepare import Prepared
from florilegium.runs.rates import beside_seconds, product_rate, step_seconds


@dataclass(frozen=True)
class LoadedSizes:
    """`rates.ModelSizes` of a model in memory."""

    width: int
    product_parameters: int
    weight_bytes: int

    def base_bytes(self, bits: int) -> int:
        return self.weight_bytes


def sizes_of(base: Base) -> LoadedSizes:
    held = sum(parameter.numel() * parameter.element_size() for parameter in base.model.parameters())
    return LoadedSizes(int(base.model.config.get_text_config().hidden_size), product_parameters(base.model), held)


def planned_seconds(prepared: Prepared, plan: ExecutionPlan) -> float | None:
    """Of the steps, evaluations and texts that are planned; None where it is not known before the first steps: on a card
    without a rate, with weights in host memory, in several processes."""
    base, config, memory = prepared.base, plan.config, plan.memory
    if base.stage is not None or (memory is not None and memory.offloaded):
        return None
    card = this_card() if base.device.type == "cuda" else None
    sizes = sizes_of(base)
    layers = "fused-layers" in plan.kernels
    rate = product_rate(sizes, card, fused=memory is not None, layers=layers, dtype=base.compute_dtype)
    if rate is None:
        return None
    training = prepared.training.examples
    tokens = sum(len(example.token_ids) - 1 for example in training) * config.batch_size // max(1, len(training))
    step = step_seconds(sizes, rate, [tokens], None, None)
    if memory is not None:  # what is recomputed costs a third pass
        step *= 1 + 0.5 * (base.num_layers - memory.full) / base.num_layers
    held_out = sum(len(e.token_ids) for side in (prepared.held_out, prepared.validation) for e in side.examples)
    beside = beside_seconds(sizes, card, rate, plan.length.evaluations, held_out, config.verdict_texts, config.bits)
    return plan.length.num_steps * step + beside
