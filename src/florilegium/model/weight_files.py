"""Which files hold a model's weights, and what is in them by their headers: nothing else of a folder is ever read as
weights.

    model.safetensors                  alone, or
    model.safetensors.index.json       {"metadata": {...}, "weight_map": {"h.0.ln.weight": "model-00001-of-00002.safetensors", ...}}

A folder may hold more (a copy in another layout, an adapter): it is left alone. The index comes from others too, so it
may name plain safetensors files that lie beside it, and nothing else. From what is found here the weights are read, and
over exactly these files the digest is made that an adapter remembers."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from florilegium.errors import ModelError
from florilegium.model.untrusted import read_json
from florilegium.storage.safetensors_io import read_header

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_INDEX_BYTES = 16 << 20  # that of a model of 671 billion parameters in 91,991 tensors has 9 MB
FILE_NAME = re.compile(r"(?!\.)[\w.-]{1,200}\.safetensors", re.ASCII)
AGAIN = "Get the model again from where it came"


if TYPE_CHECKING:
    import torch

LoadProgress = Callable[[int, int], None]  # bytes that are read, and all


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the header of its file describes it; `dtype` is safetensors' word, such as BF16."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int


@dataclass(frozen=True)
class WeightFiles:
    """The files of the model `name`, and their tensors by name."""

    name: str
    paths: tuple[Path, ...]
    tensors: Mapping[str, StoredTensor]
    was_read: Callable[[str], None] = lambda name: None  # called with each tensor's name, by whichever thread read it

    def telling(self, progress: LoadProgress | None) -> WeightFiles:
        """The same files; `progress` is told as their tensors are read."""
        return self if progress is None else replace(self, was_read=_Counter(self.tensors, progress))

    @contextmanager
    def slices(self) -> Iterator[dict[str, Any]]:
        """Name to a slice of the file, which is read when it is asked for its numbers: Transformers' `state_dict`."""
        from safetensors import safe_open

        with ExitStack() as stack:
            files = {path: stack.enter_context(safe_open(path, framework="pt")) for path in self.paths}
            yield {
                name: _Slice(files[tensor.file].get_slice(name), name, self.was_read)
                for name, tensor in self.tensors.items()
            }


class _Counter:
    """Adds up the bytes of the tensors that are read; one that is read again counts once."""

    def __init__(self, tensors: Mapping[str, StoredTensor], progress: LoadProgress) -> None:
        self._left = {name: tensor.num_bytes for name, tensor in tensors.items()}
        self._total, self._done = sum(self._left.values()), 0
        self._progress, self._lock = progress, threading.Lock()

    def __call__(self, name: str) -> None:
        with self._lock:  # Transformers reads with several threads
            self._done += self._left.pop(name, 0)
            self._progress(self._done, self._total)


class _Indexed(Protocol):
    def __getitem__(self, index: object) -> torch.Tensor: ...


class _Slice:
    """safetensors' slice, which says when it was read; in all else it is the slice."""

    def __init__(self, stored: _Indexed, name: str, was_read: Callable[[str], None]) -> None:
        self._stored, self._name, self._was_read = stored, name, was_read

    def __getitem__(self, index: object) -> torch.Tensor:
        tensor = self._stored[index]
        self._was_read(self._name)
        return tensor

    def __getattr__(self, name: str) -> object:
        return getattr(self._stored, name)


def find_weights(folder: Path, name: str) -> WeightFiles:
    """The weight files of `folder`, their headers checked. Raises ModelError where there are none, one is not there or
    not whole, or the index leads elsewhere."""
    weight_map: dict[str, str] = {}
    if (folder / WHOLE).is_file():
        paths = [folder / WHOLE]
    elif (folder / INDEX).is_file():
        weight_map = _weight_map(folder / INDEX, name)
        paths = [folder / file for file in sorted(set(weight_map.values()))]
    else:
        raise ModelError(f"{name} has no safetensors weights", _what_else(folder))
    tensors: dict[str, StoredTensor] = {}
    for path in paths:
        if not path.is_file():
            raise ModelError(f"{name} is incomplete: {path.name} is missing", AGAIN)
        for key, entry in read_header(path, f"{path.name} of {name}").items():
            # Where two files hold one name, the index says which is meant.
            if key in tensors and weight_map.get(key) not in (path.name, tensors[key].file.name):
                raise ModelError(f"{name} holds {key[:80]} twice, and its index does not say which is meant", AGAIN)
            start, end = entry["data_offsets"]
            if key not in tensors or weight_map.get(key) == path.name:
                tensors[key] = StoredTensor(path, entry["dtype"], tuple(entry["shape"]), end - start)
    return WeightFiles(name, tuple(paths), tensors)


def _weight_map(path: Path, name: str) -> dict[str, str]:
    what = f"the {path.name} of {name}"
    weight_map = read_json(path, what, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{what} cannot be read: it has no weight_map", AGAIN)
    for file in weight_map.values():
        if not isinstance(file, str) or not FILE_NAME.fullmatch(file):
            raise ModelError(
                f"{what} names {str(file)[:80]!r}, and only safetensors files beside it are read",
                "Choose another model",
            )
    return weight_map


def _what_else(folder: Path) -> str:
    """What to do about a folder without weights that are read here."""
    if any(folder.glob("*.safetensors")):
        return f"They are read from {WHOLE}, or from the files that {INDEX} names"
    return "Pickled weights are not read: convert them with safetensors first"
