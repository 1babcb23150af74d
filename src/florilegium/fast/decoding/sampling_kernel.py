"""The Triton kernels that sample each row's next token from its scores, without sorting 250,880 of them and without
asking the host (`sampling.py` launches them).

    softmax_stats       a chunk's largest score and sum of exp((score - largest) / temperature)
    threshold_search    one pass of a search for the threshold at which top-k or top-p cuts: how much of a chunk lies
                        above each of 8 candidates
    sample              the token at which the running sum of what is left passes the row's uniform number (or the
                        argmax); the slot's state moves on

Thresholds are in z = (score - largest) / temperature. A pass narrows the threshold 8-fold: six leave 1e-4 nats, and
what ties within that stays in. Below z = -32 lies less than 3e-9 of the mass of BLOOM's vocabulary: where something is
cut, that is. Sums are made in a fixed order, and a row's do not depend on its neighbours, so the same scores and
uniform number give the same token. Shapes: Q rows, V vocabulary, C chunks of a row, J candidates of a pass, n passes."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

import triton
import triton.language as tl

from florilegium.fast.decoding.state import PENALTY, TEMPERATURE, TOP_K, TOP_P

# Tokens that are none: of a row without a position, and where the scores hold NaN or infinity.
INACTIVE, BROKEN = -2, -3
_INACTIVE, _BROKEN = tl.constexpr(INACTIVE), tl.constexpr(BROKEN)
_NO_TOKEN = tl.constexpr(2**31 - 1)  # above every token, so that a minimum leaves it out
# Columns of the slots' settings, sampling_params [slots, 4]. (No argument of a kernel may be called `params`: Triton 3.6
# has a variable of that name in the code that it generates around a kernel.)
_PARAMS = tl.constexpr(4)
_TEMPERATURE, _TOP_P, _TOP_K, _PENALTY = (tl.constexpr(column) for column in (TEMPERATURE, TOP_P, TOP_K, PENALTY))


@triton.jit
def _score(scores, seen, settings, q, s, column, V, PENALTY: tl.constexpr):
    """Scores after the repetition penalty (Keskar et al. 2019, arXiv:1909.05858, as Transformers has it).

    Reference: RepetitionPenaltyLogitsProcessor(penalty)(input_ids, scores)"""
    x = tl.load(scores + q.to(tl.int64) * V + column, mask=column < V, other=float("-inf"))
    if PENALTY:
        penalty = tl.load(settings + s * _PARAMS + _PENALTY)
        had = tl.load(seen + s.to(tl.int64) * V + column, mask=column < V, other=0) != 0
        x = tl.where(had, tl.where(x > 0, x / penalty, x * penalty), x)
    return x


@triton.jit
def _temperature(settings, s):
    """What scores are divided by; for greedy decoding (0) anything will do."""
    given = tl.load(settings + s * _PARAMS + _TEMPERATURE)
    return tl.where(given > 0, given, 1.0)


@triton.jit
def _row_stats(tops, sums, q, temperature, C: tl.constexpr):
    """The row's largest score, and each chunk's part of its sum."""
    # Made anew by every program that needs it: 64 numbers, where a kernel of its own would be one more launch.
    c = tl.arange(0, C)
    top_C = tl.load(tops + q * C + c)
    top = tl.max(top_C, 0)
    return top, tl.load(sums + q * C + c) * tl.exp((top_C - top) / temperature)


@triton.jit
def softmax_stats_kernel(
    scores, seen, settings, row_slot, tops, sums, argmaxes, V, chunk,
    PENALTY: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Reference: chunk = scores[q, c * chunk : (c + 1) * chunk]; tops, argmaxes = chunk.max(0); sums = ((chunk - tops) /
    temperature).exp().sum()      scores [Q, V]; tops, sums, argmaxes [Q, C]. Programs (q, i) share out a row's chunks."""
    q = tl.program_id(0)
    s = tl.load(row_slot + q)
    if s >= 0:
        per_temperature = 1 / _temperature(settings, s)
        for c in range(tl.program_id(1), C, tl.num_programs(1)):
            # each lane keeps a maximum and a sum of its own: lanes are put together once, at the end
            top_B = tl.full([BLOCK], float("-inf"), tl.float32)
            at_B = tl.full([BLOCK], _NO_TOKEN, tl.int32)
            sum_B = tl.zeros([BLOCK], tl.float32)
            for first in range(c * chunk, tl.minimum((c + 1) * chunk, V), BLOCK):
                column = first + tl.arange(0, BLOCK)
                x = _score(scores, seen, settings, q, s, column, V, PENALTY)
                at_B = tl.where(x > top_B, column, at_B)  # > and not >=: of equal scores the first token, as argmax
                higher = tl.maximum(top_B, x)
                safe = tl.where(higher == float("-inf"), 0.0, higher)
                sum_B = sum_B * tl.exp((top_B - safe) * per_temperature) + tl.exp((x - safe) * per_temperature)
                top_B = higher
            top = tl.max(top_B, 0)
            safe = tl.where(top == float("-inf"), 0.0, top)
            tl.store(tops + q * C + c, top)
            tl.store(sums + q * C + c, tl.sum(sum_B * tl.exp((top_B - safe) * per_temperature), 0))
            tl.store(argmaxes + q * C + c, tl.min(tl.where(top_B == top, at_B, _NO_TOKEN), 0))


