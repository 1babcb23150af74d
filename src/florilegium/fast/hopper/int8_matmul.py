"""Matmuls with int8 weights as they are stored, on a Hopper GPU: what `int8_matmul.cu` makes, as functions of tensors
(docs/kernels/hopper-int8.md draws a tile).

    forward(x, weight)            x @ weight.float().T             without the int8 scale, which is the caller's
    forward_gelu, forward_slope   GELU of it and its slope, or the slope alone, on the way
    backward(y, weight)           y @ weight.float()
    backward_gelu                 and times GELU's slope on the way

Shapes: T tokens, N outputs and K inputs of the weight (multiples of 128), R the adapter's columns (a multiple of 8),
C the length of a sum and O its outputs: K and N forward, N and K backward."""

# ruff: noqa: E741, N803, N806

from __future__ import annotations

import functools
import os
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import torch

from florilegium.fast.compile_pool import CompilePool
from florilegium.fast.hopper.nvrtc import Kernel, compile_source, max_active_clusters, tensor_map
from florilegium.fast.hopper.tiling import Tiling, tiling
from florilegium.fast.unpack_kernel import NATURAL_ORDER, PAIR_ORDER

# multiprocessors that share what they fetch of x: less work for the L2 cache, and so less of the card's 700 W
CLUSTER = 2
SHARED = 232_448  # bytes of a multiprocessor that a program may have
THREADS = 384  # two warpgroups that multiply, and one of which a thread fetches and whose registers the others take

# What becomes of a tile's sums (EPILOGUE of `int8_matmul.cu`, which has the same names).
STORE, GELU, TIMES_SLOPE, SLOPE = 0, 1, 2, 3


