"""Sampling as the decoder asks for it: the buffers and the launches of `sampling_kernel.py`, in their order.

softmax statistics, then six passes of search for top-k's threshold, six for top-p's within what top-k left, then the
token: up to 14 launches, and none waits for the host. Shapes: Q rows, V vocabulary, C chunks of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton

from florilegium.fast.decoding import sampling_kernel
from florilegium.fast.decoding.state import SamplingParams, SlotState

CHUNKS, CANDIDATES, PASSES = 64, 8, 6  # of a row; thresholds a pass tries; passes of one search
LOWEST = -32.0
STAGES = 4  # blocks of a chunk that are read at once
PROGRAMS = 1024  # of a launch, where rows are many: eight for each multiprocessor


@dataclass(frozen=True)
class Needs:
    """Whether any text of a step is cut by top-k, by top-p, or penalised: what is not needed is not launched."""

    top_k: bool = False
    top_p: bool = False
    penalty: bool = False


def needs_of(settings: Sequence[SamplingParams]) -> Needs:
    drawn = [s for s in settings if s.temperature > 0]  # greedy decoding cuts nothing
    return Needs(
        top_k=any(s.top_k for s in drawn),
        top_p=any(s.top_p < 1 for s in drawn),
        penalty=any(s.repetition_penalty != 1 for s in settings),
    )


@dataclass(frozen=True)
class Workspace:
    """What `sample` works in: a chunk's largest score, its sum and where it is [Q, C]; of each pass the masses above
    its candidates [2 PASSES, Q, C, CANDIDATES], where it began, and the mass that it cuts [2 PASSES, Q]."""

    tops: torch.Tensor
    sums: torch.Tensor
    argmaxes: torch.Tensor
    above: torch.Tensor
    low: torch.Tensor
    whole: torch.Tensor

    @classmethod
    def make(cls, rows: int, device: torch.device) -> Workspace:
        """For up to `rows` rows."""
        passes = 2 * PASSES
        chunks = rows * CHUNKS
        return cls(
            torch.zeros(chunks, dtype=torch.float32, device=device),
            torch.zeros(chunks, dtype=torch.float32, device=device),
            torch.zeros(chunks, dtype=torch.int32, device=device),
            torch.zeros(passes * chunks * CANDIDATES, dtype=torch.float32, device=device),
            torch.zeros(passes * rows, dtype=torch.float32, device=device),
            torch.zeros(passes * rows, dtype=torch.float32, device=device),
        )


def sample(
    scores_QV: torch.Tensor,
    row_slot: torch.Tensor,
    row_position: torch.Tensor,
    state: SlotState,
    work: Workspace,
    out: torch.Tensor,
    eos: int,
    needs: Needs,
) -> None:
    """Writes each row's next token to `out` (INACTIVE for a row without a position, BROKEN where scores hold NaN or
    infinity) and moves `state` on. Scores are float32."""
    Q, V = scores_QV.shape
    assert scores_QV.dtype == torch.float32 and scores_QV.is_contiguous() and len(work.tops) >= Q * CHUNKS
    assert state.seen.shape[1] == V and state.sampling_params.shape[1] == 4
    block = min(1024, triton.next_power_of_2(triton.cdiv(V, CHUNKS)))
    chunk = triton.cdiv(triton.cdiv(V, CHUNKS), block) * block  # whole blocks: no mask but in the last chunk
    # Without fusing products into sums: what is fused differs from one variant of a kernel to the next, and with it the
    # last bit.
    fixed: dict[str, int] = {"PENALTY": needs.penalty, "C": CHUNKS, "BLOCK": block, "enable_fp_fusion": False}
    source = (scores_QV, state.seen, state.sampling_params, row_slot)
    programs = max(4, min(CHUNKS, PROGRAMS // Q))  # of a row; whose chunk is whose changes no sum
    sampling_kernel.softmax_stats_kernel[(Q, programs)](
        *source, work.tops, work.sums, work.argmaxes, V, chunk, **fixed, num_warps=4
    )
    # top-k first; what it leaves is the whole that top-p takes its share of. top-p's search follows top-k's even where
    # only that is asked for: it also gives the masses that the sample runs through.
    counts = [True] * PASSES * needs.top_k + [False] * PASSES * (needs.top_k or needs.top_p)
    # each pass an eighth of the one before: from 4 nats apart to 1e-4
    widths = [-LOWEST / CANDIDATES ** (i % PASSES + 1) for i in range(len(counts))]
    search = (work.above, work.low, work.whole)
    for i, (count, width) in enumerate(zip(counts, widths, strict=True)):
        sampling_kernel.threshold_search_kernel[(Q, programs)](
            *source, work.tops, work.sums, *search, V, chunk, Q, i, width, widths[i - 1], LOWEST,
            COUNT=count, COUNT_BEFORE=counts[i - 1], FIRST_BEFORE=(i - 1) % PASSES == 0, FRESH=i == 0, J=CANDIDATES, STAGES=STAGES,
            **fixed, num_warps=8,
        )  # fmt: skip
    sampling_kernel.sample_kernel[(Q,)](
        *source, row_position, work.tops, work.sums, work.argmaxes, *search, state.uniforms, V, chunk, Q, len(counts) - 1,
        widths[-1] if widths else 1.0, state.uniforms.shape[1], eos,
        state.next_token, state.length, state.written, state.limit, state.done, out,
        SEARCH=bool(counts), J=CANDIDATES, **fixed, num_warps=8,
    )  # fmt: skip
