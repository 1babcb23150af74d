"""`--to quantised`: a bitsandbytes checkpoint that stock Transformers loads, its linears in int8 or NF4.

Quantised from the original 16-bit weights (an adapter merged into them first) a few rows at a time, to the bits that
bitsandbytes makes of a whole weight: int8 is rounded row by row, NF4 in groups of 64, and only the groups' scales are
rounded together. A linear's tensors, N outputs and K inputs, as its modules save them:

    8 bits    weight [N, K] int8, SCB [N] float32, weight_format
    4 bits    weight [N K / 2, 1] uint8, .absmax, .nested_absmax, .nested_quant_map, .quant_map, .quant_state...

Sizes follow from shapes, so a file's header is written before its numbers are known; the one text among them (the
quantisation's state, JSON) is filled with blanks to a fixed length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from florilegium.errors import ModelError
from florilegium.export.base_weights import StoredTensor
from florilegium.export.merge import Merge
from florilegium.export.merged_folder import as_json, merged_config, small_files
from florilegium.model.weight_files import INDEX
from florilegium.storage.atomic_folders import NewFolder
from florilegium.storage.safetensors_io import DTYPES, header_piece

STATE_BYTES = 512  # of the JSON beside a weight of 4 bits
BLOCK, NESTED_BLOCK = 64, 256


@dataclass(frozen=True)
class Part:
    """A tensor of the file: where it belongs, and what it is."""

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def check_widths(merge: Merge) -> None:
    """Raises ModelError where NF4's groups of weights would lie across two rows, which few programs can run."""
    for tensor in merge:
        if _is_quantised(merge, tensor) and (tensor.shape[1] % BLOCK or tensor.shape[0] % BLOCK):
            N, K = tensor.shape
            raise ModelError(
                f"{tensor.name} is {N} x {K}, and 4 bits take sides that are multiples of {BLOCK}", "Use --bits 8"
            )


def quantised_bytes(merge: Merge, bits: int) -> int:
    """About what the folder will take."""
    return sum(part.size for tensor in merge for part in parts_of(merge, tensor, bits)) + (64 << 20)