class Variant(NamedTuple):
    """What a kernel is compiled for: the constants of `int8_matmul.cu`."""

    BACK: bool
    EPILOGUE: int = STORE
    ORDER: int = PAIR_ORDER  # of GELU's columns
    R: int = 0
    TOKENS: int = 256
    CLUSTER: int = 1

    @classmethod
    def forward(cls, R: int = 0) -> Variant:
        return cls(BACK=False, R=R)

    @classmethod
    def forward_gelu(cls, order: int, R: int = 0) -> Variant:
        return cls(BACK=False, EPILOGUE=GELU, ORDER=order, R=R)

    @classmethod
    def forward_slope(cls, R: int = 0) -> Variant:
        return cls(BACK=False, EPILOGUE=SLOPE, R=R)

    @classmethod
    def backward(cls) -> Variant:
        return cls(BACK=True)

    @classmethod
    def backward_gelu(cls) -> Variant:
        return cls(BACK=True, EPILOGUE=TIMES_SLOPE)

    @property
    def stages(self) -> int:
        """As many as fit beside the results of two warpgroups. A stage: 64 columns of x, 2 bytes each, for TOKENS
        tokens, and 64 rows of the weight for 128 outputs."""
        return min((SHARED - 2048 - 256 * self.TOKENS) // (128 * self.TOKENS + 8192), 8)

    @property
    def shared_bytes(self) -> int:
        """1,024 to begin at a multiple of that, as much at most for barriers."""
        return 2048 + self.stages * (128 * self.TOKENS + 8192) + 256 * self.TOKENS

    @property
    def source(self) -> str:
        """One C++ file: NVRTC has no folder to include from, and the constants stand before what reads them."""
        constants = {name: int(value) for name, value in self._asdict().items()} | {"STAGES": self.stages}
        lines = [f"constexpr int {name} = {value};" for name, value in constants.items()]
        files = [
            Path(__file__).with_name(name).read_text() for name in ("tile_schedule.cuh", "tile.cuh", "int8_matmul.cu")
        ]
        return "\n".join([Path(__file__).with_name("ptx.cuh").read_text(), *lines, _multiply(self.TOKENS), *files])


def _multiply(tokens: int) -> str:
    """The unit's instruction: 64 outputs by 16 rows of the sum from registers, those by the tokens from shared memory.

    Reference: acc += a @ x.T      acc [64, tokens] float32; a [64, 16], x [tokens, 16] bfloat16"""
    # It names each register of the sum, half as many a thread as tokens, so its text is made for the tile.
    n = tokens // 2
    sums, results = ", ".join(f"%{i}" for i in range(n)), ", ".join(f'"+f"(acc[{i}])' for i in range(n))
    # After the operands: scale of the sum (the predicate), signs of both operands, and whether x lies transposed.
    return f"""INSIDE void multiply(float (&acc)[{n}], u32 a0, u32 a1, u32 a2, u32 a3, u64 x, int adds) {{
    asm volatile("{{ .reg .pred adds; setp.ne.b32 adds, %{n + 5}, 0;\\n"
        "wgmma.mma_async.sync.aligned.m64n{tokens}k16.f32.bf16.bf16 {{{sums}}},"
        "{{%{n}, %{n + 1}, %{n + 2}, %{n + 3}}}, %{n + 4}, adds, 1, 1, 0; }}"
        : {results} : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(x), "r"(adds));
}}"""


# By constants, not by device: machine code is the same for every Hopper card.
_compiled: dict[Variant, Future[tuple[bytes, str]]] = {}


def _begin(variant: Variant) -> Future[tuple[bytes, str]]:
    if variant not in _compiled:
        _compiled[variant] = _compilers().submit(compile_source, variant.source)
    return _compiled[variant]


def _code(variant: Variant) -> tuple[bytes, str]:
    """Waits for it. What failed in its thread, for want of memory, say, is tried once more: much later, perhaps, by a
    step."""
    try:
        return _begin(variant).result()
    except RuntimeError:
        # A failed future would raise its old error for ever.
        del _compiled[variant]
        return compile_source(variant.source)


def cancel_pending_compiles() -> None:
    """What no thread has begun to compile is left: the interpreter would wait for all of it before it ends."""
    for variant, future in list(_compiled.items()):
        if future.cancel():
            del _compiled[variant]


@functools.cache
def _compilers() -> CompilePool:
    return CompilePool(min(8, os.cpu_count() or 1), "nvrtc")


@functools.cache
def _kernel(variant: Variant, device: torch.device) -> Kernel:
    code, _ = _code(variant)
    with torch.cuda.device(device):  # a module is loaded into the current device's context
        return Kernel(code, "wgmma_tiles", variant.shared_bytes)


def _processors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@functools.cache
def _programs(cluster: int, device: torch.device) -> int:
    """How many, each a cluster, run at a time. Never more are launched: they wait for one another (`gather`)."""
    return _processors(device) if cluster == 1 else max_active_clusters(cluster, THREADS, SHARED, device)


def forward(x_TC: torch.Tensor, weight_NK: torch.Tensor, lora_b_NR: torch.Tensor | None = None) -> torch.Tensor:
    """x weight^T [T, N] without the int8 scale. The first K columns of x are in PAIR_ORDER; with `lora_b_NR` (bfloat16)
    R more follow, in their own."""
    R = _lora_columns(x_TC, weight_NK, lora_b_NR)
    return _launch(Variant.forward(R), x_TC, weight_NK, lora_b=lora_b_NR)


def _lora_columns(x_TC: torch.Tensor, weight_NK: torch.Tensor, lora_b_NR: torch.Tensor | None) -> int:
    """R, of what was given."""
    R = 0 if lora_b_NR is None else lora_b_NR.shape[1]
    assert lora_b_NR is None or (R % 8 == 0 and lora_b_NR.is_contiguous() and lora_b_NR.dtype == torch.bfloat16)
    assert x_TC.shape[1] >= weight_NK.shape[1] + R
    return R


def forward_gelu(
    x_TC: torch.Tensor, weight_NK: torch.Tensor, scale_N: torch.Tensor, bias_N: torch.Tensor, out_TN: torch.Tensor, order: int,
    lora_b_NR: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """For raw = x weight^T [T, N] as in `forward`: gelu'(raw * scale + bias) * scale; `out_TN` (whose rows may lie
    further apart) gets gelu(raw * scale + bias) in `order` (PAIR_ORDER or NATURAL_ORDER). The scale is float32, the bias
    bfloat16."""
    assert order in (PAIR_ORDER, NATURAL_ORDER) and out_TN.shape == (len(x_TC), len(weight_NK))
    variant = Variant.forward_gelu(order, _lora_columns(x_TC, weight_NK, lora_b_NR))
    return _launch(variant, x_TC, weight_NK, lora_b=lora_b_NR, gelu=(scale_N, bias_N), beside=out_TN)


def forward_slope(
    x_TC: torch.Tensor, weight_NK: torch.Tensor, scale_N: torch.Tensor, bias_N: torch.Tensor, lora_b_NR: torch.Tensor | None = None
) -> torch.Tensor:  # fmt: skip
    """What `forward_gelu` returns, to the last bit."""
    variant = Variant.forward_slope(_lora_columns(x_TC, weight_NK, lora_b_NR))
    return _launch(variant, x_TC, weight_NK, lora_b=lora_b_NR, gelu=(scale_N, bias_N))


def backward(y_TN: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
    """y weight [T, K]."""
    return _launch(Variant.backward(), y_TN, weight_NK)


def backward_gelu(y_TN: torch.Tensor, weight_NK: torch.Tensor, slope_TK: torch.Tensor) -> torch.Tensor:
    """y weight * slope: the gradient of the raw product that this weight's input came from."""
    assert slope_TK.shape == (len(y_TN), weight_NK.shape[1]) and slope_TK.is_contiguous()
    return _launch(Variant.backward_gelu(), y_TN, weight_NK, beside=slope_TK)


def _launch(
    variant: Variant,
    x: torch.Tensor,
    weight_NK: torch.Tensor,
    *,
    lora_b: torch.Tensor | None = None,
    gelu: tuple[torch.Tensor, torch.Tensor] | None = None,
    beside: torch.Tensor | None = None,
) -> torch.Tensor:
    """`beside` is what a kernel reads or writes beside its result: a slope, or GELU's value."""
    (N, K), T = weight_NK.shape, len(x)
    C, O = (N, K) if variant.BACK else (K, N)
    assert N % 128 == K % 128 == 0 and weight_NK.dtype == torch.int8 and weight_NK.is_contiguous()
    # the copy engine wants rows that begin at multiples of 16 bytes
    assert x.dtype == torch.bfloat16 and x.stride(1) == 1 and x.stride(0) % 8 == 0 and x.shape[1] >= C
    assert gelu is None or (gelu[0].dtype == torch.float32 and gelu[1].dtype == torch.bfloat16)
    variant, (tokens, programs, shared) = _tiled(variant, T, N, K, x.device)
    out = x.new_empty(T, O)
    # what is not used is given as another tensor of the right kind: the kernel follows no such pointer
    beside, (scale, bias) = out if beside is None else beside, gelu or (out, out)
    # the last tile may reach beyond T: the copy engine reads zeros there, and writes nothing
    tiles_t = -(-T // tokens)
    _kernel(variant, x.device)(
        programs * variant.CLUSTER, THREADS, tensor_map(x, tokens // variant.CLUSTER, 64),
        tensor_map(weight_NK, *((64, 128) if variant.BACK else (128, 64))), tensor_map(out, tokens // 2, 64),
        tensor_map(beside, tokens // 2, 64), out if lora_b is None else lora_b, scale, bias, *_partial_sums(x.device), C // 128,
        shared, tiles_t, tiles_t * (O // (128 * variant.CLUSTER)),
    )  # fmt: skip
    return out


def compile_in_background(variant: Variant, T: int, N: int, K: int, device: torch.device) -> None:
    """Has the kernel that such a matmul on T tokens needs compiled by a thread of its own."""
    _begin(_tiled(variant, T, N, K, device)[0])


def _tiled(variant: Variant, T: int, N: int, K: int, device: torch.device) -> tuple[Variant, Tiling]:
    C, O = (N, K) if variant.BACK else (K, N)
    # a card with no cluster that fits, or an odd number of output tiles: each multiprocessor for itself
    cluster = CLUSTER if O % (128 * CLUSTER) == 0 and _programs(CLUSTER, device) else 1
    # Only plain sums are shared: GELU needs a whole one.
    found = tiling(T, O // (128 * cluster), C // 128, _programs(cluster, device), sharing=variant.EPILOGUE == STORE)
    return variant._replace(TOKENS=found.tokens, CLUSTER=cluster), found


@functools.cache
def _partial_sums(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Where programs leave parts of tiles for one another, and their flags, which are down between launches. One stream
    at a time: two launches at once would read each other's parts."""
    number = _processors(device)
    return torch.empty(number, 128 * 256, dtype=torch.float32, device=device), torch.zeros(
        2 * number, dtype=torch.int32, device=device
    )
