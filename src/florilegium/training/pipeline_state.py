"""The adapter and the optimizer of a pipeline, gathered: what one process would have, so that a checkpoint is the same
files, and any number of processes resumes it.

Each stage fills in what it holds between zeros, and all are summed: every process then has the whole (of bloom-7b1 with
rank 16 it is 31 MB, three times with AdamW's moments)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.optim.optimizer import StateDict

from florilegium.model.lora import adapter_tensors
from florilegium.training.pipeline import Pipeline

if TYPE_CHECKING:
    from florilegium.model.families.base import AnyModel

ParameterGroups = Sequence[Sequence[torch.nn.Parameter]]  # of all stages, in the optimizer's order; others' on meta
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter: a number, and two of its shape


def gather(pipeline: Pipeline, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """float32 tensors of the same shapes in every process, each there in one of a chain and on the meta device in the
    others: all of them, on the CPU, in every process."""
    first = pipeline.is_first_chain  # the others hold the same
    own = [
        t.detach().to("cpu", torch.float32) if first and not t.is_meta else torch.zeros(t.shape, dtype=torch.float32)
        for t in tensors
    ]
    flat = pipeline.distributed.sum_(torch.cat([tensor.flatten() for tensor in own]))
    parts = torch.split(flat, [tensor.numel() for tensor in own])
    return [part.view(tensor.shape).clone() for part, tensor in zip(parts, own, strict=True)]


def whole_adapter(pipeline: Pipeline, model: AnyModel) -> dict[str, torch.Tensor]:
    """The adapter of all stages, as `adapter_state` has it in one process."""
    tensors = adapter_tensors(model)
    return dict(zip(tensors, gather(pipeline, list(tensors.values())), strict=True))


def whole_optimizer(pipeline: Pipeline, optimizer: torch.optim.Optimizer, groups: ParameterGroups) -> StateDict:
    """AdamW's state_dict as it is in one process, which numbers its parameters through `groups`."""
    parameters = [parameter for group in groups for parameter in group]
    state: dict[int, dict[str, torch.Tensor]] = {}
    if optimizer.state:  # every stage has taken as many steps as this one
        asked = [tensor for parameter in parameters for tensor in _moments(optimizer, parameter)]
        found = iter(gather(pipeline, asked))
        state = {number: {name: next(found) for name in MOMENTS} for number in range(len(parameters))}
    described = optimizer.state_dict()["param_groups"]
    numbers = iter(range(len(parameters)))
    numbered = [[next(numbers) for _ in group] for group in groups]
    return {"state": state, "param_groups": [{**d, "params": n} for d, n in zip(described, numbered, strict=True)]}


def _moments(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> list[torch.Tensor]:
    if parameter.is_meta:
        return [torch.empty((), dtype=torch.float32, device="meta"), parameter, parameter]
    return [optimizer.state[parameter][name] for name in MOMENTS]


def own_optimizer(whole: StateDict, groups: ParameterGroups) -> StateDict:
    """The part of one process's state_dict that is this stage's, numbered as its optimizer does."""
    parameters = [parameter for group in groups for parameter in group]
    mine = [number for number, parameter in enumerate(parameters) if not parameter.is_meta]
    number_of = {number: place for place, number in enumerate(mine)}
    described = [
        {**group, "params": [number_of[n] for n in group["params"] if n in number_of]}
        for group in whole["param_groups"]
    ]
    return {"state": {number_of[n]: v for n, v in whole["state"].items() if n in number_of}, "param_groups": described}
