"""`--to merged`: a model folder as Transformers saves one, written as it is merged.

model-00001-of-00002.safetensors ...   as many files as the base has, each tensor where it was
model.safetensors.index.json           where the base has one
config.json, generation_config.json    the base's, without quantisation, paths and what no longer holds
tokenizer.json ...                     the adapter's: the one it was trained with
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from florilegium.export.base_weights import StoredTensor
from florilegium.export.merge import Merge
from florilegium.export.tokenizer import tokenizer_folder
from florilegium.model.untrusted import read_json
from florilegium.model.weight_files import INDEX
from florilegium.storage.atomic_folders import NewFolder
from florilegium.storage.safetensors_io import DTYPES, header_piece

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "tokenizer.model", "chat_template.jinja",
)  # fmt: skip
LOCAL = ("name_or_path", "_name_or_path", "is_local", "local_files_only", "auto_map")
DROPPED = ("quantization_config", "_name_or_path", "_attn_implementation_autoset", "auto_map")


def merged_bytes(merge: Merge) -> int:
    """About what the folder will take."""
    return sum(tensor_bytes(tensor) for tensor in merge) + (64 << 20)


def tensor_bytes(tensor: StoredTensor) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def write_merged(folder: NewFolder, merge: Merge, adapter: Path) -> None:
    """The model's files into `folder`."""
    by_file = {file: [tensor for tensor in merge if tensor.file == file] for file in merge.base.files}
    for file, tensors in by_file.items():
        folder.write(file, _pieces(merge, tensors))
    if (merge.base.folder / INDEX).is_file() or len(by_file) > 1:
        total = sum(tensor_bytes(tensor) for tensor in merge)
        places = {tensor.key: tensor.file for tensor in sorted(merge, key=lambda tensor: tensor.key)}
        folder.write(INDEX, [as_json({"metadata": {"total_size": total}, "weight_map": places})])
    folder.write("config.json", [as_json(merged_config(merge))])
    for name, data in small_files(merge.base.folder, adapter).items():
        folder.write(name, [data])


def merged_config(merge: Merge) -> Mapping[str, Any]:
    """The base's config.json, true of the merged weights."""
    config = {name: value for name, value in merge.base.config.items() if name not in DROPPED}
    if merge.base.tied and not merge.tied:
        config["tie_word_embeddings"] = False
    return config


def small_files(base: Path, adapter: Path) -> dict[str, bytes]:
    """The tokenizer that the adapter was trained with (the base's, where the adapter brings none), and how to
    generate."""
    source = tokenizer_folder(base, adapter)
    found = [source / name for name in TOKENIZER_FILES] + [base / "generation_config.json"]
    return {path.name: _without_paths(path) for path in found if path.is_file()}


def _without_paths(path: Path) -> bytes:
    """A file's bytes; tokenizer_config.json without the folder it once lay in, and with the class that Transformers 4
    knows too: ONNX's exporter and older servers are built on that."""
    if path.name != "tokenizer_config.json":
        return path.read_bytes()
    values = read_json(path, path.name)
    kept = {name: value for name, value in values.items() if name not in LOCAL}
    if kept.get("tokenizer_class") == "TokenizersBackend":
        kept["tokenizer_class"] = "PreTrainedTokenizerFast"
    return as_json(kept)


def as_json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _pieces(merge: Merge, tensors: list[StoredTensor]) -> Iterator[bytes | memoryview]:
    """The safetensors file of `tensors`, in the order they have in the base."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for tensor in tensors:
        end = start + tensor_bytes(tensor)
        header[tensor.key] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    yield header_piece(header)
    for tensor in tensors:
        for rows in merge.pieces(tensor):
            if rows.numel():
                data: Any = rows.contiguous().reshape(-1).view(torch.uint8).numpy()
                yield memoryview(data)
