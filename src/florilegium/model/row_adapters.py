"""LoRA of several adapters in one batch: each row of it has its own, in plain PyTorch, for any family.

    rows = RowAdapters(shared_bare.model)     modules without an adapter, over the weights that the adapters were made for
    number = rows.add(loaded)                 reads that model's A and B where they are; rows.remove(number) lets them go
    rows.use([number, other, None])           whose adapter each row of the next forward passes has; None: the base's

A hook behind each linear adds what PEFT's LoraLayer adds, for all rows at once. What PEFT can do beyond that (DoRA, biases,
whole modules, experts) is `unsupported`: such a model writes in a batch of its own. Shapes: M rows, T tokens, K inputs,
N outputs, R rank, U adapters in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import nn

from florilegium.model import fast_paths
from florilegium.model.loaded import LoadedModel
from florilegium.model.shared_base import shared

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer


@dataclass(frozen=True)
class RowLora:
    """One adapter on one linear: PEFT's live parameters."""

    a_RK: torch.Tensor
    b_NR: torch.Tensor
    scaling: float


def unsupported(loaded: LoadedModel) -> str:
    """Why this model's adapter cannot have single rows of a batch, or an empty string."""
    if loaded.base.source is None:
        return "its base is its own"
    if loaded.base.replaced:
        return "the adapter changes the base itself"
    for name, module in loaded.base.model.named_modules():
        if hasattr(module, "modules_to_save"):
            return "the adapter trains whole modules"
        if hasattr(module, "base_layer") and (not _is_plain(module) or "expert" in name):
            return f"{name} has more than plain LoRA on a linear"
    return ""


def _is_plain(module: nn.Module) -> bool:
    layer = cast("LoraLayer", module)
    if not isinstance(layer.base_layer, nn.Linear) or not hasattr(layer, "lora_A"):
        return False
    one = len(layer.active_adapters) == 1 and not layer.merged and not getattr(layer, "lora_variant", None)
    return one and getattr(layer.lora_B[layer.active_adapters[0]], "bias", None) is None


def without_adapter(loaded: LoadedModel) -> LoadedModel:
    """Its base in modules of its own, for the rows of many. The model is not `unsupported`."""
    assert loaded.base.source is not None
    base = shared(loaded.base.source)
    fast_paths.install_kernels(base.model, loaded.kernels)
    return LoadedModel(base, base.model, loaded.kernels)


class RowAdapters:
    def __init__(self, model: nn.Module) -> None:
        self.model, self.count = model, 0
        self.linears: dict[str, dict[int, RowLora]] = {}
        self.numbers: list[int | None] = []
        self.stacks: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}

    def add(self, loaded: LoadedModel) -> int:
        """The adapter's number. The model is not `unsupported`."""
        self.count += 1
        for name, module in loaded.base.model.named_modules():
            if hasattr(module, "base_layer"):
                self._hooked(name)[self.count] = _lora_of(module)
        return self.count

    def remove(self, number: int) -> None:
        for loras in self.linears.values():
            loras.pop(number, None)
        self.stacks.clear()

    def use(self, numbers: Sequence[int | None]) -> None:
        if set(numbers) != set(self.numbers):
            self.stacks.clear()
        self.numbers = list(numbers)

    def _hooked(self, name: str) -> dict[int, RowLora]:
        if name not in self.linears:
            self.linears[name] = {}
            self.model.get_submodule(name).register_forward_hook(partial(self._add_to, name))
        return self.linears[name]

    def _add_to(self, name: str, module: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        """`out` [M, T, N] of the linear with what each row's adapter adds; where a family lays the rows end to end both
        have two dimensions."""
        loras, used = self.linears[name], sorted({n for n in self.numbers if n is not None})
        used = [number for number in used if number in loras]
        if not used:
            return out
        x, only = args[0], loras[used[0]]
        if len(used) == 1 and set(self.numbers) == set(used):  # as PEFT does it
            return (out + F.linear(F.linear(x.to(only.a_RK.dtype), only.a_RK), only.b_NR) * only.scaling).to(out.dtype)
        if name not in self.stacks:
            self.stacks[name] = _stacked([loras[number] for number in used])
        a_URK, b_UNR, scaling_U = self.stacks[name]
        places = {number: place for place, number in enumerate(used)}
        # the last place is that of no adapter: zeros
        place_M = torch.tensor([places.get(n, -1) if n is not None else -1 for n in self.numbers], device=x.device)
        x_MTK = x.reshape(len(place_M), -1, x.shape[-1]).to(a_URK.dtype)
        x_at_MTR = torch.bmm(x_MTK, a_URK[place_M].mT)
        more_MTN = torch.bmm(x_at_MTR, b_UNR[place_M].mT) * scaling_U[place_M][:, None, None]
        return (out + more_MTN.reshape(out.shape)).to(out.dtype)


def _lora_of(module: nn.Module) -> RowLora:
    layer = cast("LoraLayer", module)
    (name,) = layer.active_adapters
    a = cast(nn.Linear, layer.lora_A[name]).weight.detach()
    return RowLora(a, cast(nn.Linear, layer.lora_B[name]).weight.detach(), float(layer.scaling[name]))


def _stacked(loras: Sequence[RowLora]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A [U + 1, R, K], B [U + 1, N, R] and the scalings, ranks filled up with zeros; the last is no adapter."""
    R, a, b = max(len(one.a_RK) for one in loras), loras[0].a_RK, loras[0].b_NR
    a_URK, b_UNR = a.new_zeros(len(loras) + 1, R, a.shape[1]), b.new_zeros(len(loras) + 1, len(b), R)
    for place, one in enumerate(loras):
        a_URK[place, : len(one.a_RK)], b_UNR[place, :, : len(one.a_RK)] = one.a_RK, one.b_NR
    return a_URK, b_UNR, a.new_tensor([*(one.scaling for one in loras), 0.0])
