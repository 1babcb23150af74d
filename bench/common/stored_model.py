"""A BLOOM of any size as bitsandbytes stores it, with random numbers that take no disk: its files have the headers of
real ones and holes for their numbers, and what is read from a hole is drawn at random on the device that it was read to,
by its name, so each process that reads the folder has the same model.

    make_stored(folder, (14336, 112, 70), 250_880, bits=4, rows=QUOTES)      94 GB of files in a second, on less than 50 MB
    python -m bench.common.stored_model train ROWS --model FOLDER ...        florilegium's command line on such a folder

All else is as of a model from the Hub: names, index, config.json, one file a block, the small tensors themselves. Reading
a hole costs what zeros from the page cache do (in /dev/shm they take no memory), so seconds of a load are those of a
checkpoint that no disk keeps waiting. `holes=False` writes all numbers, for a disk that has the room.

The second line above also says, once the last tensor was read, how long that took. A linear's numbers are uniform over
what its bits can say, with a standard deviation of 0.02."""

from __future__ import annotations

import json
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from bench.common.checkpoint import train_tokenizer
from florilegium.cli.main import main
from florilegium.export.quantised_folder import STATE_BYTES, Part, linear_parts
from florilegium.model.stored_loader import NF4_STATE
from florilegium.model.tensor_reader import TensorReader
from florilegium.model.transformers_loader import outline, quantization_config
from florilegium.model.weight_files import INDEX
from florilegium.storage.safetensors_io import DTYPES, header_piece

SHAPES = {
    "tiny": (128, 2, 2),
    "7b1": (4096, 32, 30),
    "poro-34b": (7168, 56, 54),
    "176b": (14336, 112, 70),
}  # width, heads, blocks
VOCABULARIES = {"tiny": 12_288, "7b1": 250_880, "poro-34b": 128_000, "176b": 250_880}
HOLES = "holes.json"  # of a folder: its large tensors are holes
SMALL = 1 << 16  # bytes of a tensor up to which it is written
STD = 0.02
INT8_STD, NF4_STD = 73.9, 0.52  # of a number whose 8 or 4 bits are uniform, before its scale
Read = Callable[[TensorReader, Iterable[str]], Iterator[tuple[str, torch.Tensor]]]


def make_stored(
    folder: Path, shape: tuple[int, int, int], vocabulary: int, bits: int, rows: Path, *, holes: bool = True
) -> int:
    """A model's folder with a tokenizer trained on `rows`; returns the bytes of its tensors."""
    width, heads, layers = shape
    config = {
        "model_type": "bloom", "architectures": ["BloomForCausalLM"], "hidden_size": width, "n_layer": layers, "n_head": heads,
        "vocab_size": vocabulary, "dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    train_tokenizer(folder, rows)
    files = [(file, list(parts)) for file, parts in groupby(_parts(config, bits), key=lambda part: _file(part, layers))]
    for file, parts in files:
        _write(folder / file, parts, holes)
    total = sum(part.size for _, parts in files for part in parts)
    places = {part.key: file for file, parts in files for part in parts}
    quantisation: Any = quantization_config(bits, torch.bfloat16)
    _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
    _write_json(folder / "config.json", {**config, "quantization_config": quantisation.to_dict()})
    if holes:
        _write_json(folder / HOLES, {"bytes": total})
    return total


def _parts(config: dict[str, Any], bits: int) -> Iterator[Part]:
    """Block by block, what is no block's first."""
    model = outline(config, "it")
    linears = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    names = sorted(model.named_parameters(), key=lambda pair: _block(pair[0]))
    for name, parameter in names:
        if name.removesuffix(".weight") in linears:
            N, K = parameter.shape
            yield from linear_parts(name, N, K, bits)
        else:
            yield Part(name, torch.bfloat16, tuple(parameter.shape))


def _block(name: str) -> int:
    return int(name.split(".h.")[1].split(".")[0]) if ".h." in name else -1


def _file(part: Part, layers: int) -> str:
    return f"model-{_block(part.key) + 2:05d}-of-{layers + 1:05d}.safetensors"


def _write_json(path: Path, values: object) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def _write(path: Path, parts: list[Part], holes: bool) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    places, end = {}, 0
    # widest numbers first, so that each tensor begins at a multiple of its size
    for part in sorted(parts, key=lambda part: -part.dtype.itemsize):
        places[part.key], end = end, end + part.size
        header[part.key] = {
            "dtype": DTYPES[part.dtype],
            "shape": list(part.shape),
            "data_offsets": [places[part.key], end],
        }
    head = header_piece(header)
    shapes = {part.key: part.shape for part in parts}
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + end)
        for part in parts:
            if part.size <= SMALL or not holes:
                file.seek(len(head) + places[part.key])
                file.write(_plain(small_numbers(part, shapes)))