def write_quantised(folder: NewFolder, merge: Merge, bits: int, tokenizer: Path) -> None:
    """The model's files into `folder`."""
    places: dict[str, str] = {}
    for file in merge.base.files:
        tensors = [tensor for tensor in merge if tensor.file == file]
        folder.write(file, _pieces(merge, tensors, bits))
        places |= {part.key: file for tensor in tensors for part in parts_of(merge, tensor, bits)}
    if len(merge.base.files) > 1:
        total = sum(part.size for tensor in merge for part in parts_of(merge, tensor, bits))
        folder.write(INDEX, [as_json({"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))})])
    folder.write("config.json", [as_json({**merged_config(merge), "quantization_config": quantisation(merge, bits)})])
    for name, data in small_files(merge.base.folder, tokenizer).items():
        folder.write(name, [data])


def quantisation(merge: Merge, bits: int) -> Mapping[str, object]:
    """The config.json's `quantization_config`."""
    from transformers import BitsAndBytesConfig

    if bits == 8:
        config: Any = BitsAndBytesConfig(load_in_8bit=True)
    else:
        dtype = next(tensor.dtype for tensor in merge)
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    values: Mapping[str, object] = config.to_dict()
    return values


def parts_of(merge: Merge, tensor: StoredTensor, bits: int) -> list[Part]:
    """What the file holds of a tensor, by shapes alone."""
    if not _is_quantised(merge, tensor):
        return [Part(tensor.key, tensor.dtype, tensor.shape)]
    N, K = tensor.shape
    return linear_parts(tensor.key, N, K, bits)


def linear_parts(key: str, N: int, K: int, bits: int) -> list[Part]:
    """What a file holds of the weight `key` of a linear with N outputs and K inputs."""
    home = key.removesuffix("weight")
    if bits == 8:
        return [
            Part(key, torch.int8, (N, K)),
            Part(f"{home}SCB", torch.float32, (N,)),
            Part(f"{home}weight_format", torch.uint8, ()),
        ]
    groups = -(-N * K // BLOCK)
    return [
        Part(key, torch.uint8, (-(-N * K // 2), 1)),
        Part(f"{key}.absmax", torch.uint8, (groups,)),
        Part(f"{key}.nested_absmax", torch.float32, (-(-groups // NESTED_BLOCK),)),
        Part(f"{key}.nested_quant_map", torch.float32, (NESTED_BLOCK,)),
        Part(f"{key}.quant_map", torch.float32, (16,)),
        Part(f"{key}.quant_state.bitsandbytes__nf4", torch.uint8, (STATE_BYTES,)),
    ]


def _is_quantised(merge: Merge, tensor: StoredTensor) -> bool:
    """Whether this is the weight of a linear: all but the head, as bitsandbytes' loaders leave it."""
    if not tensor.name.endswith(".weight") or tensor.name == merge.head:
        return False
    module = merge.base.model.get_submodule(tensor.name.removesuffix(".weight"))
    return isinstance(getattr(module, "base_layer", module), torch.nn.Linear)  # PEFT has wrapped those that it changes


def _pieces(merge: Merge, tensors: list[StoredTensor], bits: int) -> Iterator[bytes | memoryview]:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for part in (part for tensor in tensors for part in parts_of(merge, tensor, bits)):
        header[part.key] = {
            "dtype": DTYPES[part.dtype],
            "shape": list(part.shape),
            "data_offsets": [start, start + part.size],
        }
        start += part.size
    yield header_piece(header)
    for tensor in tensors:
        if not _is_quantised(merge, tensor):
            yield from map(_bytes, merge.pieces(tensor))
            continue
        parts = parts_of(merge, tensor, bits)
        numbers = (_int8 if bits == 8 else _nf4)(merge.pieces(tensor), tensor)
        yield from (_bytes(values) for values in _checked(parts, numbers))


def _checked(parts: list[Part], numbers: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The same; their kinds and bytes are those that the header promised."""
    for part in parts:
        left = part.size
        while left > 0:
            values = next(numbers)
            left -= values.numel() * values.element_size()
            assert values.dtype == part.dtype and left >= 0, part
            yield values


def _int8(pieces: Iterator[torch.Tensor], tensor: StoredTensor) -> Iterator[torch.Tensor]:
    """The codes row by row, then all scales: a row's are its own."""
    import bitsandbytes as bnb

    scales = []
    for rows_PK in pieces:
        int8_PK, scale_P, _ = bnb.functional.int8_vectorwise_quant(rows_PK.half())
        scales.append(scale_P)
        yield int8_PK
    yield torch.cat(scales)
    yield torch.zeros((), dtype=torch.uint8)  # 0: rows in their order


def _nf4(pieces: Iterator[torch.Tensor], tensor: StoredTensor) -> Iterator[torch.Tensor]:
    """The codes a few rows at a time, whose groups of 64 are whole (`check_widths`); then the groups' scales, a 32nd of
    the weight, which are rounded again all together."""
    import bitsandbytes as bnb

    scales = []
    for rows_PK in pieces:
        packed, state = bnb.functional.quantize_4bit(
            rows_PK, blocksize=BLOCK, quant_type="nf4", quant_storage=torch.uint8
        )
        scales.append(state.absmax)
        yield packed
    absmax = torch.cat(scales)
    offset = absmax.mean()
    state.absmax, nested = bnb.functional.quantize_blockwise(absmax - offset, blocksize=NESTED_BLOCK)
    state.shape, state.offset, state.state2, state.nested = torch.Size(tensor.shape), offset, nested, True
    found = state.as_dict(packed=True)
    text = bytes(found.pop("quant_state.bitsandbytes__nf4").numpy()).ljust(STATE_BYTES)
    yield from (found[name] for name in ("absmax", "nested_absmax", "nested_quant_map", "quant_map"))
    yield torch.frombuffer(bytearray(text), dtype=torch.uint8)


def _bytes(values: torch.Tensor) -> memoryview | bytes:
    if not values.numel():
        return b""
    plain: Any = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(plain)
