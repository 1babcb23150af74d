"""The Triton kernel of `dequantise.py`, in a file of its own: Triton is there only where CUDA is."""

from typing import Any

import torch
import triton
import triton.language as tl

BLOCK = 4096


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def dequantise_rows(codes, scale, weight, K, blocks, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Reference: weight = (codes.float() * (scale[:, None] / 127)).to(weight.dtype)      codes, weight [N, K]; scale [N]

    One program for each `BLOCK` columns of a row."""
    row = tl.program_id(0) // blocks
    column = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = column < K
    place = row.to(tl.int64) * K + column  # 64 bits: no weight is too large
    code = tl.load(codes + place, mask=inside).to(tl.float32)
    tl.store(weight + place, (code * (tl.load(scale + row) / 127)).to(weight.dtype.element_ty), mask=inside)


def launch(codes_NK: torch.Tensor, scale_N: torch.Tensor, weight_NK: torch.Tensor) -> None:
    N, K = codes_NK.shape
    assert codes_NK.dtype == torch.int8 and codes_NK.is_contiguous() and weight_NK.is_contiguous()
    blocks = -(-K // BLOCK)
    kernel: Any = dequantise_rows
    kernel[(N * blocks,)](codes_NK, scale_N, weight_NK, K, blocks, BLOCK=BLOCK)