def _plain(numbers: torch.Tensor) -> memoryview:
    plain: Any = numbers.reshape(-1).view(torch.uint8).numpy()
    return memoryview(plain)


def small_numbers(part: Part, shapes: dict[str, tuple[int, ...]]) -> torch.Tensor:
    """The numbers of a part that is written: of NF4's tables what bitsandbytes makes, of the rest what `draw` does."""
    weight, inner, kind = part.key.partition(".weight.")
    if not inner or kind.endswith("absmax"):
        return draw(part.key, torch.zeros(part.shape, dtype=part.dtype))
    found = _nf4_tables(*_sides(shapes, f"{weight}.weight"))
    if kind != NF4_STATE:
        return found[kind]
    text = bytes(_plain(found[kind])).ljust(STATE_BYTES)
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


@cache
def _nf4_tables(N: int, K: int) -> dict[str, torch.Tensor]:
    import bitsandbytes as bnb

    _, state = bnb.functional.quantize_4bit(torch.randn(64, 64).bfloat16(), quant_type="nf4", compress_statistics=True)
    # a group's scale is this, and a little more or less by its 8 bits
    state.offset = torch.tensor(STD / NF4_STD)
    state.shape = torch.Size((N, K))
    return dict(state.as_dict(packed=True))


def _sides(shapes: dict[str, tuple[int, ...]], weight: str) -> tuple[int, int]:
    """Outputs and inputs of a linear in 4 bits, whose numbers lie in one row: its bias has one for each output."""
    (N,) = shapes[weight.removesuffix("weight") + "bias"]
    return N, 2 * shapes[weight][0] // N


def draw(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Fills the tensor `name` where it lies: the same numbers each time on devices of one kind. A bias stays 0."""
    draws = torch.Generator(tensor.device).manual_seed(zlib.crc32(name.encode()))
    if name.endswith("SCB"):
        return tensor.fill_(STD / INT8_STD * 127)
    if name.endswith("nested_absmax"):
        return tensor.fill_(0.1 * STD / NF4_STD)
    if tensor.dtype in (torch.int8, torch.uint8) and not name.endswith("weight_format"):
        tensor.view(-1).view(torch.uint8).random_(0, 256, generator=draws)
    elif name.endswith("weight") and tensor.dim() == 1:
        return tensor.fill_(1)
    elif name.endswith("weight") and tensor.dim() == 2:
        return tensor.normal_(0, STD, generator=draws)
    return tensor


class DrawnReader:
    """`TensorReader.read_all` on folders with holes, and how long all of one took: a line on stderr."""

    def __init__(self, read: Read) -> None:
        self.plain, self.began, self.done = read, 0.0, 0

    def __call__(self, reader: TensorReader, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
        mark = reader.path.parent / HOLES
        total = json.loads(mark.read_text(encoding="utf-8"))["bytes"] if mark.is_file() else None
        self.began = self.began or time.perf_counter()
        for name, tensor in self.plain(reader, names):
            size = tensor.numel() * tensor.element_size()
            self.done += size
            if self.done == total:
                self._say(tensor.device)
            yield name, draw(name, tensor) if total is not None and size > SMALL else tensor
            del tensor

    def _say(self, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - self.began
        rate = self.done / 1e9 / seconds
        print(f"read {self.done / 1e9:.1f} GB in {seconds:.1f} s, {rate:.1f} GB/s", file=sys.stderr, flush=True)
        self.began, self.done = 0.0, 0


def read_holes() -> None:
    """From now on tensors of a folder with holes are drawn as they are read."""
    drawn = DrawnReader(TensorReader.read_all)
    TensorReader.read_all = lambda reader, names: drawn(reader, names)  # type: ignore[method-assign]


if __name__ == "__main__":
    read_holes()
    sys.exit(main(sys.argv[1:]))
