"""The Triton kernel of `dequantise.py`, in a file of its own: Triton is there only where CUDA is."""

from typing import Any

import torch
import triton
import triton.language as tl

BLOCK = 4096


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def dequantise_rows(codes, scale, weight, K, blocks, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One program for each `BLOCK` columns of a row: read codes, multiply by the row's scale, write."""
    row = tl.program_id(0) // blocks
    column = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = column < K
    place = row.to(tl.int64) * K + column
    code = tl.load(codes + place, mask=inside).to(tl.float32)
    tl.store(weight + place, (code * (tl.load(scale + row) / 127)).to(weight.dtype.element_ty), mask=inside)


def launch(codes_NK: torch.Tensor, scale_N: torch.Tensor, weight_NK: torch.Tensor) -> None:
    N, K = codes_NK.shape
    blocks = -(-K // BLOCK)
    kernel: Any = dequantise_rows
    kernel[(N * blocks,)](codes_NK, scale_N, weight_NK, K, blocks, BLOCK=BLOCK)
