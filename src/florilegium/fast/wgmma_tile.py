"""What the threads of `wgmma_kernel.py` do with a tile of 128 outputs: codes become the matrix unit's operand, sums become results.

A thread holds the codes that the unit wants of it without a word to its neighbours: for the way there because x lies in `lane_order`
(`codes_kernel.py`), for the way home because it reads pairs of codes along K. Gluon is Triton's lower floor, where who holds what is
written down. Shapes: tiles [128 outputs, 256 tokens]; T tokens, R the adapter's columns.
"""

# ruff: noqa: E741, N803, N806
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return,arg-type,attr-defined"

from __future__ import annotations

import math
import struct

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

# Newer Tritons have other names for these two: a barrier of all warps, and the copy engine's copy of a box to memory.
meet = getattr(gl, "barrier", None) or gl.thread_barrier
put = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global

# Who holds what. A warp has 16 rows of the unit's 64 x 16 operand, of which r and r + 8 lie with the lanes 4 r + j (j from 0 to 3). Both
# tables give them neighbouring outputs, 2 r and 2 r + 1, so that a thread's results are pairs in memory.
# [128 outputs, 16 words of four codes]: a thread reads 16 codes of two rows.
WORDS = gl.constexpr(
    gl.DistributedLinearLayout(
        [[0, 1], [0, 2], [1, 0]], [[0, 4], [0, 8], [2, 0], [4, 0], [8, 0]], [[16, 0], [32, 0], [64, 0]], [], [128, 16]
    )
)
# [64 of the summed rows, 64 pairs of codes]: a thread reads a pair of each of 16 rows, two neighbours at a time.
PAIRS = gl.constexpr(
    gl.DistributedLinearLayout(
        [[1, 0], [8, 0], [16, 0], [32, 0]], [[2, 0], [4, 0], [0, 1], [0, 2], [0, 4]], [[0, 8], [0, 16], [0, 32]], [], [64, 64]
    )
)
# The unit's own layouts, of a tile's sums and of its first operand: each of eight warps has 16 outputs.
SUMS = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[8, 1], instr_shape=[16, 256, 16]))
FIRST = gl.constexpr(gl.DotOperandLayout(0, SUMS.value, 2))
# A tile's results [128 outputs, 256 tokens]: a thread has two neighbouring outputs of two neighbouring tokens, and of those 8, 16, ... on.
TOKENS = gl.constexpr(256)
TILE = gl.constexpr(
    gl.DistributedLinearLayout(
        [[1, 0], [0, 1], [0, 8], [0, 16], [0, 32], [0, 64], [0, 128]], [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]],
        [[16, 0], [32, 0], [64, 0]], [], [128, 256],
    )
)  # fmt: skip
# Four codes of a word as bfloat16: `codes_kernel._four` tells how. The first form gives bytes 0 to 3 one by one; the second takes a word of
# two rows' pairs and gives bytes 0 and 2, and 1 and 3, side by side.
FOUR = """{
    .reg .b32 word, odd, low, sign, pair, minus;
    mov.b32 minus, 0xBF80BF80;
    prmt.b32 word, $4, 0, 0x3120;
    lop3.b32 low, word, 0x007f007f, 0x43004300, 0xEA;
    lop3.b32 sign, word, 0x00800080, 0x43004300, 0xEA;
    fma.rn.bf16x2 pair, sign, minus, low;
    mov.b32 {$0, $1}, pair;
    shr.u32 odd, word, 8;
    lop3.b32 low, odd, 0x007f007f, 0x43004300, 0xEA;
    lop3.b32 sign, odd, 0x00800080, 0x43004300, 0xEA;
    fma.rn.bf16x2 pair, sign, minus, low;
    mov.b32 {$2, $3}, pair;
}"""
TWO = """{
    .reg .b32 odd, low, sign, minus;
    mov.b32 minus, 0xBF80BF80;
    lop3.b32 low, $2, 0x007f007f, 0x43004300, 0xEA;
    lop3.b32 sign, $2, 0x00800080, 0x43004300, 0xEA;
    fma.rn.bf16x2 $0, sign, minus, low;
    shr.u32 odd, $2, 8;
    lop3.b32 low, odd, 0x007f007f, 0x43004300, 0xEA;
    lop3.b32 sign, odd, 0x00800080, 0x43004300, 0xEA;
    fma.rn.bf16x2 $1, sign, minus, low;
}"""
FOUR, TWO = gl.constexpr(FOUR), gl.constexpr(TWO)


