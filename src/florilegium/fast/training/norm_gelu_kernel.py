"""The Triton kernels between the matrix products of a BLOOM block (`block_stack.py`): residual and norm, GELU, and
their backward passes.

Each reads the raw product of a quantised linear and applies what is left of that linear on the way: raw * scale + bias.
So scales and biases cost no pass over memory of their own.

The residual stream in flight is what a block saves of it anyway, in bfloat16, and 8 bits of what that rounding left, in
a buffer that all blocks share. The norm reads the saved form, forward and backward alike. The stream's gradient is
written once, times the scale of the linear that reads it next, and divided by that where it goes on. Dropout (on the
adapter's input) is a function of a seed, the block's number and the element's place, made again in the backward pass.
Statistics are float32. One program a row, or a block of elements. Shapes: T tokens, W width, F = 4W."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from florilegium.fast.unpack_kernel import in_lane_order


@triton.jit
def _norm(x, inside, W, eps):
    """(x - mean) / deviation, and 1 / deviation."""
    mean = tl.sum(x, 0) / W
    centred = tl.where(inside, x - mean, 0.0)
    rstd = 1 / tl.sqrt(tl.sum(centred * centred, 0) / W + eps)
    return centred * rstd, rstd


@triton.jit
def _kept(seed, number, row, W, drop, BLOCK: tl.constexpr):
    """Which numbers of a row dropout leaves, [BLOCK]: one look at the generator gives four; seven rounds of it are
    random enough (Salmon et al. 2011: Philox 4x32-7 passes BigCrush), and ten for each number took as long as the
    memory did."""
    place = (row * (W // 4)).to(tl.int32) + tl.arange(0, BLOCK // 4)
    r0, r1, r2, r3 = tl.rand4x(tl.load(seed) + number * 7919, place, n_rounds=7)
    return tl.reshape(tl.join(tl.join(r0, r2), tl.join(r1, r3)), (BLOCK,)) >= drop


@triton.jit
def _low_unit(rounded):
    """What the low part counts in: a number's last place in bfloat16, divided by 256."""
    power = (rounded.to(tl.float32).to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    return tl.maximum(power * 2.0**-15, 1e-35)


@triton.jit(do_not_specialize=["number"])
def add_norm_forward(
    before, low, raw, scale, bias, saved, gamma, beta, normed, dropped, normed_stride, W, eps, seed, number, drop,
    ADD: tl.constexpr, LOW: tl.constexpr, SAVE: tl.constexpr, TWICE: tl.constexpr, DROP: tl.constexpr, FORM: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """SAVE: saved + low = before, + low (LOW: there is one), + raw * scale + bias (ADD); else saved is before. normed =
    norm(saved), its columns in the lane order of FORM; TWICE: dropped = dropout(normed), as the columns are."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < W
    place = row * W + column
    rounded = tl.load(before + place, mask=inside, other=0.0)
    if SAVE:
        x = rounded.to(tl.float32)
        if LOW:
            x += tl.load(low + place, mask=inside, other=0).to(tl.float32) * _low_unit(rounded)
        if ADD:
            s = tl.load(scale + column, mask=inside, other=0.0).to(tl.float32)
            b = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
            x += tl.load(raw + place, mask=inside, other=0.0).to(tl.float32) * s + b
        rounded = x.to(saved.dtype.element_ty)
        tl.store(saved + place, rounded, mask=inside)
        left = tl.floor((x - rounded.to(tl.float32)) / _low_unit(rounded) + 0.5)
        tl.store(low + place, tl.minimum(tl.maximum(left, -128.0), 127.0).to(tl.int8), mask=inside)
    unit, _ = _norm(rounded.to(tl.float32), inside, W, eps)
    g = tl.load(gamma + column, mask=inside, other=0.0).to(tl.float32)
    y = unit * g + tl.load(beta + column, mask=inside, other=0.0).to(tl.float32)
    ordered = tl.reshape(in_lane_order(tl.reshape(y.to(normed.dtype.element_ty), (1, BLOCK)), FORM, 1, BLOCK), (BLOCK,))
    tl.store(normed + row * normed_stride + column, ordered, mask=inside)
    if DROP:
        kept = _kept(seed, number, row, W, drop, BLOCK)
        y = tl.where(kept, y / (1 - drop), 0.0)
    if TWICE:
        tl.store(dropped + place, y.to(dropped.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["number"])
def norm_backward(
    scaled, above, thin, saved, gamma, beta, scale, next_scale, dropped, above_stride, W, eps, seed, number, drop,
    FIRST: tl.constexpr, THIN: tl.constexpr, DROP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """scaled = next_scale * (gradient of norm(saved) under `above`, + dropout's of `thin` (THIN), + scaled / scale (not
    FIRST)), in place; dropped = dropout(norm(saved))."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < W
    place = row * W + column
    unit, rstd = _norm(tl.load(saved + place, mask=inside, other=0.0).to(tl.float32), inside, W, eps)
    g = tl.load(gamma + column, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(above + row * above_stride + column, mask=inside, other=0.0).to(tl.float32)
    if THIN:
        more = tl.load(thin + place, mask=inside, other=0.0).to(tl.float32)
        y = unit * g + tl.load(beta + column, mask=inside, other=0.0).to(tl.float32)
        if DROP:
            kept = _kept(seed, number, row, W, drop, BLOCK)
            more = tl.where(kept, more / (1 - drop), 0.0)
            y = tl.where(kept, y / (1 - drop), 0.0)
        dy += more
        tl.store(dropped + place, y.to(dropped.dtype.element_ty), mask=inside)
    weighted = tl.where(inside, dy * g, 0.0)
    dx = (weighted - unit * (tl.sum(weighted * unit, 0) / W) - tl.sum(weighted, 0) / W) * rstd
    if not FIRST:
        dx += tl.load(scaled + place, mask=inside, other=0.0).to(tl.float32) / tl.load(
            scale + column, mask=inside, other=1.0
        )
    dx *= tl.load(next_scale + column, mask=inside, other=0.0)
    tl.store(scaled + place, dx.to(scaled.dtype.element_ty), mask=inside)


@triton.jit
def _gelu(x):
    """BLOOM's tanh form: x * sigmoid(2u), u = sqrt(2 / pi) * (x + 0.044715 x^3); and the sigmoid."""
    chance = tl.sigmoid(1.5957691216057308 * x * (1 + 0.044715 * x * x))
    return x * chance, chance


@triton.jit
def gelu_forward(raw, scale, bias, out, F, size, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    column = place % F
    x = tl.load(raw + place, mask=inside, other=0.0).to(tl.float32) * tl.load(scale + column).to(tl.float32)
    y, _ = _gelu(x + tl.load(bias + column).to(tl.float32))
    tl.store(out + place, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def gelu_backward(raw, scale, bias, grad, F, size, BLOCK: tl.constexpr):
    """grad = grad * gelu'(raw * scale + bias) * scale, in place."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    column = place % F
    s = tl.load(scale + column).to(tl.float32)
    x = tl.load(raw + place, mask=inside, other=0.0).to(tl.float32) * s + tl.load(bias + column).to(tl.float32)
    _, chance = _gelu(x)
    slope = chance + x * chance * (1 - chance) * 1.5957691216057308 * (1 + 3 * 0.044715 * x * x)
    dy = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(grad + place, (dy * slope * s).to(grad.dtype.element_ty), mask=inside)


@triton.jit
def fold_rows(B, scale, factor, to, stride, N, rank, R: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK: tl.constexpr):
    """B * factor / scale, so that the codes' own scale gives B * factor back; zero beyond the rank."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK_R)
    inside = (row[:, None] < N) & (column[None, :] < R)
    b = tl.load(B + row[:, None] * rank + column[None, :], mask=inside & (column[None, :] < rank), other=0.0).to(
        tl.float32
    )
    s = tl.load(scale + row, mask=row < N, other=1.0)
    tl.store(
        to + row[:, None].to(tl.int64) * stride + column[None, :],
        (b * (factor / s[:, None])).to(to.dtype.element_ty),
        mask=inside,
    )


def _row(W: int) -> dict[str, Any]:
    block = triton.next_power_of_2(W)
    return {"BLOCK": block, "num_warps": min(16, max(1, block // 512))}


def add_norm(
    before_TW: torch.Tensor,
    low_TW: torch.Tensor | None,
    pending: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None,
    norm: Any,
    normed_TW: torch.Tensor,
    dropped_TW: torch.Tensor | None = None,
    seed: torch.Tensor | None = None,
    number: int = 0,
    drop: float = 0.0,
    form: int = 16,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Adds the pending product (raw, scale, bias) to the residual stream, `before_TW` + `low_TW` (None: 0), and norms
    it into `normed_TW` (whose rows may be wider), in the order of columns that `form` wants; and with dropout, but in
    the columns' own order, into `dropped_TW`. Returns the stream then, rounded to the dtype of `normed_TW`, and what
    that left (int8, see `_low_unit`): what came where nothing is pending and nothing is to round; the low part is
    written over."""
    T, W = before_TW.shape
    saves = pending is not None or before_TW.dtype != normed_TW.dtype
    saved_TW = torch.empty_like(before_TW, dtype=normed_TW.dtype) if saves else before_TW
    left_TW = torch.empty_like(before_TW, dtype=torch.int8) if saves and low_TW is None else low_TW
    raw, scale, bias = pending or (before_TW,) * 3
    to = normed_TW if dropped_TW is None else dropped_TW
    kernel: Any = add_norm_forward
    kernel[(T,)](
        before_TW, before_TW if left_TW is None else left_TW, raw, scale, bias, saved_TW, norm.weight, norm.bias, normed_TW, to,
        normed_TW.stride(0), W, norm.eps, normed_TW if seed is None else seed, number, drop,
        ADD=pending is not None, LOW=low_TW is not None, SAVE=saves, TWICE=dropped_TW is not None,
        DROP=dropped_TW is not None and drop > 0, FORM=form, **_row(W),
    )  # fmt: skip
    return saved_TW, left_TW


def add_norm_grad(
    scaled_TW: torch.Tensor,
    above_TW: torch.Tensor,
    saved_TW: torch.Tensor,
    norm: Any,
    scale_W: torch.Tensor | None,
    next_scale_W: torch.Tensor,
    *,
    thin_TW: torch.Tensor | None = None,
    dropped_TW: torch.Tensor | None = None,
    seed: torch.Tensor | None = None,
    number: int = 0,
    drop: float = 0.0,
) -> None:
    """The backward pass of `add_norm`. `scaled_TW` is the residual stream's gradient times `scale_W` (None: there is
    none yet), and then with the norm's times `next_scale_W` (both float32). `thin_TW` is the adapter's part of the
    gradient; then `dropped_TW` gets the adapter's input back."""
    T, W = scaled_TW.shape
    kernel: Any = norm_backward
    kernel[(T,)](
        scaled_TW, above_TW, above_TW if thin_TW is None else thin_TW, saved_TW, norm.weight, norm.bias,
        next_scale_W if scale_W is None else scale_W, next_scale_W, above_TW if dropped_TW is None else dropped_TW, above_TW.stride(0), W,
        norm.eps, above_TW if seed is None else seed, number, drop,
        FIRST=scale_W is None, THIN=thin_TW is not None, DROP=drop > 0, **_row(W),
    )  # fmt: skip


def gelu(raw_TF: torch.Tensor, scale_F: torch.Tensor, bias_F: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(raw_TF)
    kernel: Any = gelu_forward
    F, size = raw_TF.shape[1], raw_TF.numel()
    kernel[(triton.cdiv(size, 4096),)](raw_TF, scale_F, bias_F, out, F, size, BLOCK=4096, num_warps=8)
    return out


def gelu_grad(raw_TF: torch.Tensor, scale_F: torch.Tensor, bias_F: torch.Tensor, grad_TF: torch.Tensor) -> None:
    """Turns the gradient of gelu's output into that of the raw product, in place."""
    kernel: Any = gelu_backward
    kernel[(triton.cdiv(raw_TF.numel(), 4096),)](
        raw_TF, scale_F, bias_F, grad_TF, raw_TF.shape[1], raw_TF.numel(), BLOCK=4096, num_warps=8
    )


def fold(B_NR: torch.Tensor, scale_N: torch.Tensor, factor: float, to: torch.Tensor) -> None:
    """Writes the adapter's B to a view [N, R], R being the rank or more, so that the scale of the codes gives it
    back."""
    N, rank = B_NR.shape
    R = to.shape[1]
    kernel: Any = fold_rows
    kernel[(triton.cdiv(N, 128),)](
        B_NR, scale_N, factor, to, to.stride(0), N, rank, R=R, BLOCK_R=triton.next_power_of_2(R), BLOCK=128
    )
