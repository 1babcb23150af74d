"""The products with codes as they are stored, against the same in float64; and the walk that is made of them, with plain twins of theirs
where there is no Hopper GPU (the walk is interpreted then: `make slow`)."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
pytest.importorskip("cuda.bindings", reason="cuda-bindings are not installed")

from florilegium import paths
from florilegium.fast import adapter_kernel, attention_kernel, block_kernel, obstacles, trunk, wgmma
from florilegium.fast.codes_kernel import lane_order
from florilegium.fast.graph import Replay
from florilegium.fast.trunk import Plan
from florilegium.model import load_base
from florilegium.plain import alibi_slopes
from tests.fast.test_trunk import DEVICE, DTYPE, LAST_BIT, documents, error, walked
from tests.tiny import save_tiny

HOPPER = obstacles.is_hopper(DEVICE)
on_hopper = pytest.mark.skipif(not HOPPER, reason="no Hopper GPU")
runs_kernels = pytest.mark.skipif(not torch.cuda.is_available() and "TRITON_INTERPRET" not in os.environ, reason="no CUDA device")


def stored_places(K: int) -> torch.Tensor:
    """Where column k is kept, for all k."""
    order = getattr(lane_order, "fn", lane_order)
    return order(torch.arange(K, device=DEVICE), 4)


def in_lane_order(x: torch.Tensor, K: int) -> torch.Tensor:
    kept = x.clone()
    kept[:, stored_places(K)] = x[:, :K]
    return kept


def test_lane_order_is_an_order_of_each_64_columns() -> None:
    places = stored_places(192)
    assert torch.equal(places.sort().values, torch.arange(192, device=DEVICE))
    assert torch.equal(places // 64, torch.arange(192, device=DEVICE) // 64)


@pytest.fixture(params=[1, 2, 4], ids=["alone", "twos", "fours"])
def clusters(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Each multiprocessor for itself, or in twos or fours."""
    monkeypatch.setattr(wgmma, "CLUSTER", request.param)
    return int(request.param)


@pytest.mark.gpu
@on_hopper
@pytest.mark.parametrize(
    ("T", "N", "K", "R"),
    [
        (64, 384, 128, 8),
        (64, 4096, 4096, 16),
        (192, 256, 640, 24),
        (320, 128, 384, 72),
        (128, 256, 256, 40),
        (600, 4096, 2048, 16),
        (700, 12288, 4096, 16),
    ],
)
def test_the_products_equal_plain_ones(T: int, N: int, K: int, R: int, clusters: int) -> None:
    torch.manual_seed(0)
    codes = torch.randint(-128, 128, (N, K), dtype=torch.int8, device=DEVICE)
    x, adapter = torch.randn(T, K + R, device=DEVICE).to(DTYPE), (torch.randn(N, R, device=DEVICE) * 99).to(DTYPE)
    exact = x[:, :K].double() @ codes.double().T
    assert error(wgmma.forward(in_lane_order(x[:, :K], K), codes), exact) < LAST_BIT
    both = wgmma.forward(in_lane_order(x, K), codes, adapter)
    assert error(both, exact + x[:, K:].double() @ adapter.double().T) < LAST_BIT
    y = torch.randn(T, N, device=DEVICE).to(DTYPE)
    assert error(wgmma.backward(y, codes), y.double() @ codes.double()) < LAST_BIT