def _of_pairs(*ends: str) -> str:
    """PTX for two neighbours at a time: $0 the result and $1 the raw products, both pairs of bfloat16; scales $2 and $3, biases $4 and $5,
    sums $6 and $7. x = raw * scale + bias, r = (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3), so that gelu(x) = x r; `ends` go
    on from there to y.

    While a tile's numbers pass here, 128 a thread, the matrix unit waits, so there are few instructions and only one for the slow unit:
    its tanh is off by up to 2^-11, a quarter of what rounding to bfloat16 is."""
    each = [
        "fma.rn.f32 x{i}, x{i}, {scale}, {bias};", "mul.f32 s{i}, x{i}, x{i};",
        f"fma.rn.f32 u{{i}}, s{{i}}, {_float(ROOT * 0.044715)}, {_float(ROOT)};", "mul.f32 u{i}, u{i}, x{i};",
        "tanh.approx.f32 u{i}, u{i};", "fma.rn.f32 r{i}, u{i}, 0f3F000000, 0f3F000000;", *ends,
    ]  # fmt: skip
    lines = [".reg .f32 x0, x1, s0, s1, u0, u1, r0, r1, y0, y1;", "shl.b32 x0, $1, 16;", "and.b32 x1, $1, 0xFFFF0000;"]
    for i in (0, 1):
        lines += [line.format(i=i, scale=f"${2 + i}", bias=f"${4 + i}", sum=f"${6 + i}") for line in each]
    return "{ " + " ".join([*lines, "cvt.rn.bf16x2.f32 $0, y1, y0;"]) + " }"


def _float(number: float) -> str:
    return "0f" + struct.pack(">f", number).hex().upper()


ROOT = math.sqrt(2 / math.pi)
GELU = gl.constexpr(_of_pairs("mul.f32 y{i}, x{i}, r{i};"))
# The sum times the scale times gelu'(x) = r + 2 (r - r^2) x u'(x).
SLOPE = gl.constexpr(
    _of_pairs(
        f"fma.rn.f32 u{{i}}, s{{i}}, {_float(2 * ROOT * 3 * 0.044715)}, {_float(2 * ROOT)};", "mul.f32 u{i}, u{i}, x{i};",
        "neg.f32 s{i}, r{i};", "fma.rn.f32 s{i}, s{i}, r{i}, r{i};", "fma.rn.f32 u{i}, s{i}, u{i}, r{i};",
        "mul.f32 y{i}, {sum}, {scale};", "mul.f32 y{i}, y{i}, u{i};",
    )
)  # fmt: skip


@gluon.jit
def operand(stage, BACK: gl.constexpr):
    """A stage's codes as the unit's first operand [128 outputs, 64], in registers."""
    if BACK:
        even, odd = gl.inline_asm_elementwise(TWO, "=r,=r,r", [stage.load(PAIRS)], dtype=(gl.bfloat16, gl.bfloat16), is_pure=True, pack=2)
        wide = gl.join(even, odd).reshape([64, 8, 8, 2]).permute([1, 3, 2, 0])  # warp, which of two, r
    else:
        b0, b1, b2, b3 = gl.inline_asm_elementwise(
            FOUR, "=h,=h,=h,=h,r", [stage.load(WORDS)],
            dtype=(gl.bfloat16, gl.bfloat16, gl.bfloat16, gl.bfloat16), is_pure=True, pack=1,
        )  # fmt: skip
        both = gl.join(gl.join(b0, b2), gl.join(b1, b3)).reshape([8, 8, 2, 4, 4, 2, 2])  # warp, r, which of two; j, s, h, p of lane_order
        wide = both.permute([0, 2, 1, 4, 5, 3, 6])
    return gl.convert_layout(wide.reshape([128, 64]), FIRST)


