"""The base's own weights where they lie: 16-bit safetensors, found by name and read a few rows at a time.

A checkpoint may name its tensors from the inner model (`h.0.mlp...`, as bigscience's do) or from the causal LM
(`transformer.h.0.mlp...`, as Transformers saves): here each has the name that it has in the model, and keeps its own
for the copy. What is read is the page cache's; nothing of the base is held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from florilegium.errors import ModelError
from florilegium.model.untrusted import check_weights, read_json
from florilegium.storage.safetensors_io import DTYPES, read_header

INDEX = "model.safetensors.index.json"
DTYPE_OF = {name: dtype for dtype, name in DTYPES.items()}
FLOATS = {"F32", "F16", "BF16", "F64"}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the checkpoint: its name there, its name in the model, and which file holds it."""

    key: str
    name: str
    file: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class BaseWeights:
    """The checkpoint in `folder`, open for reading. Raises ModelError where its weights are not the original ones."""

    def __init__(self, folder: Path, title: str) -> None:
        self.folder, self.title = folder, title
        self.config = read_json(folder / "config.json", f"the config.json of {title}")
        check_weights(folder, self.config, title)
        self.files = _files(folder, title)
        headers = {file: read_header(folder / file, f"{file} of {title}") for file in self.files}
        _refuse_quantised(headers, title)
        self.model = _on_meta(folder)
        known = set(self.model.state_dict())
        prefix = self.model.base_model_prefix + "."
        self.tensors: dict[str, StoredTensor] = {}
        for file, header in headers.items():
            for key in sorted(header, key=lambda name: header[name]["data_offsets"][0]):
                name = key if key in known or prefix + key not in known else prefix + key
                shape, dtype = tuple(header[key]["shape"]), DTYPE_OF[header[key]["dtype"]]
                self.tensors[name] = StoredTensor(key, name, file, shape, dtype)
        self._stack, self._open = ExitStack(), dict[str, Any]()

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


def _files(folder: Path, title: str) -> list[str]:
    """The checkpoint's files in order: those that the index names, or all that are there."""
    if (folder / INDEX).is_file():
        named = read_json(folder / INDEX, f"the {INDEX} of {title}").get("weight_map")
        files = sorted(set(named.values())) if isinstance(named, dict) else []
        missing = [file for file in files if not isinstance(file, str) or not (folder / Path(file).name).is_file()]
        if missing or not files:
            raise ModelError(f"{title} lacks {missing[:1] or 'its weights'}", "Get the model again")
        return [Path(file).name for file in files]
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{title} has no safetensors weights", "Convert them with safetensors first")
    return files


def _refuse_quantised(headers: dict[str, dict[str, Any]], title: str) -> None:
    """Rounding int8 and adding to it would round twice, and no merge out of it is the model that was trained."""
    for header in headers.values():
        for key, entry in header.items():
            floats = entry["dtype"] in FLOATS or entry["dtype"] in ("BOOL", "I64")  # masks, positions
            if not floats or key.endswith((".SCB", ".absmax")):
                raise ModelError(
                    f"{title} holds weights that are quantised already ({key} is {entry['dtype']}), and a merge needs "
                    "the original 16-bit ones",
                    "Name the model that it was made from with --model",
                )


def _on_meta(folder: Path) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config  # the weights are the original ones: `_refuse_quantised`
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)