@pytest.mark.gpu
@on_hopper
@pytest.mark.parametrize(("T", "W", "F"), [(64, 128, 256), (192, 256, 384), (1000, 1024, 4096), (2368, 256, 128)])
def test_gelu_and_its_gradient_ride_along(T: int, W: int, F: int, clusters: int) -> None:
    torch.manual_seed(0)
    up, down = (torch.randint(-127, 128, shape, dtype=torch.int8, device=DEVICE) for shape in ((F, W), (W, F)))
    scale, bias = torch.rand(F, device=DEVICE) * 0.03 / W**0.5, torch.randn(F, device=DEVICE).to(DTYPE)
    x, y = torch.randn(T, W, device=DEVICE).to(DTYPE), torch.randn(T, W, device=DEVICE).to(DTYPE)
    slope, active = wgmma.forward_gelu(in_lane_order(x, W), up, scale, bias, 16)
    exact_raw = (x.double() @ up.double().T).requires_grad_()
    exact = torch.nn.functional.gelu(exact_raw * scale + bias, approximate="tanh")
    above = y.double() @ down.double()
    exact.backward(above)
    assert error(active, exact) < LAST_BIT and error(slope, exact_raw.grad / above) < LAST_BIT
    again, ordered = wgmma.forward_gelu(in_lane_order(x, W), up, scale, bias, 4)
    assert torch.equal(ordered, in_lane_order(active, F)) and torch.equal(again, slope)
    assert torch.equal(wgmma.forward_slope(in_lane_order(x, W), up, scale, bias), slope)
    assert error(wgmma.backward_gelu(y, down, slope), exact_raw.grad) < LAST_BIT


@pytest.mark.gpu
@on_hopper
def test_parts_of_tiles_come_together_in_one_order(clusters: int) -> None:
    """96 tiles, or 48 or 24 of clusters, are cut among the multiprocessors: the same bits, whoever is first, launch after launch."""
    assert wgmma.tiling(768, 32 // clusters, 128, wgmma._programs(clusters, DEVICE), True).shared
    codes = torch.randint(-127, 128, (4096, 16384), dtype=torch.int8, device=DEVICE)
    x = torch.randn(768, 16384, device=DEVICE).to(DTYPE)
    first = wgmma.forward(x, codes)
    assert all(torch.equal(wgmma.forward(x, codes), first) for _ in range(20))


SHARES = (
    (1024, 32, 32, 128, 0),
    (768, 32, 32, 132, 96),
    (768, 96, 32, 132, 156),
    (1024, 96, 32, 132, 0),
    (768, 88, 32, 132, 0),
    (768, 8, 8, 24, 0),
    (256, 20, 32, 80, 20),
    (1792, 19, 1, 132, 133),
)


@pytest.mark.parametrize(("T", "tiles_o", "units", "programs", "shared"), SHARES)
def test_a_last_round_with_few_tiles_is_shared(T: int, tiles_o: int, units: int, programs: int, shared: int) -> None:
    assert wgmma.shares(T, 256, tiles_o, units, 132) == (256, programs, shared)


def test_tiles_whose_activations_do_not_stay_in_the_cache_are_not_shared() -> None:
    """8,192 tokens: 67 MB of a sum over 16,384 rows are read at a time, 17 of one over 4,096."""
    assert wgmma.shares(8192, 256, 32, 128, 132) == (256, 132, 0)
    assert wgmma.shares(8192, 256, 32, 32, 132) == (256, 132, 232)


def test_tiles_are_as_long_as_fills_the_multiprocessors() -> None:
    """4,096 outputs are 32 tiles, and four of them a token tile are 128 for 132 multiprocessors."""
    assert [wgmma.tiling(T, 32, 32, 132, True)[0] for T in (512, 640, 768, 896, 1024)] == [128, 160, 192, 224, 256]
    for T, tiles_o, units, sharing in itertools.product((64, 600, 4096), (1, 20, 128), (1, 20, 128), (False, True)):
        found = wgmma.tiling(T, tiles_o, units, 132, sharing)
        assert 0 < found.programs <= 132 and (sharing or not found.shared)


@pytest.fixture
def no_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wgmma, "_codes", {})


