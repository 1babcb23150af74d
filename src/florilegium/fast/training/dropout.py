"""Which numbers of a linear's input the adapter's dropout leaves: drawn anew wherever the input is read, forward and
backward alike, so that no mask is kept.

A number's draw depends on the step's seed, the linear (`stream`), its token's number in the step and its column, and on
nothing else: two kernels that read the same input in other tiles, or its columns in another order, drop the same, and so
does a row in whatever batch and process."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from florilegium.reference import Dropout


@triton.jit
def dropout_keep(seed, stream, counter, drop_limit):
    """For each counter eight draws, [..., 2, 2, 2]: reshaped to eight times as many columns they are those of columns
    8 counter to 8 counter + 7. Column c of a token, of K columns, has the counter number_T[token] (K / 8) + c // 8.

    Reference: reference.dropout_keep(seed, stream, number_T, K, drop_limit)"""
    # One call of the generator gives four words, and 16 bits are enough to tell a share of p: the generator is most of
    # what dropout costs. Seven of its rounds are random enough (Salmon et al. 2011: Philox 4x32-7 passes BigCrush).
    # 7919, a prime, keeps the streams apart whatever the step's seed is.
    w0, w1, w2, w3 = tl.randint4x(tl.load(seed) + stream * 7919, counter.to(tl.int32), n_rounds=7)
    words = tl.join(tl.join(w0, w1), tl.join(w2, w3))
    # to int32 and cut: the words' sign bits must not come along
    return tl.join((words & 0xFFFF).to(tl.int32), ((words >> 16) & 0xFFFF).to(tl.int32)) >= drop_limit


@triton.jit
def dropped(x, keep, drop_limit):
    """Reference: F.dropout(x, drop_limit / 65536), with the draws `keep`; float32."""
    return tl.where(keep, x.to(tl.float32) * (65536.0 / (65536 - drop_limit)), 0.0)


def drawn(dropout: Dropout | None, unused: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    """What a kernel reads of dropout; without any pointers that it does not follow."""
    if dropout is None:
        return unused, unused, 0, 0
    assert dropout.number_T.dtype == torch.int32 and dropout.number_T.is_contiguous()
    return dropout.seed, dropout.number_T, dropout.stream, dropout.drop_limit
