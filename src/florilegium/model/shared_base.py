"""One base in memory for several adapters: each stands on module objects of its own, over the same weights.

PEFT puts an adapter into the base's modules, so two adapters cannot have the same ones. The modules are small; the weights
behind them are what costs memory, and a frozen base never changes them."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch

from florilegium.model.base import Base, load_base
from florilegium.model.weight_files import LoadProgress
from florilegium.storage.file_state import FileState, state_of_file

Files = tuple[tuple[str, FileState | None], ...]


class Bases:
    """Bases by what they were loaded as; `get` gives a copy that an adapter may change."""

    def __init__(self) -> None:
        self._held: dict[tuple[object, ...], tuple[Base, Files]] = {}

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
        """As `load_base`, with weights that are loaded once, and again where another model lies there since."""
        key, files = (name, bits, str(device), compute, revision), _files_of(name)
        if key not in self._held or self._held[key][1] != files:
            self._held.pop(key, None)
            base = load_base(name, bits=bits, device=device, compute=compute, revision=revision, progress=progress)
            self._held[key] = base, files
        return shared(self._held[key][0])

    def keep_only(self, names: Collection[str]) -> None:
        """Lets go of the bases that no model of these names needs."""
        self._held = {key: held for key, held in self._held.items() if held[0].name in names}


def _files_of(name: str) -> Files:
    """Those of a model in a folder, which may be another one tomorrow; a Hub id names its revision."""
    folder = Path(name).expanduser()
    found = sorted(path for pattern in ("config.json", "*.safetensors*") for path in folder.glob(pattern))
    return tuple((path.name, state_of_file(path)) for path in found)


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
