"""Between the adapter and the first step: which paths run, how rows are packed, what memory is used for, and a Trainer
of all that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from florilegium.config import TrainConfig
from florilegium.errors import UsageError
from florilegium.model import Walk
from florilegium.model import fast_paths as paths
from florilegium.model.memory_plan import Forecast, choose, shape_of
from florilegium.model.packed_forward import add_neftune, transformer
from florilegium.runs.prepare import Prepared, choose_order
from florilegium.tokens import PackPlan, pack
from florilegium.training import (
    LOOK_ROWS,
    Schedule,
    Trainer,
    gradients,
    make_optimizer,
    make_schedule,
    make_schedule_numbers,
    order_of,
)

ROW_TOKENS, CPU_ROW_TOKENS = 8192, 256
MOST_STEPS = 2048  # looked at for a forecast; a longer step that comes later is taken in two pieces
MOST_LOOKED_AT = 1024  # held-out rows that are packed to see their lengths
ROUNDED = PackPlan(bucketed=True, multiple=64)  # as the trunk's rows are


def set_up(prepared: Prepared, model: Any) -> Forecast | None:
    """Swaps the fast paths of `prepared.fast` into the model, and forecasts its memory where the trunk runs. A path of
    'auto' that this model cannot take is dropped from `prepared.fast`; one that was named is a UsageError."""
    base = prepared.base
    for name in ("fused-blocks", "fast-decode"):
        if name in prepared.fast:
            obstacle = (
                paths.obstacle(name, transformer(model), base.device, base.compute_dtype)
                if base.packs
                else "it is BLOOM's"
            )
            _drop_or_refuse(prepared, name, obstacle)
    paths.install(model, prepared.fast)
    if "fused-blocks" not in prepared.fast:
        return None
    bloom, lengths = transformer(model), _lengths(prepared)
    forecast = _forecast(prepared, model, lengths)
    if forecast.copies < len(bloom.h):
        forecast = replace(forecast, products=paths.say_products(bloom))
    coming = (
        _looks(prepared, forecast)
        + lengths[: make_schedule_numbers(len(prepared.training.examples), prepared.config).num_steps]
    )
    whole = dict.fromkeys(tokens for tokens in coming if tokens <= forecast.tokens)
    paths.install_trunk(bloom, forecast.full, forecast.middle, forecast.copies, list(whole))
    return forecast


def _drop_or_refuse(prepared: Prepared, name: str, obstacle: str) -> None:
    if obstacle and prepared.asked_fast != "auto":
        raise UsageError(
            f"--fast: the fast path {name!r} cannot run: {obstacle}", "Use --fast auto, or leave that name out"
        )
    if obstacle:
        prepared.fast = tuple(other for other in prepared.fast if other != name)
        # config.yaml must not name what was dropped: a resumed run would be refused for it.
        order = choose_order(prepared.asked_order, prepared.fast)
        prepared.config = replace(prepared.config, kernels=",".join(prepared.fast) or "off", batching=order)


def _lengths(prepared: Prepared) -> list[int]:
    """Tokens of the steps to come, as they are packed."""
    order = order_of(prepared.training.examples, prepared.config)
    return [ROUNDED.round_up(order.tokens(number)) for number in range(min(3 * order.steps_per_epoch, MOST_STEPS))]


def _looks(prepared: Prepared, forecast: Forecast) -> list[int]:
    """Tokens of the batches of a look at the held-out rows, of which one comes before the first step."""
    held_out, plan = prepared.held_out.examples[:MOST_LOOKED_AT], pack_plan(prepared, forecast)
    parts = [held_out[first : first + LOOK_ROWS] for first in range(0, len(held_out), LOOK_ROWS)]
    return [batch.tokens_BT.numel() for part in parts for batch in pack(part, plan)]


def _forecast(prepared: Prepared, model: Any, lengths: list[int]) -> Forecast:
    """Raises ResourceError when not even the leanest plan fits."""
    config = prepared.config
    free, total = torch.cuda.mem_get_info()
    held = torch.cuda.memory_allocated()
    # Beside torch's own count: the driver's context, libraries' workspaces, pieces that do not fit together.
    budget = int(config.gpu_memory_limit * 2**30) if config.gpu_memory_limit else int((free + held) * 0.92)
    longest = ROUNDED.round_up(max(len(example.token_ids) - 1 for example in prepared.training.examples))
    limit = config.micro_batch_tokens or ROW_TOKENS
    steps = [max(longest, min(tokens, limit)) for tokens in lengths]
    shape = shape_of(model, held, reads_codes=paths.reads_codes(transformer(model)))
    return choose(shape, steps, budget, config.memory, longest)


def pack_plan(prepared: Prepared, forecast: Forecast | None) -> PackPlan:
    """How rows are packed here: on CUDA one long row that fast attention can take, on the CPU several short ones, whose
    attention is cheaper; for families that cannot pack, a quote a row."""
    config, base = prepared.config, prepared.base
    if forecast is not None:
        return PackPlan(forecast.tokens, 64, forecast.tokens, bucketed=True)
    if base.device.type == "cuda":
        return PackPlan(
            ROW_TOKENS,
            256 if "flex-attention" in prepared.fast else 8,
            config.micro_batch_tokens or ROW_TOKENS,
            not base.packs,
        )
    return PackPlan(CPU_ROW_TOKENS, 8, config.micro_batch_tokens or 4096, not base.packs)


def make_trainer(
    prepared: Prepared, model: Any, accelerator: Any, schedule: Schedule, forecast: Forecast | None
) -> Trainer:
    config, base = prepared.config, prepared.base
    optimizer = make_optimizer(model, config, config.learning_rate or 0.0)
    rate = make_schedule(optimizer, config, schedule.num_steps)
    walk = Walk(prepared.fast, _is_lean(config, base.packs, model), config.neftune_alpha)
    plan = pack_plan(prepared, forecast)
    trainer = Trainer(base, model, config, walk, plan, accelerator.prepare(optimizer), rate, accelerator)
    if forecast is not None:
        kept = [torch.zeros_like(parameter) for parameter in trainer.parameters]  # where the recorded graph adds to
        for parameter, gradient in zip(trainer.parameters, kept, strict=True):
            parameter.grad = gradient
        trainer.replay = paths.replay(lambda inputs: gradients(trainer, inputs), kept)
    return trainer


def _is_lean(config: TrainConfig, packs: bool, model: Any) -> bool:
    """Whether the plain walk recomputes; another family is told so here."""
    inner = model.get_base_model()
    if config.neftune_alpha and not packs:
        add_neftune(inner, config.neftune_alpha)
    if config.memory == "lean" and not packs:
        inner.gradient_checkpointing_enable({"use_reentrant": False})
    return config.memory == "lean"
