"""Which numbers of a linear's input the adapter's dropout leaves: drawn anew wherever the input is read, forward and
backward alike, so that no mask is kept.

A number's draw depends on the step's seed, the linear (`stream`), its row and its column, and on nothing else: two
kernels that read the same input in other tiles, or its columns in another order, drop the same numbers."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl


@dataclass(frozen=True)
class Dropout:
    """`seed` int64 [1] on the device, the same for all linears of a step; `stream` tells them apart; `p` is the share
    that is dropped."""

    seed: torch.Tensor
    stream: int
    p: float

    @property
    def drop_limit(self) -> int:
        """The share as the kernels draw it: of 65,536 numbers how many are dropped."""
        # 65,536 would leave nothing to divide by
        return min(round(self.p * 65536), 65535)


@triton.jit
def dropout_keep(seed, stream, counter, drop_limit):
    """For each counter eight draws, [..., 2, 2, 2]: reshaped to eight times as many columns they are those of columns
    8 counter to 8 counter + 7. Column c of row t, of K columns, has the counter t (K / 8) + c // 8.

    Reference: torch.randint(65536, (*counter.shape, 8)) >= drop_limit"""
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


def drawn(dropout: Dropout | None, unused: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    """What a kernel reads of dropout; without any a pointer that it does not follow."""
    return (dropout.seed, dropout.stream, dropout.drop_limit) if dropout else (unused, 0, 0)
