"""The Triton kernels that choose each row's next token from its scores, without sorting 250,880 of them and without
asking the host.

    stats     a chunk's largest score and sum of exp((score - largest) / temperature)
    narrow    one pass of a search for the threshold at which top-k or top-p cuts: how much lies above each of 8 candidates, in a chunk
    pick      the token at which the running sum of what is left passes the row's chance (or the likeliest); the slot's state moves on

Thresholds are in z = (score - largest) / temperature. A pass narrows the threshold 8-fold: six leave 1e-4 nats, and
what ties within that stays in. Below z = -32 lies less than 3e-9 of the mass of BLOOM's vocabulary: where something is
cut, that is. Sums are made in a fixed order, and a row's do not depend on its neighbours, so the same scores and chance
give the same token. Shapes: Q rows, V vocabulary, C chunks of a row, J candidates of a pass, n passes."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

CHUNKS, CANDIDATES, PASSES = 64, 8, 6
LOWEST = -32.0
INACTIVE, BROKEN = -2, -3


@triton.jit
def _score(scores, seen, rule, q, s, column, V, PENALTY: tl.constexpr):
    """Scores after the repetition penalty (Keskar et al. 2019, arXiv:1909.05858, as Transformers has it)."""
    x = tl.load(scores + q.to(tl.int64) * V + column, mask=column < V, other=float("-inf"))
    if PENALTY:
        penalty = tl.load(rule + s * 4 + 3)
        had = tl.load(seen + s.to(tl.int64) * V + column, mask=column < V, other=0) != 0
        x = tl.where(had, tl.where(x > 0, x / penalty, x * penalty), x)
    return x


@triton.jit
def _temperature(rule, s):
    """What scores are divided by; for the likeliest token (0) anything will do."""
    given = tl.load(rule + s * 4)
    return tl.where(given > 0, given, 1.0)


@triton.jit
def _whole(tops, sums, q, temperature, C: tl.constexpr):
    """The row's largest score, and each chunk's part of its sum."""
    c = tl.arange(0, C)
    top_C = tl.load(tops + q * C + c)
    top = tl.max(top_C, 0)
    return top, tl.load(sums + q * C + c) * tl.exp((top_C - top) / temperature)


@triton.jit
def stats_rows(
    scores, seen, rule, row_slot, tops, sums, args, V, chunk,
    PENALTY: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    q, c = tl.program_id(0), tl.program_id(1)
    s = tl.load(row_slot + q)
    if s >= 0:
        temperature = _temperature(rule, s)
        top_B = tl.full([BLOCK], float("-inf"), tl.float32)
        at_B = tl.full([BLOCK], 2147483647, tl.int32)
        sum_B = tl.zeros([BLOCK], tl.float32)
        for first in range(c * chunk, tl.minimum((c + 1) * chunk, V), BLOCK):
            column = first + tl.arange(0, BLOCK)
            x = _score(scores, seen, rule, q, s, column, V, PENALTY)
            at_B = tl.where(x > top_B, column, at_B)
            higher = tl.maximum(top_B, x)
            safe = tl.where(higher == float("-inf"), 0.0, higher)
            sum_B = sum_B * tl.exp((top_B - safe) / temperature) + tl.exp((x - safe) / temperature)
            top_B = higher
        top = tl.max(top_B, 0)
        safe = tl.where(top == float("-inf"), 0.0, top)
        tl.store(tops + q * C + c, top)
        tl.store(sums + q * C + c, tl.sum(sum_B * tl.exp((top_B - safe) / temperature), 0))
        tl.store(args + q * C + c, tl.min(tl.where(top_B == top, at_B, 2147483647), 0))


@triton.jit
def _found(
    above, low, whole, rule, q, s, width, COUNT: tl.constexpr, FIRST: tl.constexpr, C: tl.constexpr, J: tl.constexpr
):
    """What a pass found: the threshold, its number among the candidates, and all that its search began with."""
    c, j = tl.arange(0, C), tl.arange(0, J)
    above_J = tl.sum(tl.load(above + (q * C + c[:, None]) * J + j[None, :]), 0)
    whole_now = tl.sum(tl.where(j == 0, above_J, 0.0), 0) if FIRST else tl.load(whole + q)
    if COUNT:
        k = tl.load(rule + s * 4 + 2)
        goal = tl.where(k > 0, k, float("inf"))
    else:
        goal = tl.load(rule + s * 4 + 1) * whole_now
    # The highest candidate above which enough lies; where none does, the lowest.
    best = tl.max(tl.where(above_J >= goal, j, 0), 0)
    return tl.load(low + q) + best.to(tl.float32) * width, best, whole_now


@triton.jit(do_not_specialize=["rows", "number"])
def narrow_rows(
    scores, seen, rule, row_slot, tops, sums, above, low, whole, V, chunk, rows, number, width, width_before, lowest,
    COUNT: tl.constexpr, COUNT_BEFORE: tl.constexpr, FIRST_BEFORE: tl.constexpr, FRESH: tl.constexpr, PENALTY: tl.constexpr,
    C: tl.constexpr, J: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pass `number`: what the pass before it found, and the mass (COUNT: the number of tokens) above each of J
    candidates `width` apart. Each pass has its own part of `above` [n, Q, C, J], `low` and `whole` [n, Q]. FRESH: there
    is no pass before it."""
    q, c = tl.program_id(0), tl.program_id(1)
    s = tl.load(row_slot + q)
    if s >= 0:
        temperature = _temperature(rule, s)
        top, _ = _whole(tops, sums, q, temperature, C)
        base, all = lowest, 0.0
        if not FRESH:
            before = number - 1
            base, _, all = _found(
                above + before * rows * C * J, low + before * rows, whole + before * rows, rule, q, s, width_before,
                COUNT_BEFORE, FIRST_BEFORE, C, J,
            )  # fmt: skip
        if c == 0:
            tl.store(low + number * rows + q, base)
            tl.store(whole + number * rows + q, all)
        per_temperature = 1 / temperature
        j = tl.arange(0, J)
        candidate = base + j.to(tl.float32) * width
        total = tl.zeros([J, BLOCK], tl.float32)
        for first in range(c * chunk, tl.minimum((c + 1) * chunk, V), BLOCK):
            column = first + tl.arange(0, BLOCK)
            z = (_score(scores, seen, rule, q, s, column, V, PENALTY) - top) * per_temperature
            part = tl.where(column < V, 1.0, 0.0) if COUNT else tl.exp(z)
            total += tl.where(z[None, :] >= candidate[:, None], part[None, :], 0.0)
        tl.store(above + ((number * rows + q) * C + c) * J + j, tl.sum(total, 1))


