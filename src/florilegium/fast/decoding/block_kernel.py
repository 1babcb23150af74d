"""The Triton kernels of decoding between the matmuls (`matmul_kernel.py`): embedding, residual and norm with the
adapter's x A^T, and which rows are sampled. Attention has a file of its own (`attention_kernel.py`).

A step works on M token rows. Row m belongs to `slot[m]` of the cache (-1: none) and stands at `position[m]` of its text
(-1: it is not to be worked on); all else follows from these two. No row's result depends on another's. Shapes: M rows,
W width, P places for adapters, R their rank, V vocabulary."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from florilegium.fast.decoding.state import SlotState, StepInputs
from florilegium.fast.decoding.stored_weight import StoredWeight
from florilegium.fast.kernel_math import normalize
from florilegium.fast.modules import Bloom
from florilegium.fast.unpack_kernel import mma_column_order

COLUMNS_EACH = 4  # of x A^T that a program makes beside the norm: enough programs for one row to fill the card


@triton.jit
def embedding_kernel(
    given_token, given_position, slot, next_token, length, done, table, gamma, beta, residual, position, W, eps,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Reference: residual = F.layer_norm(table[token], (W,), gamma, beta, eps)      residual [M, W] float32

    The row's token and position: given (a prompt's), or, where -1 is given, the slot's own next ones, which the last
    step's sampling left on the GPU. One program a row."""
    m = tl.program_id(0)
    s = tl.load(slot + m)
    token = tl.load(given_token + m)
    p = tl.load(given_position + m)
    own = (token < 0) & (s >= 0)
    # maximum(s, 0): a row without a slot must still load from somewhere
    token = tl.where(own, tl.load(next_token + tl.maximum(s, 0)), tl.maximum(token, 0))
    ended = tl.load(done + tl.maximum(s, 0)) != 0
    # A text may have ended in the step before, which the host has not seen yet: its row is left out here.
    p = tl.where(own, tl.where(ended, -1, tl.load(length + tl.maximum(s, 0))), p)
    tl.store(position + m, tl.where(s < 0, -1, p))
    column = tl.arange(0, BLOCK)
    inside = column < W
    # float32 from here on: the residual stream of a step is never rounded
    x = tl.load(table + token.to(tl.int64) * W + column, mask=inside, other=0.0).to(tl.float32)
    unit, _ = normalize(x, inside, W, eps)
    g = tl.load(gamma + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(beta + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(residual + m.to(tl.int64) * W + column, unit * g + b, mask=inside)


@triton.jit(do_not_specialize=["M"])
def residual_norm_kernel(
    residual, partial, scale, bias, gamma, beta, after, normed, lora_a, place, lora_x_at, rows, M, W, eps,
    HAS_UPDATE: tl.constexpr, SPLIT: tl.constexpr, R: tl.constexpr, EACH: tl.constexpr, GATHER: tl.constexpr, ORDER: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Reference: after = residual + partial.sum(0) * scale + bias; normed = F.layer_norm(after, (W,), gamma, beta, eps);
    lora_x_at[m] = lora_a[place[m]] @ normed[m], 0 where place[m] is -1

    residual, after [M, W] float32; partial [SPLIT, M, W] float32; normed [M, W], its columns in ORDER (of the weight
    that reads it); lora_a [places, R, W]; lora_x_at [M, R]. Programs (m, 0) write `after` and `normed`; programs
    (m, 1...) make the norm again and EACH columns of `lora_x_at`. GATHER: program m works on row rows[m] and writes
    `normed` alone."""
    m, part = tl.program_id(0), tl.program_id(1)
    column = tl.arange(0, BLOCK)
    inside = column < W
    # All that is frozen is on its way at once: read where it is needed, each would take a microsecond.
    g = tl.load(gamma + column, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(beta + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_UPDATE:
        factor = tl.load(scale + column, mask=inside, other=0.0)
        b = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    if R > 0:
        own = tl.load(place + m)
        r = tl.maximum(part - 1, 0) * EACH + tl.arange(0, EACH)
    row = (tl.maximum(tl.load(rows + m), 0) if GATHER else m).to(tl.int64)
    x = tl.load(residual + row * W + column, mask=inside, other=0.0)
    if HAS_UPDATE:
        # the parts of a split sum, always in this order
        total = tl.load(partial + row * W + column, mask=inside, other=0.0)
        for s in tl.static_range(1, SPLIT):
            total += tl.load(partial + (s * M + row) * W + column, mask=inside, other=0.0)
        x += total * factor + b
    if R > 0:
        own_a = lora_a + tl.maximum(own, 0).to(tl.int64) * (R * W)
        at = own_a + r[:, None] * W + column[None, :]
        a = tl.load(at, mask=inside[None, :] & (part > 0), other=0.0)
    unit, _ = normalize(x, inside, W, eps)
    # rounded before A reads it: the adapter sees what the base's matmul sees
    y = (unit * g + shift).to(normed.dtype.element_ty)
    if part == 0:
        if not GATHER:
            # Into another buffer than `residual`, which the programs (m, 1...) are still reading.
            tl.store(after + row * W + column, x, mask=inside)
        tl.store(normed + m.to(tl.int64) * W + mma_column_order(column, ORDER), y, mask=inside)
    elif R > 0:
        # all columns in one sum: each by itself would wait for all warps once more
        value = tl.where(own >= 0, tl.sum(a.to(tl.float32) * y.to(tl.float32)[None, :], 1), 0.0)
        tl.store(lora_x_at + row * R + r, value.to(lora_x_at.dtype.element_ty))


@triton.jit
def down_projection_kernel(x, lora_a, place, lora_x_at, K, R: tl.constexpr, EACH: tl.constexpr, BLOCK: tl.constexpr):
    """Reference: lora_x_at[m] = lora_a[place[m]] @ x[m], 0 where place[m] is -1

    x [M, K] and lora_a [places, R, K], columns in one order. For an input that no norm makes. A program makes EACH columns
    of a row."""
    m, part = tl.program_id(0), tl.program_id(1)
    r = part * EACH + tl.arange(0, EACH)
    own = tl.load(place + m)
    own_a = lora_a + tl.maximum(own, 0).to(tl.int64) * (R * K)  # each row reads its own adapter
    # summed over BLOCK at the end alone: adding numbers of other threads is what takes long
    sums = tl.zeros([EACH, BLOCK], tl.float32)
    for k in range(0, K, BLOCK):
        column = k + tl.arange(0, BLOCK)
        row = tl.load(x + m.to(tl.int64) * K + column, mask=column < K, other=0.0).to(tl.float32)
        a = tl.load(own_a + r[:, None] * K + column[None, :], mask=(column < K)[None, :], other=0.0).to(tl.float32)
        sums += a * row[None, :]
    # zeros, and not nothing: the matmul reads them for every row
    value = tl.where(own >= 0, tl.sum(sums, 1), 0.0)
    tl.store(lora_x_at + m * R + r, value.to(lora_x_at.dtype.element_ty))


@triton.jit
def sample_rows_kernel(sample_rows, position, row_position):
    """Reference: row_position = position[sample_rows]      both int32 [Q], -1 stays -1.

    On the GPU, for only there is it known which texts have ended."""
    q = tl.program_id(0)
    m = tl.load(sample_rows + q)
    tl.store(row_position + q, tl.where(m < 0, -1, tl.load(position + tl.maximum(m, 0))))


class SplitUpdate(NamedTuple):
    """A matmul whose parts [split, M, W] the residual stream still lacks, and the weight whose scale and bias go with
    them."""

    partial: torch.Tensor
    weight: StoredWeight


class LoraInput(NamedTuple):
    """A of the adapters in their places [P, R, K], each row's place (-1: none), and where x A^T [M padded, R] goes."""

    a_PRK: torch.Tensor
    place_M: torch.Tensor
    x_at_MR: torch.Tensor


def columns_each(W: int) -> int:
    """Of x A^T, that a program makes: fewer of a wide row, whose numbers must stay in registers."""
    return max(1, min(COLUMNS_EACH, COLUMNS_EACH * 4096 // triton.next_power_of_2(W)))


def _row_launch(W: int) -> dict[str, int]:
    """A row in one program, as in training, but of 8 warps at most: a step has few rows, and many programs a row."""
    block = triton.next_power_of_2(W)
    return {"BLOCK": block, "num_warps": min(8, max(1, block // 512))}


def embed(state: SlotState, inputs: StepInputs, bloom: Bloom, residual_MW: torch.Tensor, M: int) -> None:
    """`inputs` has token, position and slot as given, `state` the slots' own; writes `residual_MW` and
    `state.position`."""
    norm = bloom.word_embeddings_layernorm
    table = bloom.word_embeddings.weight
    assert table.is_contiguous() and residual_MW.is_contiguous() and len(residual_MW) >= M
    embedding_kernel[(M,)](
        inputs.token, inputs.position, inputs.slot, state.next_token, state.length, state.done, table, norm.weight, norm.bias,
        residual_MW, state.position, table.shape[1], norm.eps, **_row_launch(table.shape[1]),
    )  # fmt: skip


def residual_norm(
    residual_MW: torch.Tensor,
    update: SplitUpdate | None,
    norm: torch.nn.LayerNorm,
    after_MW: torch.Tensor,
    normed_MW: torch.Tensor,
    M: int,
    order: int,
    *,
    lora: LoraInput | None = None,
    rows: torch.Tensor | None = None,
    num_rows: int = 0,
) -> None:
    """Adds the `update` to the residual stream and norms it, its columns in `order`. With `rows`, only those `num_rows`
    rows of the M are normed, and nothing else is written."""
    W = residual_MW.shape[1]
    assert residual_MW.dtype == after_MW.dtype == torch.float32 and normed_MW.shape[1] == W
    # programs of one row read the stream while another writes it; with `rows` nothing is written there
    assert rows is not None or lora is None or after_MW is not residual_MW
    unused = residual_MW  # a pointer that the kernel does not follow
    partial, scale, bias, split = (
        (update.partial, update.weight.scale_N, update.weight.bias_N, update.weight.split)
        if update
        else (unused, unused, unused, 1)
    )
    a, place, lora_x_at = lora or (unused,) * 3
    R = a.shape[1] if lora else 0  # a power of two from 16, so `each`, one up to 4, divides it
    each = columns_each(W)
    residual_norm_kernel[(num_rows if rows is not None else M, 1 + (R // each if R else 0))](
        residual_MW, partial, scale, bias, norm.weight, norm.bias, after_MW, normed_MW, a, place, lora_x_at,
        unused if rows is None else rows, M, W, norm.eps,
        HAS_UPDATE=update is not None, SPLIT=split, R=R, EACH=each, GATHER=rows is not None, ORDER=order, **_row_launch(W),
    )  # fmt: skip


def down_projection(x_MK: torch.Tensor, lora: LoraInput, M: int) -> None:
    """x A^T of M rows, A's columns in the order of those of x."""
    _, R, K = lora.a_PRK.shape
    assert x_MK.is_contiguous() and x_MK.shape[1] == K and lora.a_PRK.is_contiguous()
    # Two, whatever M is: with 16 columns a text alone has 8 programs, and a row's sum has one order.
    each = 2
    down_projection_kernel[(M, R // each)](
        x_MK, lora.a_PRK, lora.place_M, lora.x_at_MR, K, R=R, EACH=each, BLOCK=min(4096, triton.next_power_of_2(K)), num_warps=4
    )  # fmt: skip


def gather_positions(inputs: StepInputs, state: SlotState, row_position: torch.Tensor, Q: int) -> None:
    """The position of each row whose next token is sampled."""
    assert len(row_position) >= Q and len(inputs.sample_rows) >= Q
    sample_rows_kernel[(Q,)](inputs.sample_rows, state.position, row_position)
