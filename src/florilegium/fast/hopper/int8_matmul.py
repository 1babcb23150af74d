"""Products with int8 codes as they are stored: what `int8_matmul.cu` makes, as functions of tensors.

Shapes: T tokens, N outputs and K inputs of the weight (multiples of 128), R the adapter's columns (a multiple of 8).
"""

# ruff: noqa: E741, N803, N806

from __future__ import annotations

import functools
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from florilegium.fast.hopper.nvrtc import Kernel, boxes, clusters_at_a_time, compiled

# multiprocessors that share what they fetch of x: less work for the L2 cache, and so less of the card's 700 W
CLUSTER = 2
TOKENS = (64, 96, 128, 160, 192, 224, 256)  # that a tile may hold
CACHED = 50_000_000  # bytes: the L2 cache of an H100
SHARED = 232_448  # bytes of a multiprocessor that a program may have
THREADS = 384  # two warpgroups that multiply, and one of which a thread fetches and whose registers the others take


class Variant(NamedTuple):
    """What a kernel is compiled for: the constants of `int8_matmul.cu`."""

    BACK: bool
    KIND: int = 0
    FORM: int = 4
    R: int = 0
    TOKENS: int = 256
    CLUSTER: int = 1

    @property
    def stages(self) -> int:
        return min((SHARED - 2048 - 256 * self.TOKENS) // (128 * self.TOKENS + 8192), 8)

    @property
    def shared_bytes(self) -> int:
        """1,024 to begin at a multiple of that, as much at most for barriers."""
        return 2048 + self.stages * (128 * self.TOKENS + 8192) + 256 * self.TOKENS

    @property
    def source(self) -> str:
        constants = {name: int(value) for name, value in self._asdict().items()} | {"STAGES": self.stages}
        lines = [f"constexpr int {name} = {value};" for name, value in constants.items()]
        files = [
            Path(__file__).with_name(name).read_text() for name in ("tile_schedule.cuh", "tile.cuh", "int8_matmul.cu")
        ]
        return "\n".join([Path(__file__).with_name("ptx.cuh").read_text(), *lines, _multiply(self.TOKENS), *files])


def _multiply(tokens: int) -> str:
    """The unit's instruction: 64 outputs by 16 rows of the sum from registers, those by the tokens from shared
    memory."""
    n = tokens // 2
    sums, results = ", ".join(f"%{i}" for i in range(n)), ", ".join(f'"+f"(acc[{i}])' for i in range(n))
    return f"""INSIDE void multiply(float (&acc)[{n}], u32 a0, u32 a1, u32 a2, u32 a3, u64 x, int adds) {{
    asm volatile("{{ .reg .pred adds; setp.ne.b32 adds, %{n + 5}, 0;\\n"
        "wgmma.mma_async.sync.aligned.m64n{tokens}k16.f32.bf16.bf16 {{{sums}}},"
        "{{%{n}, %{n + 1}, %{n + 2}, %{n + 3}}}, %{n + 4}, adds, 1, 1, 0; }}"
        : {results} : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(x), "r"(adds));
}}"""


_codes: dict[Variant, Future[tuple[bytes, str]]] = {}


def _begin(variant: Variant) -> Future[tuple[bytes, str]]:
    if variant not in _codes:
        _codes[variant] = _compilers().submit(compiled, variant.source)
    return _codes[variant]


def _code(variant: Variant) -> tuple[bytes, str]:
    """Waits for it. What failed in its thread, for want of memory, say, is tried once more: much later, perhaps, by a
    step."""
    try:
        return _begin(variant).result()
    except RuntimeError:
        del _codes[variant]
        return compiled(variant.source)


def leave_compiling() -> None:
    """What no thread has begun to compile is left: the interpreter would wait for all of it before it ends."""
    for variant, future in list(_codes.items()):
        if future.cancel():
            del _codes[variant]


@functools.cache
def _compilers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), "nvrtc")


@functools.cache
def _kernel(variant: Variant, device: torch.device) -> Kernel:
    code, _ = _code(variant)
    with torch.cuda.device(device):
        return Kernel(code, "wgmma_tiles", variant.shared_bytes)


def _processors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@functools.cache
def _programs(cluster: int, device: torch.device) -> int:
    """How many, each a cluster, run at a time."""
    return _processors(device) if cluster == 1 else clusters_at_a_time(cluster, THREADS, SHARED, device)


def forward(x_TC: torch.Tensor, codes_NK: torch.Tensor, adapter_NR: torch.Tensor | None = None) -> torch.Tensor:
    """x codes^T [T, N] without the codes' scale. The first K columns of x are in the `lane_order` of form 4; with
    `adapter_NR` (bfloat16) R more follow, in their own."""
    return _launch(
        Variant(False, R=0 if adapter_NR is None else adapter_NR.shape[1]), x_TC, codes_NK, adapter=adapter_NR
    )[0]


