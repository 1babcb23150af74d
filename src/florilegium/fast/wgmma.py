"""Products with int8 codes as they are stored: what `wgmma_kernel.py` makes, as functions of tensors.

Shapes: T tokens, N outputs and K inputs of the weight (multiples of 128), R the adapter's columns (a multiple of 8).
"""

# ruff: noqa: E741, N803, N806

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from florilegium.fast.wgmma_kernel import wgmma_tiles

CACHED = 50_000_000  # bytes: the L2 cache of an H100
STAGES = 4  # of 40 kB, beside 64 kB for a tile's results: an H100's multiprocessor has 227


@functools.cache
def _processors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def forward(x_TC: torch.Tensor, codes_NK: torch.Tensor, adapter_NR: torch.Tensor | None = None) -> torch.Tensor:
    """x codes^T [T, N] without the codes' scale. The first K columns of x are in the `lane_order` of form 4; with `adapter_NR` (bfloat16)
    R more follow, in their own."""
    return _launch(x_TC, codes_NK, adapter_NR, back=False)[0]


def forward_gelu(
    x_TK: torch.Tensor, codes_NK: torch.Tensor, scale_N: torch.Tensor, bias_N: torch.Tensor, form: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """x codes^T [T, N], and gelu(that * scale + bias) in the `lane_order` of `form` (4 or 16)."""
    return _launch(x_TK, codes_NK, None, back=False, gelu=(scale_N, bias_N), form=form)


def backward(y_TN: torch.Tensor, codes_NK: torch.Tensor) -> torch.Tensor:
    """y codes [T, K]."""
    return _launch(y_TN, codes_NK, None, back=True)[0]


def backward_gelu(
    y_TN: torch.Tensor, codes_NK: torch.Tensor, raw_TK: torch.Tensor, scale_K: torch.Tensor, bias_K: torch.Tensor
) -> torch.Tensor:
    """y codes * gelu'(raw * scale + bias) * scale: the gradient of the raw product that this weight's input came from."""
    return _launch(y_TN, codes_NK, None, back=True, gelu=(scale_K, bias_K), raw=raw_TK)[0]


def _launch(
    x: torch.Tensor, codes_NK: torch.Tensor, adapter: Any, *, back: bool, gelu: Any = None, raw: Any = None, form: int = 4
) -> tuple[torch.Tensor, torch.Tensor]:
    (N, K), T = codes_NK.shape, len(x)
    C, O = (N, K) if back else (K, N)
    out = x.new_empty(T, O)
    kind = 0 if gelu is None else 1 if raw is None else 2
    beside = out if kind == 0 else torch.empty_like(out) if kind == 1 else raw
    scale, bias = gelu or (out, out)
    tiles_t = triton.cdiv(T, 256)
    tiles, units = tiles_t * (O // 128), C // 128
    programs, shared = shares(tiles, units, _processors(x.device), T) if kind == 0 else (min(tiles, _processors(x.device)), 0)
    words = codes_NK.view(torch.int16 if back else torch.int32)
    kernel: Any = wgmma_tiles
    kernel[(programs,)](
        _boxes(x, [256, 64]), _boxes(words, [64, 64] if back else [128, 16]), out if adapter is None else adapter,
        _boxes(out, [256, 128]), _boxes(beside, [256, 128]), scale, bias, *_parts_of(x.device), units, shared, tiles_t, tiles,
        BACK=back, KIND=kind, FORM=form, R=0 if adapter is None else adapter.shape[1], STAGES=STAGES, num_warps=8,
    )  # fmt: skip
    return out, beside


def shares(tiles: int, units: int, processors: int, T: int) -> tuple[int, int]:
    """How many programs there are, and how many tiles they share evenly, each tile being cut along its sum: where the last round of tiles
    would leave many multiprocessors idle, that round and the one before it. No program makes less than 8 units (1,024 rows). Programs that
    share are at different places of the sum, so they do where what they read of x lies in the L2 cache."""
    rounds, rest = divmod(tiles, processors)
    if rest == 0 or rest > 0.9 * processors or min(T, 8 * 256) * units * 256 > CACHED:  # 8 tiles of tokens are at work together
        return min(tiles, processors), 0
    shared = rest + (processors if rounds else 0)
    if rounds:
        return processors, shared
    programs = min(processors, shared * units // 8)
    return (programs, shared) if programs > tiles else (tiles, 0)


@functools.cache
def _parts_of(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Where programs leave parts of tiles for one another, and their flags, which are down between launches. One stream at a time."""
    number = _processors(device)
    return torch.empty(number, 128 * 256, device=device), torch.zeros(number, dtype=torch.int32, device=device)


def _boxes(tensor: torch.Tensor, box: list[int]) -> Any:
    """A tensor as the copy engine knows it: what it copies at a time, and how that lies in shared memory."""
    kind = {torch.bfloat16: gl.bfloat16, torch.int16: gl.int16, torch.int32: gl.int32}[tensor.dtype]
    return TensorDescriptor.from_tensor(tensor, box, gl.NVMMASharedLayout.get_default_for(box, kind))