@triton.jit
def _found(
    above, low, whole, settings, q, s, width, COUNT: tl.constexpr, FIRST: tl.constexpr, C: tl.constexpr, J: tl.constexpr
):
    """What a pass found: the threshold, its number among the candidates, and all that its search began with.

    Reference: above = mass.sum(chunks); best = (above >= goal).nonzero().max(); threshold = low + best * width"""
    c, j = tl.arange(0, C), tl.arange(0, J)
    above_J = tl.sum(tl.load(above + (q * C + c[:, None]) * J + j[None, :]), 0)
    total_now = tl.sum(tl.where(j == 0, above_J, 0.0), 0) if FIRST else tl.load(whole + q)
    if COUNT:  # top-k: tokens are counted; 0 cuts nothing
        k = tl.load(settings + s * _PARAMS + _TOP_K)
        goal = tl.where(k > 0, k, float("inf"))
    else:  # top-p: a share of the mass that top-k left
        goal = tl.load(settings + s * _PARAMS + _TOP_P) * total_now
    # The highest candidate above which enough lies; where none does, the lowest.
    best = tl.max(tl.where(above_J >= goal, j, 0), 0)
    return tl.load(low + q) + best.to(tl.float32) * width, best, total_now


@triton.jit(do_not_specialize=["rows", "number"])
def threshold_search_kernel(
    scores, seen, settings, row_slot, tops, sums, above, low, whole, V, chunk, rows, number, width, width_before, lowest,
    COUNT: tl.constexpr, COUNT_BEFORE: tl.constexpr, FIRST_BEFORE: tl.constexpr, FRESH: tl.constexpr, PENALTY: tl.constexpr,
    C: tl.constexpr, J: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Pass `number`: what the pass before it found, and the mass (COUNT: the number of tokens) above each of J
    candidates `width` apart. Each pass has its own part of `above` [n, Q, C, J], `low` and `whole` [n, Q]. FRESH: there
    is no pass before it.

    Reference: above[number, q, c] = (mass * (z >= candidates[:, None])).sum(1), of a chunk's z = (scores - top) /
    temperature"""
    q = tl.program_id(0)
    s = tl.load(row_slot + q)
    if s >= 0:
        temperature = _temperature(settings, s)
        top, _ = _row_stats(tops, sums, q, temperature, C)
        base, mass = lowest, 0.0
        # Every chunk's program works out the same threshold from what all chunks left: no launch between the passes.
        if not FRESH:
            before = number - 1
            base, _, mass = _found(
                above + before * rows * C * J, low + before * rows, whole + before * rows, settings, q, s, width_before,
                COUNT_BEFORE, FIRST_BEFORE, C, J,
            )  # fmt: skip
        if tl.program_id(1) == 0:
            tl.store(low + number * rows + q, base)
            tl.store(whole + number * rows + q, mass)
        per_temperature = 1 / temperature  # divided once, for 250,880 products
        j = tl.arange(0, J)
        candidate = base + j.to(tl.float32) * width
        # what a pass begins with is a chain of loads: made once for several chunks where there are many rows
        for c in range(tl.program_id(1), C, tl.num_programs(1)):
            total = tl.zeros([J, BLOCK], tl.float32)
            for first in tl.range(c * chunk, tl.minimum((c + 1) * chunk, V), BLOCK, num_stages=STAGES):
                column = first + tl.arange(0, BLOCK)
                z = (_score(scores, seen, settings, q, s, column, V, PENALTY) - top) * per_temperature
                part = tl.where(column < V, 1.0, 0.0) if COUNT else tl.exp(z)
                total += tl.where(z[None, :] >= candidate[:, None], part[None, :], 0.0)
            tl.store(above + ((number * rows + q) * C + c) * J + j, tl.sum(total, 1))


@triton.jit(do_not_specialize=["rows", "last", "num_uniforms"])
def sample_kernel(
    scores, seen, settings, row_slot, row_position, tops, sums, argmaxes, above, low, whole, uniforms, V, chunk, rows, last, width,
    num_uniforms, eos, next_token, length, written, limit, done, out,
    SEARCH: tl.constexpr, PENALTY: tl.constexpr, C: tl.constexpr, J: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Reference: kept = z >= threshold; mass = kept * z.exp(); out = (mass.cumsum(0) > uniform * mass.sum()).nonzero()[0],
    or scores.argmax() at temperature 0; then next_token, length, written, done and seen of the slot move on.

    One program a row: it runs through the chunks' masses, and through the scores of the one chunk in which the sum
    passes the uniform number."""
    q = tl.program_id(0)
    s = tl.load(row_slot + q)
    position = tl.load(row_position + q)
    if (s < 0) | (position < 0):
        tl.store(out + q, _INACTIVE)
    else:
        temperature = _temperature(settings, s)
        top, mass_C = _row_stats(tops, sums, q, temperature, C)
        c = tl.arange(0, C)
        sound = tl.sum(mass_C, 0) < float("inf")  # false for NaN, too
        threshold = float("-inf")
        if SEARCH:
            found, best, _ = _found(
                above + last * rows * C * J,
                low + last * rows,
                whole + last * rows,
                settings,
                q,
                s,
                width,
                False,
                False,
                C,
                J,
            )
            # Neighbours may need the search where this row does not: its token must not depend on that.
            cut = (tl.load(settings + s * _PARAMS + _TOP_P) < 1) | (tl.load(settings + s * _PARAMS + _TOP_K) > 0)
            threshold = tl.where(cut, found, threshold)
            mass_C = tl.where(cut, tl.load(above + ((last * rows + q) * C + c) * J + best), mass_C)
        argmax = tl.min(tl.where(tl.load(tops + q * C + c) == top, tl.load(argmaxes + q * C + c), _NO_TOKEN), 0)
        count = tl.load(written + s)
        # 64 masses first, so that one chunk's scores are read again and not the whole vocabulary's
        running_C = tl.cumsum(mass_C, 0)
        goal = tl.load(uniforms + s * num_uniforms + count + 1) * tl.sum(mass_C, 0)
        # a uniform number of all but 1 may round past the last mass: the last chunk that has any is taken
        last_full = tl.max(tl.where(mass_C > 0, c, 0), 0)
        chosen = tl.minimum(tl.sum(tl.where(running_C <= goal, 1, 0), 0), last_full)
        carry = tl.sum(tl.where(c < chosen, mass_C, 0.0), 0)
        hit = _NO_TOKEN
        final = -1
        per_temperature = 1 / temperature
        for first in range(chosen * chunk, tl.minimum((chosen + 1) * chunk, V), BLOCK):
            column = first + tl.arange(0, BLOCK)
            z = (_score(scores, seen, settings, q, s, column, V, PENALTY) - top) * per_temperature
            kept = (z >= threshold) & (column < V)
            # the same exp of the same z as in the search: the masses here add up to those there
            part = tl.where(kept, tl.exp(z), 0.0)
            passed = kept & (carry + tl.cumsum(part, 0) > goal)
            hit = tl.minimum(hit, tl.min(tl.where(passed, column, _NO_TOKEN), 0))
            final = tl.maximum(final, tl.max(tl.where(kept & (part > 0), column, -1), 0))
            carry += tl.sum(part, 0)
        token = tl.where(hit < _NO_TOKEN, hit, tl.maximum(final, 0))
        token = tl.where(tl.load(settings + s * _PARAMS + _TEMPERATURE) > 0, token, argmax)
        # after all else: what NaN made of the token above must not stand
        token = tl.where(sound, token, _BROKEN)
        ends = (token == eos) | (count + 1 >= tl.load(limit + s)) | (token < 0)
        tl.store(out + q, token)
        tl.store(next_token + s, tl.maximum(token, 0))
        # The next step reads these on the GPU, before the host has seen the token.
        tl.store(length + s, position + 1)
        tl.store(written + s, count + 1)
        tl.store(done + s, ends.to(tl.int32))
        if PENALTY:
            tl.store(seen + s.to(tl.int64) * V + tl.maximum(token, 0), 1)
