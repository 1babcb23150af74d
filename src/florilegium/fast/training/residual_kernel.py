"""The residual stream where a stage of a pipeline ends: between two blocks that lie on different GPUs.

Within a stage nobody holds the stream as a number: it is a bfloat16, what that rounding left, and the raw product of
the block's last linear, which the next norm adds (`norm_kernel.py`). The next norm is another process's here, so all of
it is added up, as that norm would have, and goes there in float32: it splits it in two again, and finds the same bits.
Shapes: T tokens, W width."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from florilegium.fast.training.norm_kernel import PendingUpdate, Residual, error_unit, row_launch


@triton.jit
def residual_sum_kernel(residual, error, raw, scale, bias, out, W, BLOCK: tl.constexpr):
    """Reference: out = residual + error + raw * scale + bias      all but scale and bias [T, W]; out float32."""
    row = tl.program_id(0).to(tl.int64)  # 64 bits: T * W may pass 2^31
    column = tl.arange(0, BLOCK)
    inside = column < W
    offset = row * W + column
    rounded = tl.load(residual + offset, mask=inside, other=0.0)
    # In the order of `residual_norm_kernel`: the sum is then rounded as it would have been there.
    x = rounded.to(tl.float32) + tl.load(error + offset, mask=inside, other=0).to(tl.float32) * error_unit(rounded)
    s = tl.load(scale + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(raw + offset, mask=inside, other=0.0).to(tl.float32) * s + b
    tl.store(out + offset, x, mask=inside)


def residual_sum(residual: Residual, pending: PendingUpdate) -> torch.Tensor:
    """The residual stream with what it still lacked, float32 [T, W]."""
    rounded_TW, error_TW = residual
    T, W = rounded_TW.shape
    assert error_TW is not None and error_TW.dtype == torch.int8, "a block has added to the stream before it ends"
    assert rounded_TW.is_contiguous() and error_TW.is_contiguous()
    assert pending.raw.shape == (T, W) and pending.raw.is_contiguous()
    out_TW = torch.empty_like(rounded_TW, dtype=torch.float32)
    residual_sum_kernel[(T,)](rounded_TW, error_TW, *pending, out_TW, W, **row_launch(W))
    return out_TW


def scaled_residual_grad(grad_TW: torch.Tensor, scale_W: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The stream's gradient as the next stage found it, times the scale of the linear that reads it first on the way
    back, in `dtype`: what the norm's backward kernel writes between two blocks of one stage."""
    # `out` and not `.to`: one kernel
    return torch.mul(grad_TW, scale_W, out=torch.empty_like(grad_TW, dtype=dtype))
