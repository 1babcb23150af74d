"""int8 and NF4 weights become bfloat16 in registers, many at a time, where the matrix unit wants them: what
`matmul_kernel.py` reads a weight by. The order of columns that this asks for is `tile.cuh`'s too
(docs/kernels/hopper-int8.md draws it).

int8 takes 7 instructions for four weights, NF4 21 for eight. Both give exactly what is stored, in bfloat16 (int8
without its scale, NF4 without its block scale; a number of NF4's table is rounded once). Shapes: tiles [BN outputs,
inputs] from row n and column k of [N, K]."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

import torch
import triton
import triton.language as tl

# Orders in which a row of activations keeps its columns, for the matmul that reads it (`mma_column_order`).
NATURAL_ORDER = 16  # as they are: for a weight of 16 bits, or one that is dequantised first
PAIR_ORDER = 4  # neighbours stay side by side: decoding's NF4, and training's int8 on a Hopper GPU
BYTE_ORDER = 8  # as the bytes of a word are unpacked: decoding's int8
_PAIR_ORDER, _BYTE_ORDER = tl.constexpr(PAIR_ORDER), tl.constexpr(BYTE_ORDER)  # what a kernel may read of a module

# What NF4's 16 codes stand for: the quantiles of a normal distribution that QLoRA (arXiv:2305.14314, appendix E) chose.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495,
    0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip


def _nf4_lookup() -> str:
    """PTX for the eight codes of a word ($8) as bfloat16 ($0 to $7, in the order of their columns).

    `prmt` picks four of eight bytes by four indices of three bits: a table of 16 numbers of two bytes is looked up for
    four codes by four of them, and the codes' fourth bits, spread to masks by a fifth, choose between its halves: 21
    instructions for eight codes."""
    numbers = torch.tensor(NF4, dtype=torch.float32).bfloat16().view(torch.int16).tolist()
    low, high = (bytes((number >> shift) & 255 for number in numbers) for shift in (0, 8))
    tables = {
        f"{name}{i}": whole[4 * i : 4 * i + 4][::-1].hex()
        for name, whole in (("low", low), ("high", high))
        for i in range(4)
    }
    # `index` are the three low bits of each code, `up` its fourth bit moved to the top of a byte, where prmt reads a sign
    lines = [f".reg .b32 index, up, mask, a, b, low, high, pair, {', '.join(tables)};"]
    lines += [f"mov.b32 {name}, 0x{value};" for name, value in tables.items()]
    lines += ["and.b32 index, $8, 0x77777777;", "shl.b32 up, $8, 4;"]
    # prmt takes four indices, so the word goes in two halves; with bit 3 of an index set it spreads the byte's sign
    for half, signs in enumerate(("0xD9C8", "0xFBEA")):
        lines += ["shr.u32 index, index, 16;"] * half + [f"prmt.b32 mask, up, $8, {signs};"]
        for name in ("low", "high"):
            lines += [f"prmt.b32 a, {name}0, {name}1, index;", f"prmt.b32 b, {name}2, {name}3, index;"]
            lines += [f"lop3.b32 {name}, mask, b, a, 0xCA;"]
        # of a byte's two codes the upper one is the earlier column
        for pair, picked in enumerate(("0x4051", "0x6273")):
            first = 4 * half + 2 * pair
            lines += [f"prmt.b32 pair, low, high, {picked};", f"mov.b32 {{${first}, ${first + 1}}}, pair;"]
    return "{" + " ".join(lines) + "}"


_NF4_LOOKUP = tl.constexpr(_nf4_lookup())


@triton.jit
def mma_column_order(column, ORDER: tl.constexpr):
    """Where a row of activations keeps its column, for the matmul with a quantised weight.

    Reference (PAIR_ORDER): x.view(T, -1, 4, 4, 2, 2)[..., j, s, h, p] is kept at [..., s, h, j, p]

    A thread reads codes of 16 columns at once, but the matrix unit wants of it, in each of four steps, two pairs of
    columns 8 apart. The sum does not mind in which order columns come, so they come as they are read: of 64 stored
    columns, number 16 j + 4 s + 2 p + h (BYTE_ORDER) or 16 j + 4 s + 2 h + p (PAIR_ORDER) is column 16 s + 8 h + 2 j +
    p of the unit's, and x is written so by the kernel that makes it. The second leaves neighbours side by side:
    training's matmuls with int8 take that one, for one instruction more."""
    # 16 columns a thread and four threads a row, so the order repeats every 64
    j, s = (column // 16) % 4, (column // 4) % 4  # the thread of four that reads it, and the step that it is used in
    if ORDER == _BYTE_ORDER:
        return column // 64 * 64 + 16 * s + 8 * (column % 2) + 2 * j + (column // 2) % 2
    if ORDER == _PAIR_ORDER:
        return column // 64 * 64 + 16 * s + 8 * ((column // 2) % 2) + 2 * j + column % 2
    return column


def in_stored_order(x: torch.Tensor, order: int) -> torch.Tensor:
    """Columns [..., K] where `mma_column_order` keeps them."""
    if order == NATURAL_ORDER:
        return x
    parts = x.reshape(*x.shape[:-1], -1, 4, 4, 2, 2)  # j, s, and h, p or p, h
    n = x.dim() - 1
    last = (n + 3, n + 1, n + 4) if order == PAIR_ORDER else (n + 4, n + 1, n + 3)
    return parts.permute(*range(n), n, n + 2, *last).reshape(x.shape)


@triton.jit
def natural_column(place, ORDER: tl.constexpr):
    """Which column is kept at a place: the inverse of `mma_column_order`, of NATURAL_ORDER and PAIR_ORDER."""
    tl.static_assert(ORDER != _BYTE_ORDER)
    if ORDER == _PAIR_ORDER:
        s, j = (place // 16) % 4, (place // 2) % 4
        return place // 64 * 64 + 16 * j + 4 * s + 2 * ((place // 8) % 2) + place % 2
    return place


@triton.jit
def to_mma_order(x, ORDER: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Columns [ROWS, COLUMNS] (from a multiple of 64 on) as they are kept, so that they can be written side by side."""
    # BYTE_ORDER parts neighbours: a permutation of pairs cannot make it
    tl.static_assert(ORDER != _BYTE_ORDER)
    if ORDER == _PAIR_ORDER:
        parts = tl.reshape(x, (ROWS, COLUMNS // 64, 4, 4, 2, 2))  # j, s, h, p
        return tl.reshape(tl.permute(parts, (0, 1, 3, 4, 2, 5)), (ROWS, COLUMNS))
    return x


@triton.jit
def unpack_int8x4(word, LIKE: tl.constexpr, ASM: tl.constexpr):
    """The four int8 codes of each word: bytes 0, 2, 1, 3.

    Reference: word.view(torch.int8).view(-1, 4)[:, [0, 2, 1, 3]].bfloat16()

    A code c has seven low bits u and a sign bit s, and c = (128 + u) - (128 + 128 s). In bfloat16 both are one bit
    operation away, two codes at a time (0x4300 is 128; its lowest exponent bit doubles it), and the difference is
    exact: 7 instructions for four codes."""
    if ASM:
        # lop3's 0xEA is (a & b) | c. 0xBF80BF80 is -1 twice, so the fma subtracts: sign * -1 + low.
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 odd, low, sign, pair, minus;
            mov.b32 minus, 0xBF80BF80;
            lop3.b32 low, $4, 0x007f007f, 0x43004300, 0xEA;
            lop3.b32 sign, $4, 0x00800080, 0x43004300, 0xEA;
            fma.rn.bf16x2 pair, sign, minus, low;
            mov.b32 {$0, $1}, pair;
            shr.u32 odd, $4, 8;
            lop3.b32 low, odd, 0x007f007f, 0x43004300, 0xEA;
            lop3.b32 sign, odd, 0x00800080, 0x43004300, 0xEA;
            fma.rn.bf16x2 pair, sign, minus, low;
            mov.b32 {$2, $3}, pair;
            }""",
            "=h,=h,=h,=h,r",
            [word],
            dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16),
            is_pure=True,
            pack=1,
        )
    # What any backend compiles, the interpreter too: shifts that bring a byte's sign along.
    return (
        ((word << 24) >> 24).to(LIKE),
        ((word << 8) >> 24).to(LIKE),
        ((word << 16) >> 24).to(LIKE),
        (word >> 24).to(LIKE),
    )


@triton.jit
def int8_tile(weight, n, k, K, LIKE: tl.constexpr, ASM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """A tile of an int8 weight [BN, BK], columns in BYTE_ORDER. `weight` is read four codes at a time.

    Reference: weight[n : n + BN, k : k + BK].bfloat16(), its columns where the matrix unit wants them"""
    # evict_first: a weight is read once a token, and what is in the L2 cache should be the activations
    # a row's length is a multiple of 64 codes: said, so that a thread loads 16 bytes at once
    words = tl.multiple_of(K // 4, 16)
    word = tl.load(
        weight + n[:, None] * words + (k // 4 + tl.arange(0, BK // 4))[None, :], eviction_policy="evict_first"
    )
    b0, b2, b1, b3 = unpack_int8x4(word, LIKE, ASM)
    # No number moves between threads here: reshape and permute only name the registers that a thread holds already.
    both = tl.reshape(tl.join(tl.join(b0, b2), tl.join(b1, b3)), (BN, BK // 64, 4, 4, 2, 2))  # 64 columns, j, s, p, h
    return tl.reshape(tl.permute(both, (0, 1, 3, 5, 2, 4)), (BN, BK))


@triton.jit
def unpack_nf4x8(word, table, LIKE: tl.constexpr, ASM: tl.constexpr):
    """The eight NF4 codes of each word as numbers, in the order of their columns: the upper half of a byte comes before
    the lower.

    Reference: table[torch.stack([word >> 4 & 15, word & 15, word >> 12 & 15, ...])]"""
    if ASM:
        # the table is in the instructions, as 8 constants of four bytes: nothing is loaded
        return tl.inline_asm_elementwise(
            _NF4_LOOKUP,
            "=h,=h,=h,=h,=h,=h,=h,=h,r",
            [word],
            dtype=(
                tl.bfloat16,
                tl.bfloat16,
                tl.bfloat16,
                tl.bfloat16,
                tl.bfloat16,
                tl.bfloat16,
                tl.bfloat16,
                tl.bfloat16,
            ),
            is_pure=True,
            pack=1,
        )
    c0, c1 = tl.load(table + ((word >> 4) & 15)).to(LIKE), tl.load(table + (word & 15)).to(LIKE)
    c2, c3 = tl.load(table + ((word >> 12) & 15)).to(LIKE), tl.load(table + ((word >> 8) & 15)).to(LIKE)
    c4, c5 = tl.load(table + ((word >> 20) & 15)).to(LIKE), tl.load(table + ((word >> 16) & 15)).to(LIKE)
    c6, c7 = tl.load(table + ((word >> 28) & 15)).to(LIKE), tl.load(table + ((word >> 24) & 15)).to(LIKE)
    return c0, c1, c2, c3, c4, c5, c6, c7


@triton.jit
def nf4_tile(weight, n, k, K, table, LIKE: tl.constexpr, ASM: tl.constexpr, BN: tl.constexpr):
    """A tile of 64 NF4 weights a row, without their block scale: [BN, 64], columns in PAIR_ORDER. `weight` is read eight
    codes at a time.

    Reference: table[codes[n : n + BN, k : k + 64]], its columns where the matrix unit wants them"""
    words = tl.multiple_of(K // 8, 8)  # as in `int8_tile`
    word = tl.load(weight + n[:, None] * words + (k // 8 + tl.arange(0, 8))[None, :], eviction_policy="evict_first")
    c0, c1, c2, c3, c4, c5, c6, c7 = unpack_nf4x8(word, table, LIKE, ASM)
    # join adds the last axis, so pairs are joined from the outermost bit of a column's number to the innermost
    even = tl.join(tl.join(c0, c4), tl.join(c2, c6))  # [s % 2, h]
    odd = tl.join(tl.join(c1, c5), tl.join(c3, c7))
    both = tl.reshape(tl.join(even, odd), (BN, 4, 2, 2, 2, 2))  # j, s // 2, s % 2, h, p
    return tl.reshape(tl.permute(both, (0, 2, 3, 4, 1, 5)), (BN, 64))
