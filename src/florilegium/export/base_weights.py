"""The base's own weights where they lie: 16-bit safetensors, found by name and read a few rows at a time.

A checkpoint may name its tensors from the inner model (`h.0.mlp...`, as bigscience's do) or from the causal LM
(`transformer.h.0.mlp...`, as Transformers saves): here each has the name that it has in the model, and keeps its own
for the copy. What is read is the page cache's; nothing of the base is held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from florilegium.errors import ModelError
from florilegium.model.config_numbers import check_sizes
from florilegium.model.families import family_of, packs
from florilegium.model.load_errors import model_errors, quietly
from florilegium.model.transformers_loader import outline
from florilegium.model.untrusted import read_json
from florilegium.model.weight_check import check_headers, place, weights_of
from florilegium.model.weight_files import find_weights
from florilegium.storage.safetensors_io import DTYPES, TensorEntry, read_header

DTYPE_OF = {name: dtype for dtype, name in DTYPES.items()}
FLOATS = {"F32", "F16", "BF16", "F64"}


class _Rows(Protocol):
    def __getitem__(self, rows: slice) -> torch.Tensor: ...


class _OpenFile(Protocol):
    """safetensors' safe_open, whose methods are untyped."""

    def get_slice(self, name: str) -> _Rows: ...
    def get_tensor(self, name: str) -> torch.Tensor: ...


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the checkpoint: its name there, its name in the model, and which file holds it."""

    key: str
    name: str
    file: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class BaseWeights:
    """The checkpoint in `folder`, open for reading. Raises ModelError where its weights are not the original ones, with
    the advice `fix`."""

    def __init__(
        self, folder: Path, title: str, fix: str = "Name the model that it was made from with --model"
    ) -> None:
        self.folder, self.title = folder, title
        self.config = read_json(folder / "config.json", f"the config.json of {title}")
        weights = find_weights(folder, title)
        check_sizes(self.config, weights)
        self.files = [path.name for path in weights.paths]
        headers = {file: read_header(folder / file, f"{file} of {title}") for file in self.files}
        _refuse_quantised(headers, title, fix)
        # A config.json may still speak of a quantisation that the weights do not have.
        with quietly(), model_errors(title):
            self.model = outline({key: v for key, v in self.config.items() if key != "quantization_config"}, title)
        check_headers(self.model, weights_of(self.model, weights), exact=packs(family_of(self.model.config.model_type)))
        known = self.model.state_dict()
        self.tensors: dict[str, StoredTensor] = {}
        for file, header in headers.items():
            for key in sorted(header, key=lambda name: header[name]["data_offsets"][0]):
                name = place(key, known, self.model.base_model_prefix) or key
                shape, dtype = tuple(header[key]["shape"]), DTYPE_OF[header[key]["dtype"]]
                self.tensors[name] = StoredTensor(key, name, file, shape, dtype)
        self._stack = ExitStack()
        self._open: dict[str, _OpenFile] = {}

    def __enter__(self) -> BaseWeights:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.clear()
        self._stack.close()

    def __iter__(self) -> Iterator[StoredTensor]:
        return iter(self.tensors.values())

    def rows(self, tensor: StoredTensor, first: int, last: int) -> torch.Tensor:
        """Rows `first` to `last` as they are stored; a tensor without rows comes whole."""
        from safetensors import safe_open

        if tensor.file not in self._open:
            opened = safe_open(str(self.folder / tensor.file), framework="pt")
            self._open[tensor.file] = self._stack.enter_context(opened)
        reader = self._open[tensor.file]
        found: torch.Tensor = (
            reader.get_slice(tensor.key)[first:last] if tensor.shape else reader.get_tensor(tensor.key)
        )
        return found

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding."""
        return bool(self.model.config.get_text_config().tie_word_embeddings)


def _refuse_quantised(headers: Mapping[str, Mapping[str, TensorEntry]], title: str, fix: str) -> None:
    """Rounding int8 and adding to it would round twice, and no merge out of it is the model that was trained."""
    for header in headers.values():
        for key, entry in header.items():
            floats = entry["dtype"] in FLOATS or entry["dtype"] in ("BOOL", "I64")  # masks, positions
            if not floats or key.endswith((".SCB", ".absmax")):
                raise ModelError(
                    f"{title} holds weights that are quantised already ({key} is {entry['dtype']}), and an export needs "
                    "the original 16-bit ones",
                    fix,
                )