@gluon.jit
def adapter_operand(adapter, o, r, R: gl.constexpr):
    """64 of the adapter's columns as the first operand."""
    row = gl.arange(0, 128, layout=gl.SliceLayout(1, FIRST))
    row = o + row // 16 * 16 + row % 8 * 2 + row // 8 % 2
    column = r + gl.arange(0, 64, layout=gl.SliceLayout(0, FIRST))
    return gl.load(adapter + row[:, None] * R + column[None, :], mask=(column < R)[None, :], other=0.0)


@gluon.jit
def _send(y, staged, to, t, o):
    """A tile [outputs, tokens] to memory; the copy engine is left to it."""
    staged.permute((1, 0)).store(y)
    fence_async_shared()
    meet()
    put(to, [t, o], staged)


@gluon.jit
def of_outputs(scale, bias, o, KIND: gl.constexpr):
    """Scales and biases of a tile's outputs, which KIND 0 has no use for: asked for before its sums are done."""
    n = o + gl.arange(0, 128, layout=gl.SliceLayout(1, TILE))
    return gl.load(scale + n, mask=KIND != 0, other=0.0), gl.load(bias + n, mask=KIND != 0, other=0.0).to(gl.float32)


@gluon.jit
def finish(acc, staged, out, beside, scale, bias, t, o, arrived, phase, KIND: gl.constexpr, FORM: gl.constexpr):
    """What becomes of a tile's sums. KIND 0: they are written. 1: so they are, and `beside` gets gelu(sum * scale + bias), in the lane
    order of FORM. 2: they are multiplied by gelu'(raw * scale + bias) * scale, raw being a tile of `beside` that has been asked for."""
    y = gl.convert_layout(acc.reshape([8, 2, 8, TOKENS]).permute([0, 2, 1, 3]).reshape([128, TOKENS]), TILE)
    if KIND == 2:
        mbarrier.wait(arrived, phase)
        raw = staged.permute((1, 0)).load(TILE)
        y = gl.inline_asm_elementwise(
            SLOPE, "=r,r,f,f,f,f,f,f", [raw, scale[:, None], bias[:, None], y], dtype=gl.bfloat16, is_pure=True, pack=2
        )
    else:
        tma.store_wait(0)
        meet()
        y = y.to(gl.bfloat16)
    _send(y, staged, out, t, o)
    if KIND == 1:  # while the copy engine reads the raw products
        active = gl.inline_asm_elementwise(
            GELU, "=r,r,f,f,f,f", [y, scale[:, None], bias[:, None]], dtype=gl.bfloat16, is_pure=True, pack=2
        )
        if FORM == 4:  # j, s, h, p of lane_order
            active = active.reshape([2, 4, 4, 2, 2, TOKENS]).permute([0, 2, 3, 1, 4, 5]).reshape([128, TOKENS])
        tma.store_wait(0)
        meet()
        _send(active, staged, beside, t, o)


@gluon.jit
def _parts(parts, of):
    """Where program `of` leaves a part of a tile's sums [128, TOKENS] for another: neighbouring lanes side by side."""
    row = gl.arange(0, 128, layout=gl.SliceLayout(1, SUMS))
    column = gl.arange(0, TOKENS, layout=gl.SliceLayout(0, SUMS))
    place = (row % 8 * 8 + row // 16 * 64 + row // 8 % 2 * 512)[:, None] + (column % 8 + column // 8 * 1024)[None, :]
    return parts + of * (128 * TOKENS) + place


@gluon.jit
def leave(acc, parts, flags):
    me = gl.program_id(0)
    gl.store(_parts(parts, me), acc)
    meet()
    gl.atomic_xchg(flags + me, 1, sem="release", scope="gpu")


@gluon.jit
def gather(acc, tile, parts, flags, shared, units):
    """Adds what the programs before this one made of the tile, in their order."""
    me, programs = gl.program_id(0), gl.num_programs(0)
    first = ((tile * units + 1) * programs - 1) // (shared * units)  # whose share holds the tile's first unit
    for of in range(first, me):
        while gl.atomic_add(flags + of, 0, sem="acquire", scope="gpu") == 0:
            pass
        acc += gl.load(_parts(parts, of), cache_modifier=".cg")
        meet()
        gl.atomic_xchg(flags + of, 0, sem="relaxed", scope="gpu")
    return acc
