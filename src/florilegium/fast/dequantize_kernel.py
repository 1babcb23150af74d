"""The Triton kernels that dequantise a weight in one pass over memory, int8 or NF4 with its block scales: for
`frozen_linear.py`, and for `quantized_linear.py`, which leaves the int8 scale to what reads the product. Shapes: N outputs, K inputs."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from florilegium.fast.modules import QuantState


@triton.jit
def dequantize_int8_kernel(weight, scale, out, stride, K, blocks, SCALED: tl.constexpr, BLOCK: tl.constexpr):
    """Reference: out = (weight.float() * (scale[:, None] / 127)).to(out.dtype), without the scale where not SCALED

    weight [N, K] int8, scale [N], out [N, K] of rows `stride` apart. One program for `BLOCK` columns of a row."""
    row = tl.program_id(0) // blocks
    column = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = column < K  # the last program of a row may reach beyond it
    # evict_first: these bytes are not read again in this pass, and what is written should stay in the L2 cache
    number = tl.load(weight + row.to(tl.int64) * K + column, mask=inside, eviction_policy="evict_first").to(tl.float32)
    if SCALED:
        number = number * (tl.load(scale + row) / 127)
    tl.store(out + row.to(tl.int64) * stride + column, number.to(out.dtype.element_ty), mask=inside)


@triton.jit
def dequantize_nf4_kernel(
    packed, table, absmax, absmax_table, absmax2, offset, out, stride, K, blocks,
    NESTED: tl.constexpr, GROUP: tl.constexpr, GROUP2: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Reference: bitsandbytes.functional.dequantize_4bit(packed, state)

    packed [N, K / 2] uint8, two codes a byte, the first in the high half; absmax [N * K / GROUP], a scale for each GROUP
    weights, which (NESTED: double quantisation) is itself a code with a scale for each GROUP2 of them. One program for
    `BLOCK` columns of a row."""
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    half = (tl.program_id(0) % blocks) * (BLOCK // 2) + tl.arange(0, BLOCK // 2)
    byte = tl.load(packed + row * (K // 2) + half, mask=half < K // 2, other=0).to(tl.int32)
    # interleave puts the high half's weight before the low half's, as they are stored
    code = tl.interleave(byte >> 4, byte & 15)
    group = (tl.program_id(0) % blocks) * (BLOCK // GROUP) + tl.arange(0, BLOCK // GROUP)
    there = group < K // GROUP
    index = row * (K // GROUP) + group
    # One scale is loaded for a whole group, and not 64 times for its weights.
    if NESTED:
        block_scale = tl.load(absmax_table + tl.load(absmax + index, mask=there, other=0).to(tl.int32))
        block_scale = block_scale * tl.load(absmax2 + index // GROUP2, mask=there, other=0.0) + tl.load(offset)
    else:
        block_scale = tl.load(absmax + index, mask=there, other=0.0)
    # the table's 16 entries stay in the L1 cache
    weight = tl.reshape(tl.load(table + code), (BLOCK // GROUP, GROUP)) * block_scale[:, None]
    tl.store(out + row * stride + column, tl.reshape(weight, (BLOCK,)).to(out.dtype.element_ty), mask=column < K)


def _blocks(K: int) -> tuple[int, int]:
    """Columns of a program, and programs a row: a row of bloom-7b1 is one program, or four."""
    block = min(4096, triton.next_power_of_2(K))
    return block, triton.cdiv(K, block)


def dequantize_int8(weight_NK: torch.Tensor, scale_N: torch.Tensor | None, out: torch.Tensor) -> None:
    """int8 weights (times scale / 127, where there is one) into `out`, a view [N, K] whose rows may lie further
    apart."""
    N, K = weight_NK.shape
    assert weight_NK.dtype == torch.int8 and weight_NK.is_contiguous() and out.shape == (N, K) and out.stride(1) == 1
    block, blocks = _blocks(K)
    given = scale_N is not None
    dequantize_int8_kernel[(N * blocks,)](
        weight_NK,
        # a pointer that the kernel does not follow where there is no scale
        scale_N if given else weight_NK,
        out,
        out.stride(0),
        K,
        blocks,
        SCALED=given,
        BLOCK=block,
        num_warps=4,
    )


def dequantize_nf4(packed: torch.Tensor, state: QuantState, out: torch.Tensor) -> None:
    """bitsandbytes' NF4 weight with its QuantState into `out`, as `dequantize_int8`."""
    N, K = state.shape
    # a group across the end of a row would take the next row's scale
    assert K % state.blocksize == 0 and packed.is_contiguous() and out.shape == (N, K) and out.stride(1) == 1
    block, blocks = _blocks(K)
    inner = state.state2 if state.nested else None
    # not nested: three pointers that are not followed
    nested = (inner.code, inner.absmax, state.offset) if inner is not None else (state.absmax,) * 3
    dequantize_nf4_kernel[(N * blocks,)](
        packed, state.code, state.absmax, *nested, out, out.stride(0), K, blocks,
        NESTED=inner is not None, GROUP=state.blocksize, GROUP2=inner.blocksize if inner is not None else 1, BLOCK=block, num_warps=4,
    )  # fmt: skip
