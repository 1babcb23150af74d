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


@triton.jit
def dropout_keep(seed, stream, counter, p):
    """For each counter four draws, [..., 2, 2]: reshaped to four times as many columns they are those of columns
    4 counter to 4 counter + 3. Column c of row t, of K columns, has the counter t (K / 4) + c // 4.

    Reference: torch.rand(*counter.shape, 4) >= p"""
    # One call of the generator gives four numbers; seven of its rounds are random enough (Salmon et al. 2011: Philox
    # 4x32-7 passes BigCrush), and ten for each number took as long as the memory did.
    # 7919, a prime, keeps the streams apart whatever the step's seed is.
    r0, r1, r2, r3 = tl.rand4x(tl.load(seed) + stream * 7919, counter.to(tl.int32), n_rounds=7)
    # join puts the new axis last, so that r0 to r3 end up beside one another
    return tl.join(tl.join(r0, r2), tl.join(r1, r3)) >= p


def drawn(dropout: Dropout | None, unused: torch.Tensor) -> tuple[torch.Tensor, int, float]:
    """What a kernel reads of dropout; without any a pointer that it does not follow."""
    return (dropout.seed, dropout.stream, dropout.p) if dropout else (unused, 0, 0.0)
