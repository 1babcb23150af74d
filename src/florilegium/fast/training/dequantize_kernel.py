"""The Triton kernels of `quantized_linear.py`: int8 codes, or NF4 codes with their scales, to bfloat16 in one pass over
memory."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl


@triton.jit
def widen_rows(codes, scale, out, stride, K, blocks, SCALED: tl.constexpr, BLOCK: tl.constexpr):
    """One program for `BLOCK` columns of a row: int8 to the output's dtype, times scale / 127 where SCALED."""
    row = tl.program_id(0) // blocks
    column = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = column < K
    code = tl.load(codes + row.to(tl.int64) * K + column, mask=inside, eviction_policy="evict_first").to(tl.float32)
    if SCALED:
        code = code * (tl.load(scale + row) / 127)
    tl.store(out + row.to(tl.int64) * stride + column, code.to(out.dtype.element_ty), mask=inside)


@triton.jit
def nf4_rows(
    packed, table, absmax, absmax_table, absmax2, offset, out, stride, K, blocks,
    NESTED: tl.constexpr, GROUP: tl.constexpr, GROUP2: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program for `BLOCK` columns of a row. Two codes a byte, the first in the high half; a scale for each GROUP
    weights, which (NESTED) is itself a code with a scale for each GROUP2 of them."""
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    half = (tl.program_id(0) % blocks) * (BLOCK // 2) + tl.arange(0, BLOCK // 2)
    byte = tl.load(packed + row * (K // 2) + half, mask=half < K // 2, other=0).to(tl.int32)
    code = tl.interleave(byte >> 4, byte & 15)
    group = (tl.program_id(0) % blocks) * (BLOCK // GROUP) + tl.arange(0, BLOCK // GROUP)
    there = group < K // GROUP
    place = row * (K // GROUP) + group
    if NESTED:
        level = tl.load(absmax_table + tl.load(absmax + place, mask=there, other=0).to(tl.int32))
        level = level * tl.load(absmax2 + place // GROUP2, mask=there, other=0.0) + tl.load(offset)
    else:
        level = tl.load(absmax + place, mask=there, other=0.0)
    weight = tl.reshape(tl.load(table + code), (BLOCK // GROUP, GROUP)) * level[:, None]
    tl.store(out + row * stride + column, tl.reshape(weight, (BLOCK,)).to(out.dtype.element_ty), mask=column < K)


def _blocks(K: int) -> tuple[int, int]:
    block = min(4096, triton.next_power_of_2(K))
    return block, triton.cdiv(K, block)


def widen(codes_NK: torch.Tensor, scale_N: torch.Tensor | None, out: torch.Tensor) -> None:
    """Codes (times scale / 127, where there is one) into `out`, a view [N, K] whose rows may lie further apart."""
    N, K = codes_NK.shape
    block, blocks = _blocks(K)
    kernel: Any = widen_rows
    given = scale_N is not None
    kernel[(N * blocks,)](
        codes_NK, scale_N if given else codes_NK, out, out.stride(0), K, blocks, SCALED=given, BLOCK=block, num_warps=4
    )


def widen_nf4(packed: torch.Tensor, state: Any, out: torch.Tensor) -> None:
    """bitsandbytes' NF4 weight with its quantisation state into `out`, as `widen`. K must be a multiple of the group
    size."""
    N, K = state.shape
    block, blocks = _blocks(K)
    inner = state.state2 if state.nested else None
    nested = (inner.code, inner.absmax, state.offset) if inner is not None else (state.absmax,) * 3
    kernel: Any = nf4_rows
    kernel[(N * blocks,)](
        packed, state.code, state.absmax, *nested, out, out.stride(0), K, blocks,
        NESTED=inner is not None, GROUP=state.blocksize, GROUP2=inner.blocksize if inner is not None else 1, BLOCK=block, num_warps=4,
    )  # fmt: skip