@triton.jit(do_not_specialize=["rows", "last", "num_chances"])
def pick_rows(
    scores, seen, rule, row_slot, row_place, tops, sums, args, above, low, whole, chance, V, chunk, rows, last, width, num_chances, eos,
    next_token, length, written, limit, done, out,
    SEARCH: tl.constexpr, PENALTY: tl.constexpr, C: tl.constexpr, J: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    q = tl.program_id(0)
    s = tl.load(row_slot + q)
    place = tl.load(row_place + q)
    if (s < 0) | (place < 0):
        tl.store(out + q, -2)
    else:
        temperature = _temperature(rule, s)
        top, mass_C = _whole(tops, sums, q, temperature, C)
        c = tl.arange(0, C)
        sound = tl.sum(mass_C, 0) < float("inf")  # false for a score that is no number, too
        threshold = float("-inf")
        if SEARCH:
            found, best, _ = _found(
                above + last * rows * C * J,
                low + last * rows,
                whole + last * rows,
                rule,
                q,
                s,
                width,
                False,
                False,
                C,
                J,
            )
            # Neighbours may need the search where this row does not: its token must not depend on that.
            cut = (tl.load(rule + s * 4 + 1) < 1) | (tl.load(rule + s * 4 + 2) > 0)
            threshold = tl.where(cut, found, threshold)
            mass_C = tl.where(cut, tl.load(above + ((last * rows + q) * C + c) * J + best), mass_C)
        likeliest = tl.min(tl.where(tl.load(tops + q * C + c) == top, tl.load(args + q * C + c), 2147483647), 0)
        count = tl.load(written + s)
        running_C = tl.cumsum(mass_C, 0)
        goal = tl.load(chance + s * num_chances + count + 1) * tl.sum(mass_C, 0)
        last_full = tl.max(tl.where(mass_C > 0, c, 0), 0)
        chosen = tl.minimum(tl.sum(tl.where(running_C <= goal, 1, 0), 0), last_full)
        carry = tl.sum(tl.where(c < chosen, mass_C, 0.0), 0)
        hit = 2147483647
        final = -1
        per_temperature = 1 / temperature
        for first in range(chosen * chunk, tl.minimum((chosen + 1) * chunk, V), BLOCK):
            column = first + tl.arange(0, BLOCK)
            z = (_score(scores, seen, rule, q, s, column, V, PENALTY) - top) * per_temperature
            kept = (z >= threshold) & (column < V)
            part = tl.where(kept, tl.exp(z), 0.0)
            passed = kept & (carry + tl.cumsum(part, 0) > goal)
            hit = tl.minimum(hit, tl.min(tl.where(passed, column, 2147483647), 0))
            final = tl.maximum(final, tl.max(tl.where(kept & (part > 0), column, -1), 0))
            carry += tl.sum(part, 0)
        token = tl.where(hit < 2147483647, hit, tl.maximum(final, 0))
        token = tl.where(tl.load(rule + s * 4) > 0, token, likeliest)
        token = tl.where(sound, token, -3)
        ends = (token == eos) | (count + 1 >= tl.load(limit + s)) | (token < 0)
        tl.store(out + q, token)
        tl.store(next_token + s, tl.maximum(token, 0))
        tl.store(length + s, place + 1)
        tl.store(written + s, count + 1)
        tl.store(done + s, ends.to(tl.int32))
        if PENALTY:
            tl.store(seen + s.to(tl.int64) * V + tl.maximum(token, 0), 1)


def buffers(rows: int, device: Any) -> dict[str, torch.Tensor]:
    """What `choose` works in, for up to `rows` rows."""
    n = 2 * PASSES
    sizes = {
        "tops": rows * CHUNKS,
        "sums": rows * CHUNKS,
        "above": n * rows * CHUNKS * CANDIDATES,
        "low": n * rows,
        "whole": n * rows,
    }
    return {name: torch.zeros(size, device=device) for name, size in sizes.items()} | {
        "args": torch.zeros(rows * CHUNKS, dtype=torch.int32, device=device)
    }


def choose(
    scores_QV: torch.Tensor, row_slot: torch.Tensor, row_place: torch.Tensor, state: Any, work: dict[str, torch.Tensor], out: torch.Tensor,
    eos: int, *, top_k: bool, top_p: bool, penalty: bool,
) -> None:  # fmt: skip
    """Writes each row's next token to `out` (INACTIVE for a row without a place, BROKEN where scores are no numbers)
    and moves `state` on. `top_k`, `top_p`, `penalty` say whether any slot's rule needs them. Scores are float32."""
    Q, V = scores_QV.shape
    block = min(1024, triton.next_power_of_2(triton.cdiv(V, CHUNKS)))
    chunk = triton.cdiv(triton.cdiv(V, CHUNKS), block) * block
    # Without fusing products into sums: what is fused differs from one variant of a kernel to the next, and with it the
    # last bit.
    fixed: dict[str, Any] = {"PENALTY": penalty, "C": CHUNKS, "BLOCK": block, "enable_fp_fusion": False}
    source = (scores_QV, state.seen, state.rule, row_slot)
    stats: Any = stats_rows
    stats[(Q, CHUNKS)](*source, work["tops"], work["sums"], work["args"], V, chunk, **fixed, num_warps=4)
    # top-k first; what it leaves is the whole that top-p takes its share of, which also gives the masses that `pick`
    # runs through.
    counts = [True] * PASSES * top_k + [False] * PASSES * (top_k or top_p)
    widths = [-LOWEST / CANDIDATES ** (i % PASSES + 1) for i in range(len(counts))]
    search = (work["above"], work["low"], work["whole"])
    narrow: Any = narrow_rows
    for i, (count, width) in enumerate(zip(counts, widths, strict=True)):
        narrow[(Q, CHUNKS)](
            *source, work["tops"], work["sums"], *search, V, chunk, Q, i, width, widths[i - 1], LOWEST,
            COUNT=count, COUNT_BEFORE=counts[i - 1], FIRST_BEFORE=(i - 1) % PASSES == 0, FRESH=i == 0, J=CANDIDATES, **fixed, num_warps=8,
        )  # fmt: skip
    pick: Any = pick_rows
    pick[(Q,)](
        *source, row_place, work["tops"], work["sums"], work["args"], *search, state.chance, V, chunk, Q, len(counts) - 1,
        widths[-1] if widths else 1.0, state.chance.shape[1], eos,
        state.next_token, state.length, state.written, state.limit, state.done, out,
        SEARCH=bool(counts), J=CANDIDATES, **fixed, num_warps=8,
    )  # fmt: skip
