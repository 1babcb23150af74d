"""One base in memory for several adapters: each stands on module objects of its own, over the same weights.

PEFT puts an adapter into the base's modules, so two adapters cannot have the same ones. The modules are small; the weights
behind them are what costs memory, and a frozen base never changes them."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import replace
from itertools import chain

import torch

from florilegium.model.base import Base, load_base
from florilegium.model.weight_files import LoadProgress


class Bases:
    """Bases by what they were loaded as; `get` gives a copy that an adapter may change."""

    def __init__(self) -> None:
        self._held: dict[tuple[object, ...], Base] = {}

    def get(
        self,
        name: str,
        *,
        bits: int,
        device: torch.device,
        compute: str,
        revision: str | None,
        progress: LoadProgress | None = None,
    ) -> Base:
        """As `load_base`, with weights that are loaded once."""
        key = (name, bits, str(device), compute, revision)
        if key not in self._held:
            self._held[key] = load_base(
                name, bits=bits, device=device, compute=compute, revision=revision, progress=progress
            )
        return shared(self._held[key])

    def keep_only(self, names: Collection[str]) -> None:
        """Lets go of the bases that no model of these names needs."""
        self._held = {key: base for key, base in self._held.items() if base.name in names}


def shared(base: Base) -> Base:
    """The same base with modules of its own: parameters and buffers are other objects over the same memory."""
    memo: dict[int, object] = {}
    for tensor in chain(base.model.parameters(), base.model.buffers()):
        memo[id(tensor)] = _over_the_same_memory(tensor)
    return replace(base, model=copy.deepcopy(base.model, memo), source=base.source or base)


def _over_the_same_memory(tensor: torch.Tensor) -> torch.Tensor:
    """Another object of the same class: bitsandbytes hangs the scales of its quantised weights on theirs, and takes them
    off again."""
    other = torch.Tensor._make_subclass(type(tensor), tensor.data, tensor.requires_grad)
    other.__dict__.update(tensor.__dict__)
    return other
