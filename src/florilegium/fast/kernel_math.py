"""Small pieces that several Triton kernels compute the same way: the unit part of a LayerNorm and BLOOM's GELU.

A reader who changes one of them changes training and decoding alike, and so both stay the function that Transformers'
BLOOM computes."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)  # exp(x) = exp2(x * LOG2E): exp2 is the instruction that a GPU has
GELU_SCALE = tl.constexpr(1.5957691216057308)  # 2 sqrt(2 / pi)
GELU_CUBIC = tl.constexpr(0.044715)


@triton.jit
def normalize(x, inside, W, eps):
    """(x - mean) / deviation, and 1 / deviation.

    Reference: (x - x.mean()) * torch.rsqrt(x.var(correction=0) + eps)      x [BLOCK] float32, W of them `inside`."""
    mean = tl.sum(x, 0) / W
    # Lanes beyond the width hold 0, and 0 - mean would count in the variance.
    centred = tl.where(inside, x - mean, 0.0)
    rstd = 1 / tl.sqrt(tl.sum(centred * centred, 0) / W + eps)
    return centred * rstd, rstd


@triton.jit
def gelu_and_gate(x):
    """BLOOM's tanh form of GELU, and the sigmoid in it, which the gradient needs too.

    Reference: torch.nn.functional.gelu(x, approximate="tanh")

    (1 + tanh(u)) / 2 is sigmoid(2 u), one exponential where tanh takes two."""
    gate = tl.sigmoid(x * GELU_SCALE * (1 + x * GELU_CUBIC * x))
    return x * gate, gate
