"""Training's products on a Hopper GPU, with a frozen weight that is read as it is stored: int8 codes, never made wide in memory.

    forward     out[t, n] = sum_k x[t, k] * codes[n, k]  (+ sum_r x[t, K + r] * adapter[n, r])      x in `lane_order`
    backward    out[t, k] = sum_n y[t, n] * codes[n, k]

Making a weight wide moves 3 bytes for each of its numbers, a fifth of a step on 16 quotes. Here codes become bfloat16 in registers, 8
instructions for four, while the matrix unit works on those before: of its two operands one may come from registers, and so it computes
out^T = codes x^T. The unit always has the next 64 rows of the sum waiting (two sets of registers take turns), and the copy engine fetches
codes and activations ahead, over the border of tiles too. 1,024 tokens of bloom-7b1 take what cuBLAS takes for a weight that is wide
already.

A program makes tiles of 128 outputs for 256 tokens, one after the other; what it does with one is in `wgmma_tile.py`. Shapes: T
tokens, O outputs, C = 128 * units rows of the sum, R the adapter's columns.
"""

# ruff: noqa: E741, N803, N806
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return,arg-type,attr-defined"

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from florilegium.fast.wgmma_tile import FIRST, SUMS, TOKENS, adapter_operand, finish, gather, leave, meet, of_outputs, operand

copy = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared  # the copy engine's, of a box; newer Tritons call it the first


@gluon.jit
def _place(tile, tiles_t, tiles_o):
    """The first token and output of a tile. Tiles that are at work together share 8 tiles of tokens, so that those stay in the L2 cache."""
    group = tile // (8 * tiles_o) * 8
    inside = tile % (8 * tiles_o)
    size = gl.maximum(gl.minimum(tiles_t - group, 8), 1)  # there may be no such tile
    return (group + inside % size) * TOKENS, inside // size * 128


@gluon.jit
def _piece(number, shared, units, tiles):
    """A program's piece of work `number`: its tile, and the part of the sum that it makes, from which to which of its `units` of 128 rows.
    The first `shared` tiles are cut among all programs evenly, the rest is made tile by tile. A program begins with the end of its share:
    of a tile that several programs make the last one puts the parts together, and those before it made theirs first."""
    me, programs = gl.program_id(0), gl.num_programs(0)
    first = me * (shared * units) // programs
    last = (me + 1) * (shared * units) // programs
    top = (last - 1) // units
    cut = top - first // units + 1 if shared > 0 else 0
    tile = top - number
    begin = gl.maximum(first - tile * units, 0)
    end = gl.minimum(last - tile * units, units)
    if number >= cut:
        tile = shared + me + (number - cut) * programs
        begin = 0
        end = units
    return tile, begin, end


