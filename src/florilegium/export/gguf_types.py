"""The types a GGUF file may hold its weights in, and who makes them.

f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 are made here, by the `gguf` package. K-quants (q4_k_m, q6_k, ...) and
i-quants need llama.cpp's own `llama-quantize`, which is called where it is installed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from florilegium.errors import ModelError, UsageError, nearest, reason_of

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

OURS = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
QUANTIZE = "llama-quantize"


@dataclass(frozen=True)
class GgufKind:
    """`name` as it was asked for, in lower case; `written` is what is written here, which `quantize` (a program, or
    empty) then turns into it."""

    name: str
    written: str
    quantize: str = ""


def import_gguf() -> ModuleType:
    """The `gguf` package. Raises ModelError where it is not installed."""
    try:
        import gguf
    except ImportError as error:
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == "gguf"
        why = "is not installed" if is_missing else f"cannot be imported ({reason_of(error)})"
        raise ModelError(f"the package gguf {why}", "Type: pip install -U gguf") from None
    return gguf


def choose_kind(name: str) -> GgufKind:
    """The type called `name`. Raises UsageError for one that llama.cpp does not have, or that only llama-quantize makes
    where it is not installed."""
    gguf, kind = import_gguf(), name.lower().replace("-", "_")
    if kind in OURS:
        return GgufKind(kind, kind)
    theirs = {n.removeprefix("MOSTLY_").lower() for n in gguf.LlamaFileType.__members__} - {"guessed", "all_f32"}
    aliases = {"q4_k": "q4_k_m", "q5_k": "q5_k_m", "q3_k": "q3_k_m"}
    kind = aliases.get(kind, kind)
    if kind not in theirs:
        known = ", ".join(OURS)
        raise UsageError(
            f"--type: there is no {name!r}", nearest(kind, [*OURS, *theirs]) or f"One of {known}, q4_k_m, ..."
        )
    program = shutil.which(QUANTIZE)
    if program is None:
        raise UsageError(
            f"--type {kind} is made by llama.cpp's {QUANTIZE}, which is not on the PATH",
            f"Install llama.cpp, or take one of {', '.join(OURS)}",
        )
    return GgufKind(kind, "f16", program)


def type_of(kind: str, shape: tuple[int, ...], is_table: bool, plain: bool) -> GGMLQuantizationType:
    """The type of one tensor in a file of `kind`. Vectors and what llama.cpp wants `plain` stay float32; rows that are
    no multiple of the block stay f16; below 8 bits the embedding and the head (`is_table`) keep 8."""
    gguf = import_gguf()
    types: type[GGMLQuantizationType] = gguf.GGMLQuantizationType
    if len(shape) < 2 or plain:
        return types.F32
    found = types["Q8_0" if is_table and kind[:2] in ("q4", "q5") else kind.upper()]
    return found if shape[-1] % gguf.GGML_QUANT_SIZES[found][0] == 0 else types.F16


def file_type(kind: str) -> int:
    """llama.cpp's number for the whole file."""
    gguf = import_gguf()
    return int(gguf.LlamaFileType["ALL_F32" if kind == "f32" else f"MOSTLY_{kind.upper()}"])