def forward_gelu(
    x_TK: torch.Tensor, codes_NK: torch.Tensor, scale_N: torch.Tensor, bias_N: torch.Tensor, form: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """For raw = x codes^T [T, N]: gelu'(raw * scale + bias) * scale, and gelu(raw * scale + bias) in the `lane_order`
    of `form` (4 or 16). The scale is float32, the bias bfloat16."""
    return _launch(Variant(False, KIND=1, FORM=form), x_TK, codes_NK, gelu=(scale_N, bias_N))


def forward_slope(
    x_TK: torch.Tensor, codes_NK: torch.Tensor, scale_N: torch.Tensor, bias_N: torch.Tensor
) -> torch.Tensor:
    """The first of `forward_gelu`, to the last bit."""
    return _launch(Variant(False, KIND=3), x_TK, codes_NK, gelu=(scale_N, bias_N))[0]


def backward(y_TN: torch.Tensor, codes_NK: torch.Tensor) -> torch.Tensor:
    """y codes [T, K]."""
    return _launch(Variant(True), y_TN, codes_NK)[0]


def backward_gelu(y_TN: torch.Tensor, codes_NK: torch.Tensor, slope_TK: torch.Tensor) -> torch.Tensor:
    """y codes * slope: the gradient of the raw product that this weight's input came from."""
    return _launch(Variant(True, KIND=2), y_TN, codes_NK, slope=slope_TK)[0]


def _launch(
    variant: Variant,
    x: torch.Tensor,
    codes_NK: torch.Tensor,
    *,
    adapter: torch.Tensor | None = None,
    gelu: tuple[torch.Tensor, torch.Tensor] | None = None,
    slope: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    (N, K), T = codes_NK.shape, len(x)
    C, O = (N, K) if variant.BACK else (K, N)
    variant, (tokens, programs, shared) = _tiled(variant, T, N, K, x.device)
    out = x.new_empty(T, O)
    beside = slope if slope is not None else torch.empty_like(out) if variant.KIND == 1 else out
    scale, bias = gelu or (out, out)
    tiles_t = -(-T // tokens)
    _kernel(variant, x.device)(
        programs * variant.CLUSTER, THREADS, boxes(x, tokens // variant.CLUSTER, 64),
        boxes(codes_NK, *((64, 128) if variant.BACK else (128, 64))), boxes(out, tokens // 2, 64), boxes(beside, tokens // 2, 64),
        out if adapter is None else adapter, scale, bias, *_parts_of(x.device), C // 128, shared, tiles_t,
        tiles_t * (O // (128 * variant.CLUSTER)),
    )  # fmt: skip
    return out, beside


def compile_soon(variant: Variant, T: int, N: int, K: int, device: torch.device) -> None:
    """Has the kernel that such a product on T tokens needs compiled by a thread of its own."""
    _begin(_tiled(variant, T, N, K, device)[0])


def _tiled(variant: Variant, T: int, N: int, K: int, device: torch.device) -> tuple[Variant, Tiling]:
    C, O = (N, K) if variant.BACK else (K, N)
    cluster = CLUSTER if O % (128 * CLUSTER) == 0 and _programs(CLUSTER, device) else 1
    found = tiling(T, O // (128 * cluster), C // 128, _programs(cluster, device), sharing=variant.KIND == 0)
    return variant._replace(TOKENS=found.tokens, CLUSTER=cluster), found


class Tiling(NamedTuple):
    """Tiles for `tokens` tokens, `programs` that make them, each of a multiprocessor or a cluster, and how many all
    programs share."""

    tokens: int
    programs: int
    shared: int


@functools.cache
def tiling(T: int, tiles_o: int, units: int, most: int, sharing: bool) -> Tiling:
    """The fastest for `tiles_o` tiles of outputs and `most` programs at a time, by a count that chooses within 1% of
    the fastest measured (three widths, 256 to 8,192 tokens): a unit of 128 rows of a tile's sum takes what 30 tokens
    more would, and to share tiles takes 6 units. So 640 tokens are four times 160."""

    def cost(choice: Tiling) -> float:
        tiles = -(-T // choice.tokens) * tiles_o
        rounds = tiles / choice.programs if choice.shared else -(-tiles // choice.programs)
        return (rounds * units + 6 * bool(choice.shared)) * (30 + choice.tokens)

    choices = [shares(T, tokens, tiles_o, units, most) for tokens in TOKENS] if sharing else []
    choices += [Tiling(tokens, min(-(-T // tokens) * tiles_o, most), 0) for tokens in TOKENS]
    return min(choices, key=cost)


def shares(T: int, tokens: int, tiles_o: int, units: int, most: int) -> Tiling:
    """How many tiles are shared evenly, each being cut along its sum: where the last round of tiles would leave many
    programs idle, that round and the one before it. Where there are fewer tiles than programs, none makes less than 8
    units (1,024 rows). Programs that share are at different places of the sum, so they do where what they read of x
    lies in the L2 cache."""
    tiles = -(-T // tokens) * tiles_o
    rounds, rest = divmod(tiles, most)
    # 8 tiles of tokens are at work together
    if rest == 0 or rest > 0.9 * most or min(T, 8 * tokens) * units * 256 > CACHED:
        return Tiling(tokens, min(tiles, most), 0)
    shared = rest + (most if rounds else 0)
    if rounds:
        return Tiling(tokens, most, shared)
    programs = min(most, shared * units // 8)
    return Tiling(tokens, programs, shared) if programs > tiles else Tiling(tokens, tiles, 0)


@functools.cache
def _parts_of(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Where programs leave parts of tiles for one another, and their flags, which are down between launches. One stream
    at a time."""
    number = _processors(device)
    return torch.empty(number, 128 * 256, device=device), torch.zeros(2 * number, dtype=torch.int32, device=device)