@pytest.mark.usefixtures("no_codes")
def test_what_failed_to_compile_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once where it is needed, whatever its thread met long before; the next time anew."""
    answers = [RuntimeError("no memory"), (b"code", ""), RuntimeError("no memory"), RuntimeError("no compiler")]

    def compiled(source: str) -> tuple[bytes, str]:
        answer = answers.pop(0)
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    monkeypatch.setattr(wgmma, "compiled", compiled)
    assert wgmma._code(wgmma.Variant(True)) == (b"code", "")
    with pytest.raises(RuntimeError, match="no compiler"):
        wgmma._code(wgmma.Variant(True))
    assert not answers and not wgmma._codes


def test_lengths_to_come_are_compiled_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the rehearsal's own; of the first and the last block, which may differ in copies."""
    model = load_base(str(save_tiny(tmp_path / "bloom", layers=3)), bits=8, device=DEVICE).model
    asked: list[tuple[int, bool]] = []
    monkeypatch.setattr(trunk, "prepare", lambda linears, T, again: asked.append((T, again)))
    monkeypatch.setattr(trunk.Trunk, "_rehearse", lambda self: None)
    trunk.Trunk(model.transformer, Plan(full=1), torch.float32, [128, 640])
    assert asked == [(T, True) for T in (trunk.REHEARSED, 128, 640) for _ in range(2)]


@pytest.mark.usefixtures("no_codes")
def test_what_is_not_begun_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter waits for what is under way, and for nothing else."""
    begun, ends, made = threading.Event(), threading.Event(), []

    def compiled(source: str) -> tuple[bytes, str]:
        begun.set()
        ends.wait(20)
        made.append(source)
        return b"code", ""

    monkeypatch.setattr(wgmma, "compiled", compiled)
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(wgmma, "_compilers", lambda: pool)
        first, *others = (wgmma.Variant(True, TOKENS=tokens) for tokens in wgmma.TOKENS)
        for variant in (first, *others):
            wgmma._begin(variant)
        assert begun.wait(20)
        with paths.compiling_ahead():
            pass
        assert list(wgmma._codes) == [first]
        ends.set()
        assert wgmma._code(others[0]) == (b"code", "")
    assert len(made) == 2


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`wgmma_order.cuh`, compiled for the processor."""
    compiler = shutil.which("c++")
    if compiler is None:  # CI has one; a Python machine may not
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("order")
    (folder / "order.cpp").write_text(
        f"""#define INSIDE inline
        constexpr int TOKENS = 256, CLUSTER = 1;
        #include "{Path(wgmma.__file__).with_name("wgmma_order.cuh")}"
        extern "C" void piece(int number, int me, int programs, int units, int shared, int tiles, Piece *to) {{
            *to = piece_of(number, me, programs, units, shared, tiles);
        }}
        extern "C" int first(int tile, int programs, int units, int shared) {{ return first_of(tile, programs, units, shared); }}
        extern "C" void place(int tile, int tiles_t, int tiles_o, Place *to) {{ *to = place_of(tile, tiles_t, tiles_o); }}"""
    )
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "order.so", folder / "order.cpp"], check=True)
    return ctypes.CDLL(str(folder / "order.so"))