@gluon.jit
def _begin(piece, work, R: gl.constexpr):
    """A piece's tile, its first token and output, and where its sum begins and ends. The adapter's columns follow the last of C."""
    units, shared, tiles_t, tiles = work
    tile, begin, end = _piece(piece, shared, units, tiles)
    t, o = _place(tile, tiles_t, tiles // tiles_t)
    more: gl.constexpr = (R + 63) // 64 * 64
    return piece, tile, t, o, begin * 128, end * 128 + (more if end == units else 0)


@gluon.jit
def _fetch(memory, ahead, number, work, BACK: gl.constexpr, R: gl.constexpr):
    """Asks the copy engine for the next 64 rows of a sum, this program's stage `number`. What lies beyond a tensor comes as zeros. Returns
    what is to be asked for then: `ahead` is what `_begin` gives, its sum begun at the fifth."""
    x, codes, xs, stages, full = memory
    piece, tile, t, o, k, end = ahead
    slot = number % xs.shape[0]
    bar = full.index(slot)
    there = tile < work[3]
    mbarrier.expect(bar, 64 * (2 * TOKENS + 128), pred=there)
    copy(x, [t, k], bar, xs.index(slot), pred=there)
    if BACK:
        copy(codes, [k, o // 2], bar, stages.index(slot), pred=there)
    else:
        copy(codes, [o, k // 4], bar, stages.index(slot), pred=there)
    k += 64
    if k == end:
        piece, tile, t, o, k, end = _begin(piece + 1, work, R)
    return piece, tile, t, o, k, end


@gluon.jit
def _wait(memory, number):
    """The place of stage `number`, which has arrived."""
    slot = number % memory[2].shape[0]
    mbarrier.wait(memory[4].index(slot), number // memory[2].shape[0] & 1)
    return slot


@gluon.jit
def _multiply(acc, before, first, memory, ahead, number, work, BACK: gl.constexpr, R: gl.constexpr):
    """Queues the product of `first` with stage `number`, waits for the product `before` it, whose registers are free then, and has that
    one's stage filled anew."""
    depth: gl.constexpr = memory[2].shape[0]
    acc = warpgroup_mma(first, memory[2].index(number % depth).permute((1, 0)), acc, is_async=True)
    acc, before = warpgroup_mma_wait(1, deps=[acc, before])
    meet()
    return acc, _fetch(memory, ahead, number + depth - 1, work, BACK, R)


@gluon.jit(do_not_specialize=["units", "shared", "tiles_t", "tiles"])  # one kernel for all lengths
def wgmma_tiles(
    x, codes, adapter, out, beside, scale, bias, parts, flags, units, shared, tiles_t, tiles,
    BACK: gl.constexpr, KIND: gl.constexpr, FORM: gl.constexpr, R: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """out [T, O] = x [T, C] times codes. See `_piece` for the order of work, `finish` for KIND."""
    xs = gl.allocate_shared_memory(gl.bfloat16, [STAGES, TOKENS, 64], x.layout)
    stages = gl.allocate_shared_memory(codes.dtype, [STAGES, 64 if BACK else 128, 64 if BACK else 16], codes.layout)
    staged = gl.allocate_shared_memory(gl.bfloat16, [TOKENS, 128], out.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES + 1, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES + 1):
        mbarrier.init(full.index(stage), count=1)
    arrived = full.index(STAGES)
    fence_async_shared()
    meet()
    memory = (x, codes, xs, stages, full)
    work = (units, shared, tiles_t, tiles)
    ahead = _begin(0, work, R)
    for stage in gl.static_range(STAGES - 1):
        ahead = _fetch(memory, ahead, stage, work, BACK, R)
    number, piece, phase = 0, 0, 0
    tile, begin, end = _piece(0, shared, units, tiles)
    while tile < tiles:
        t, o = _place(tile, tiles_t, tiles // tiles_t)
        if KIND == 2:
            tma.store_wait(0)
            meet()
            mbarrier.expect(arrived, 256 * TOKENS)
            copy(beside, [t, o], arrived, staged)
        acc = gl.zeros([128, TOKENS], gl.float32, SUMS)
        odd = gl.zeros([128, 64], gl.bfloat16, FIRST)
        for _ in range(begin, end):
            even = operand(stages.index(_wait(memory, number)), BACK)
            acc, ahead = _multiply(acc, odd, even, memory, ahead, number, work, BACK, R)
            odd = operand(stages.index(_wait(memory, number + 1)), BACK)
            acc, ahead = _multiply(acc, even, odd, memory, ahead, number + 1, work, BACK, R)
            number += 2
        if R > 0:  # noqa: SIM102  # known when it is compiled
            if end == units:
                for r in gl.static_range(0, R, 64):
                    _wait(memory, number)
                    even = adapter_operand(adapter, o, r, R)
                    acc, ahead = _multiply(acc, odd, even, memory, ahead, number, work, BACK, R)
                    odd = even
                    number += 1
        by, plus = of_outputs(scale, bias, o, KIND)
        acc, odd = warpgroup_mma_wait(0, deps=[acc, odd])
        if KIND == 0:  # the other kinds have no registers left for parts of tiles
            if end < units:
                leave(acc, parts, flags)
            else:
                if begin > 0:
                    acc = gather(acc, tile, parts, flags, shared, units)
                finish(acc, staged, out, beside, by, plus, t, o, arrived, phase, KIND, FORM)
        else:
            finish(acc, staged, out, beside, by, plus, t, o, arrived, phase, KIND, FORM)
        phase ^= 1
        piece += 1
        tile, begin, end = _piece(piece, shared, units, tiles)
    tma.store_wait(0)