@pytest.mark.parametrize(
    ("T", "tiles_o", "units", "processors"),
    [
        *((*sides, 132) for *sides, _, _ in SHARES),
        (256, 128, 8, 114),
        (640, 50, 32, 7),
        (96, 3, 64, 16),
        (256, 49, 32, 132),
        (256, 45, 20, 132),
    ],
)
def test_every_part_of_a_tile_is_made_once(T: int, tiles_o: int, units: int, processors: int, order: Any) -> None:
    """By the kernel's own function. Parts that are left for another are a program's first, and of those before it in the row."""
    tokens, programs, shared = wgmma.shares(T, 256, tiles_o, units, processors)
    tiles = -(-T // tokens) * tiles_o
    made, left, gathered = [], {}, {}
    piece = (ctypes.c_int * 3)()
    for me in range(programs):
        for number in itertools.count():
            order.piece(number, me, programs, units, shared, tiles, piece)
            tile, begin, end = piece
            if tile >= tiles:
                break
            made += [(tile, unit) for unit in range(begin, end)]
            if end < units:
                assert number == 0
                left.setdefault(tile, []).append(me)
            elif begin > 0:
                gathered[tile] = list(range(order.first(tile, programs, units, shared), me))
    assert sorted(made) == [(tile, unit) for tile in range(tiles) for unit in range(units)]
    assert left == gathered


@pytest.mark.parametrize(("tiles_t", "tiles_o"), [(1, 32), (4, 32), (8, 3), (11, 5), (32, 128)])
def test_every_tile_has_its_place(tiles_t: int, tiles_o: int, order: Any) -> None:
    found = set()
    for tile in range(tiles_t * tiles_o):
        place = (ctypes.c_int * 2)()
        order.place(tile, tiles_t, tiles_o, place)
        found.add(tuple(place))
    assert found == {(256 * t, 128 * o) for t in range(tiles_t) for o in range(tiles_o)}


@pytest.mark.gpu
@on_hopper
def test_a_length_that_is_new_to_the_kernels_can_be_recorded() -> None:
    """A step is recorded once a length, and a shorter one may need kernels that nothing has called yet."""
    codes = torch.randint(-127, 128, (640, 384), dtype=torch.int8, device=DEVICE)
    scale, bias = torch.full((640,), 1e-3, device=DEVICE), torch.zeros(640, device=DEVICE).to(DTYPE)

    def function(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return wgmma.forward_gelu(inputs["x"], codes, scale, bias, 16)[1]

    run = Replay(function, [])
    for T in (512, 128, 64):
        x = torch.randn(T, 384).to(DTYPE)
        raw = x.to(DEVICE)[:, stored_places(384)].double() @ codes.double().T
        assert error(run({"x": x}), torch.nn.functional.gelu(raw * scale + bias, approximate="tanh")) < LAST_BIT


@pytest.mark.gpu
@on_hopper
def test_a_row_does_not_depend_on_its_neighbours() -> None:
    """Where tiles are not shared: elsewhere the cut of a sum depends on the tile's place."""
    codes = torch.randint(-127, 128, (256, 256), dtype=torch.int8, device=DEVICE)
    x = torch.randn(520, 256, device=DEVICE).to(DTYPE)
    for product in (wgmma.forward, wgmma.backward):
        assert torch.equal(product(x, codes)[256:512], product(x[256:512].contiguous(), codes))


@runs_kernels
def test_what_a_product_reads_is_written_in_lane_order() -> None:
    torch.manual_seed(0)
    T, W = 64, 128
    norm = torch.nn.LayerNorm(W, device=DEVICE).requires_grad_(False)
    written = []
    for form in (16, 4):
        before = (torch.linspace(-3, 3, T * W, device=DEVICE).sin().view(T, W) * 9).to(DTYPE)
        normed, twice = torch.empty_like(before), torch.empty_like(before)
        block_kernel.add_norm(before, None, None, norm, normed, twice, form=form)
        written.append((normed, twice))
    (normed, twice), (ordered, again) = written
    assert torch.equal(ordered, in_lane_order(normed, W))
    assert torch.equal(again, twice) and torch.equal(twice, normed)


@runs_kernels
def test_dropout_leaves_the_same_in_either_order() -> None:
    T, W = 8, 384
    norm, seed = torch.nn.LayerNorm(W, device=DEVICE).requires_grad_(False), torch.tensor([5], device=DEVICE)
    written = []
    for form in (16, 4):
        before = torch.linspace(-9, 9, T * W, device=DEVICE).sin().view(T, W).to(DTYPE)
        normed, dropped = torch.empty_like(before), torch.empty_like(before)
        block_kernel.add_norm(before, None, None, norm, normed, dropped, seed, 3, 0.3, form)
        written.append((normed, dropped))
    assert torch.equal(written[1][0], in_lane_order(written[0][0], W)) and torch.equal(written[1][1], written[0][1])


@runs_kernels
@pytest.mark.parametrize("head_dim", [64, 80, 128])
def test_attention_writes_and_reads_lane_order(head_dim: int) -> None:
    torch.manual_seed(0)
    H, T = 4, 128
    _, start, end = documents([60, 68])
    scale, bias = (torch.rand(H, 3, head_dim, device=DEVICE) + 0.5 for _ in range(2))
    fused, above = torch.randn(T, H, 3, head_dim, device=DEVICE).to(DTYPE), torch.randn(T, H, head_dim, device=DEVICE).to(DTYPE)
    found = []
    for form in (16, 4):
        mine, grads = fused.clone(), torch.empty_like(fused)
        parts = [t.unbind(-2) for t in (mine, scale, bias, grads)]
        out, lse = attention_kernel.forward(*parts[:3], start, alibi_slopes(H, DEVICE), form)
        attention_kernel.backward(*parts[:3], out, lse, above.clone(), parts[3], start, end, alibi_slopes(H, DEVICE), form)
        found.append((out.view(T, -1), grads))
    assert torch.equal(found[1][0], in_lane_order(found[0][0], H * head_dim)) and error(found[1][1], found[0][1]) < LAST_BIT


@runs_kernels
@pytest.mark.parametrize(("rank", "N"), [(4, 384), (16, 128), (257, 64)])
def test_the_gradient_of_the_adapters_thin_product(rank: int, N: int) -> None:
    y, b = torch.randn(64, N, device=DEVICE).to(DTYPE), torch.randn(N, -(-rank // 8) * 8, device=DEVICE).to(DTYPE)
    assert error(adapter_kernel.thin_grad(y, b, rank), (y.double() @ b.double())[:, :rank]) < LAST_BIT


def _plain_forward(x: torch.Tensor, codes: torch.Tensor, adapter: torch.Tensor | None = None) -> torch.Tensor:
    K = codes.shape[1]
    out = x[:, stored_places(K)].float() @ codes.float().T
    return (out if adapter is None else out + x[:, K:].float() @ adapter.float().T).to(x.dtype)


def _plain_forward_gelu(
    x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, form: int
) -> tuple[torch.Tensor, torch.Tensor]:
    raw = _plain_forward(x, codes)
    active = block_kernel.gelu(raw, scale, bias)
    return _plain_forward_slope(x, codes, scale, bias), in_lane_order(active, len(codes)) if form == 4 else active


def _plain_forward_slope(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    raw = _plain_forward(x, codes)
    slope = torch.ones_like(raw)
    block_kernel.gelu_grad(raw, scale, bias, slope)
    return slope


def _plain_backward_gelu(y: torch.Tensor, codes: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return _plain_backward(y, codes) * slope


def _plain_backward(y: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    return (y.float() @ codes.float()).to(y.dtype)


TWINS = {
    "forward": _plain_forward,
    "forward_gelu": _plain_forward_gelu,
    "forward_slope": _plain_forward_slope,
    "backward": _plain_backward,
    "backward_gelu": _plain_backward_gelu,
}


@runs_kernels
def test_the_walk_with_stored_codes_equals_autograd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny(tmp_path / "bloom", heads=4, head_dim=64, layers=3, noise=0.02)
    exact = walked(folder, 8, "float32", torch.float32, None)
    limits = [2e-5, 2e-4]
    if torch.bfloat16 == DTYPE:
        limits = [2.5 * error(a, b) for a, b in zip(walked(folder, 8, "bfloat16", DTYPE, None), exact, strict=True)]
    read = []
    monkeypatch.setattr(obstacles, "SMALLEST", 0)
    monkeypatch.setattr(trunk, "RIDES", 0)
    monkeypatch.setattr(trunk.Trunk, "_rehearse", lambda *given: None)  # it would be counted
    if HOPPER:
        products = {name: getattr(wgmma, name) for name in TWINS}
    else:
        products = TWINS
        monkeypatch.setattr(obstacles, "stored_obstacle", lambda module: "")
        monkeypatch.setattr(wgmma, "compile_soon", lambda *given: None)
    for name, product in products.items():
        monkeypatch.setattr(wgmma, name, lambda *given, _product=product: read.append(1) or _product(*given))
    for plan, number in ((Plan(), 23), (Plan(full=0), 29), (Plan(full=1, middle=2, copies=2), 16)):
        read.clear()
        errors = [error(a, b) for a, b in zip(walked(folder, 8, "float32", DTYPE, plan), exact, strict=True)]
        assert all(ours < limit for ours, limit in zip(errors, limits, strict=True)), (plan, errors, limits)
        assert len(read) == number, plan
