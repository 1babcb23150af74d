"""Matmuls with int8 as it is stored, against the same in float64; and the block stack that is made of them, with
references in their place where there is no Hopper GPU (the rest is interpreted then: `make slow`)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
pytest.importorskip("cuda.bindings", reason="cuda-bindings are not installed")

from florilegium.fast import support
from florilegium.fast.hopper import int8_matmul
from florilegium.fast.hopper.tiling import tiling
from florilegium.fast.training import (
    attention_grad_kernel,
    attention_kernel,
    block_stack,
    gelu_kernel,
    lora_kernel,
    norm_kernel,
)
from florilegium.fast.training.cuda_graph import CudaGraphRunner
from florilegium.fast.training.norm_kernel import Residual
from florilegium.fast.training.saved_activations import ActivationPlan
from florilegium.fast.unpack_kernel import NATURAL_ORDER, PAIR_ORDER, mma_column_order
from florilegium.reference import Dropout, alibi_slopes
from tests.fast.training.test_block_stack import DEVICE, DTYPE, LAST_BIT, documents, error, run_model
from tests.tiny import save_tiny

HOPPER = support.is_hopper(DEVICE)
on_hopper = pytest.mark.skipif(not HOPPER, reason="no Hopper GPU")
runs_kernels = pytest.mark.skipif(
    not torch.cuda.is_available() and "TRITON_INTERPRET" not in os.environ, reason="no CUDA device"
)


def stored_places(K: int) -> torch.Tensor:
    """Where column k is kept, for all k."""
    order = getattr(mma_column_order, "fn", mma_column_order)
    return order(torch.arange(K, device=DEVICE), PAIR_ORDER)


def in_pair_order(x: torch.Tensor, K: int) -> torch.Tensor:
    kept = x.clone()
    kept[:, stored_places(K)] = x[:, :K]
    return kept


def test_pair_order_is_an_order_of_each_64_columns() -> None:
    places = stored_places(192)
    assert torch.equal(places.sort().values, torch.arange(192, device=DEVICE))
    assert torch.equal(places // 64, torch.arange(192, device=DEVICE) // 64)


@pytest.fixture(params=[1, 2, 4], ids=["alone", "twos", "fours"])
def clusters(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Each multiprocessor for itself, or in twos or fours."""
    monkeypatch.setattr(int8_matmul, "CLUSTER", request.param)
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
def test_the_matmuls_equal_the_reference(T: int, N: int, K: int, R: int, clusters: int) -> None:
    torch.manual_seed(0)
    weight = torch.randint(-128, 128, (N, K), dtype=torch.int8, device=DEVICE)
    x, adapter = torch.randn(T, K + R, device=DEVICE).to(DTYPE), (torch.randn(N, R, device=DEVICE) * 99).to(DTYPE)
    exact = x[:, :K].double() @ weight.double().T
    assert error(int8_matmul.forward(in_pair_order(x[:, :K], K), weight), exact) < LAST_BIT
    both = int8_matmul.forward(in_pair_order(x, K), weight, adapter)
    assert error(both, exact + x[:, K:].double() @ adapter.double().T) < LAST_BIT
    y = torch.randn(T, N, device=DEVICE).to(DTYPE)
    assert error(int8_matmul.backward(y, weight), y.double() @ weight.double()) < LAST_BIT


@pytest.mark.gpu
@on_hopper
@pytest.mark.parametrize("R", [0, 16, 72])
@pytest.mark.parametrize(("T", "W", "F"), [(64, 128, 256), (192, 256, 384), (1000, 1024, 4096), (2368, 256, 128)])
def test_gelu_and_its_gradient_in_the_epilogue(T: int, W: int, F: int, R: int, clusters: int) -> None:
    """Of base and adapter; the value goes to rows that lie further apart."""
    torch.manual_seed(0)
    up, down = (torch.randint(-127, 128, shape, dtype=torch.int8, device=DEVICE) for shape in ((F, W), (W, F)))
    scale, bias = torch.rand(F, device=DEVICE) * 0.03 / W**0.5, torch.randn(F, device=DEVICE).to(DTYPE)
    x, y = torch.randn(T, W + R, device=DEVICE).to(DTYPE), torch.randn(T, W, device=DEVICE).to(DTYPE)
    b = (torch.randn(F, R, device=DEVICE) * 50).to(DTYPE)
    wide, given = (
        torch.empty(2, T, F + 64, device=DEVICE, dtype=DTYPE)[:, :, :F],
        (in_pair_order(x, W), up, scale, bias),
    )
    lora_b = b if R else None
    slope, active = int8_matmul.forward_gelu(*given, wide[0], NATURAL_ORDER, lora_b), wide[0]
    exact_raw = (x[:, :W].double() @ up.double().T + x[:, W:].double() @ b.double().T).requires_grad_()
    exact = torch.nn.functional.gelu(exact_raw * scale + bias, approximate="tanh")
    above = y.double() @ down.double()
    exact.backward(above)
    assert error(active, exact) < LAST_BIT and error(slope, exact_raw.grad / above) < LAST_BIT
    again = int8_matmul.forward_gelu(*given, wide[1], PAIR_ORDER, lora_b)
    assert torch.equal(wide[1], in_pair_order(active, F)) and torch.equal(again, slope)
    assert torch.equal(int8_matmul.forward_slope(*given, lora_b), slope)
    assert error(int8_matmul.backward_gelu(y, down, slope), exact_raw.grad) < LAST_BIT


@pytest.mark.gpu
@on_hopper
def test_parts_of_tiles_come_together_in_one_order(clusters: int) -> None:
    """96 tiles, or 48 or 24 of clusters, are cut among the multiprocessors: the same bits, whoever is first, launch
    after launch."""
    assert tiling(768, 32 // clusters, 128, int8_matmul._programs(clusters, DEVICE), sharing=True).shared
    weight = torch.randint(-127, 128, (4096, 16384), dtype=torch.int8, device=DEVICE)
    x = torch.randn(768, 16384, device=DEVICE).to(DTYPE)
    first = int8_matmul.forward(x, weight)
    assert all(torch.equal(int8_matmul.forward(x, weight), first) for _ in range(20))


@pytest.mark.gpu
@on_hopper
def test_a_length_that_is_new_to_the_kernels_can_be_recorded() -> None:
    """A step is recorded once a length, and a shorter one may need kernels that nothing has called yet."""
    weight = torch.randint(-127, 128, (640, 384), dtype=torch.int8, device=DEVICE)
    scale, bias = torch.full((640,), 1e-3, device=DEVICE), torch.zeros(640, device=DEVICE).to(DTYPE)

    def function(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        out = torch.empty(len(inputs["x"]), 640, device=DEVICE, dtype=DTYPE)
        int8_matmul.forward_gelu(inputs["x"], weight, scale, bias, out, NATURAL_ORDER)
        return out

    run = CudaGraphRunner(function, [])
    for T in (512, 128, 64):
        x = torch.randn(T, 384).to(DTYPE)
        raw = x.to(DEVICE)[:, stored_places(384)].double() @ weight.double().T
        assert error(run({"x": x}), torch.nn.functional.gelu(raw * scale + bias, approximate="tanh")) < LAST_BIT


@pytest.mark.gpu
@on_hopper
def test_a_row_does_not_depend_on_its_neighbours() -> None:
    """Where tiles are not shared: elsewhere the cut of a sum depends on the tile's place."""
    weight = torch.randint(-127, 128, (256, 256), dtype=torch.int8, device=DEVICE)
    x = torch.randn(520, 256, device=DEVICE).to(DTYPE)
    for product in (int8_matmul.forward, int8_matmul.backward):
        assert torch.equal(product(x, weight)[256:512], product(x[256:512].contiguous(), weight))


@runs_kernels
def test_what_a_matmul_reads_is_written_in_pair_order() -> None:
    torch.manual_seed(0)
    T, W = 64, 128
    norm = torch.nn.LayerNorm(W, device=DEVICE).requires_grad_(False)
    written = []
    for order in (NATURAL_ORDER, PAIR_ORDER):
        before = (torch.linspace(-3, 3, T * W, device=DEVICE).sin().view(T, W) * 9).to(DTYPE)
        normed, lora_input = torch.empty_like(before), torch.empty_like(before)
        norm_kernel.residual_norm(Residual(before, None), None, norm, normed, lora_input, order=order)
        written.append((normed, lora_input))
    (normed, lora_input), (ordered, again) = written
    assert torch.equal(ordered, in_pair_order(normed, W))
    assert torch.equal(again, lora_input) and torch.equal(lora_input, normed)


@runs_kernels
def test_dropout_leaves_the_same_in_either_order() -> None:
    T, W = 8, 384
    norm, seed = torch.nn.LayerNorm(W, device=DEVICE).requires_grad_(False), torch.tensor([5], device=DEVICE)
    numbers = torch.arange(T, dtype=torch.int32, device=DEVICE)
    written = []
    for order in (NATURAL_ORDER, PAIR_ORDER):
        before = torch.linspace(-9, 9, T * W, device=DEVICE).sin().view(T, W).to(DTYPE)
        normed, dropped = torch.empty_like(before), torch.empty_like(before)
        norm_kernel.residual_norm(
            Residual(before, None), None, norm, normed, dropped, dropout=Dropout(seed, numbers, 3, 0.3), order=order
        )
        written.append((normed, dropped))
    assert torch.equal(written[1][0], in_pair_order(written[0][0], W)) and torch.equal(written[1][1], written[0][1])


@runs_kernels
@pytest.mark.parametrize("head_dim", [64, 80, 128])
def test_attention_writes_and_reads_pair_order(head_dim: int) -> None:
    torch.manual_seed(0)
    H, T = 4, 128
    _, start, end = documents([60, 68])
    scale, bias = (torch.rand(H, 3, head_dim, device=DEVICE) + 0.5 for _ in range(2))
    fused, above = (
        torch.randn(T, H, 3, head_dim, device=DEVICE).to(DTYPE),
        torch.randn(T, H, head_dim, device=DEVICE).to(DTYPE),
    )
    found = []
    for order in (NATURAL_ORDER, PAIR_ORDER):
        mine, grads = fused.clone(), torch.empty_like(fused)
        parts = [t.unbind(-2) for t in (mine, scale, bias, grads)]
        out = torch.empty(T, H * head_dim, device=DEVICE, dtype=DTYPE)
        logsumexp = attention_kernel.attention(*parts[:3], start, alibi_slopes(H, DEVICE), out, order)
        attention_grad_kernel.attention_grad(
            *parts[:3], out, logsumexp, above.view(T, -1), parts[3],
            start_T=start, end_T=end, slopes_H=alibi_slopes(H, DEVICE), order=order,
        )  # fmt: skip
        found.append((out, grads))
    assert (
        torch.equal(found[1][0], in_pair_order(found[0][0], H * head_dim))
        and error(found[1][1], found[0][1]) < LAST_BIT
    )


@runs_kernels
@pytest.mark.parametrize(("rank", "N"), [(4, 384), (16, 128), (257, 64)])
def test_the_gradient_of_loras_down_projection(rank: int, N: int) -> None:
    y, b = torch.randn(64, N, device=DEVICE).to(DTYPE), torch.randn(N, -(-rank // 8) * 8, device=DEVICE).to(DTYPE)
    assert error(lora_kernel.down_projection_grad(y, b, rank), (y.double() @ b.double())[:, :rank]) < LAST_BIT


def _reference_forward(x: torch.Tensor, weight: torch.Tensor, adapter: torch.Tensor | None = None) -> torch.Tensor:
    K = weight.shape[1]
    out = x[:, stored_places(K)].float() @ weight.float().T
    return (out if adapter is None else out + x[:, K:].float() @ adapter.float().T).to(x.dtype)


def _reference_forward_gelu(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, out: torch.Tensor, order: int,
    adapter: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    gelu_kernel.gelu(_reference_forward(x, weight, adapter), scale, bias, out)
    if order == PAIR_ORDER:
        out.copy_(in_pair_order(out.clone(), len(weight)))
    return _reference_forward_slope(x, weight, scale, bias, adapter)


def _reference_forward_slope(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, adapter: torch.Tensor | None = None
) -> torch.Tensor:
    raw = _reference_forward(x, weight, adapter)
    slope = torch.ones_like(raw)
    gelu_kernel.gelu_grad(raw, scale, bias, slope)
    return slope


def _reference_backward_gelu(y: torch.Tensor, weight: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return _reference_backward(y, weight) * slope


def _reference_backward(y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (y.float() @ weight.float()).to(y.dtype)


REFERENCES = {
    "forward": _reference_forward,
    "forward_gelu": _reference_forward_gelu,
    "forward_slope": _reference_forward_slope,
    "backward": _reference_backward,
    "backward_gelu": _reference_backward_gelu,
}


@runs_kernels
@pytest.mark.parametrize("targets", ["auto", "all-linear"])
def test_the_block_stack_with_int8_matmuls_equals_autograd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, targets: str
) -> None:
    folder = save_tiny(tmp_path / "bloom", heads=4, head_dim=64, layers=3, noise=0.02)
    exact = run_model(folder, 8, "float32", torch.float32, None, targets)
    limits = [2e-5, 2e-4]
    if torch.bfloat16 == DTYPE:
        limits = [
            2.5 * error(a, b)
            for a, b in zip(run_model(folder, 8, "bfloat16", DTYPE, None, targets), exact, strict=True)
        ]
    read = []
    monkeypatch.setattr(support, "MIN_INT8_ELEMENTS", 0)
    monkeypatch.setattr(block_stack, "FUSED_GELU_WIDTH", 0)
    monkeypatch.setattr(block_stack, "warm_up", lambda *given: None)  # it would be counted
    if HOPPER:
        products = {name: getattr(int8_matmul, name) for name in REFERENCES}
    else:
        products = REFERENCES
        monkeypatch.setattr(support, "int8_matmul_unsupported_reason", lambda module: "")
        monkeypatch.setattr(int8_matmul, "compile_in_background", lambda *given: None)
    for name, product in products.items():
        monkeypatch.setattr(int8_matmul, name, lambda *given, _product=product: read.append(1) or _product(*given))
    for plan, number in ((ActivationPlan(), 23), (ActivationPlan(blocks_full=0), 29), (ActivationPlan(1, 2, 2), 16)):
        read.clear()
        errors = [
            error(a, b) for a, b in zip(run_model(folder, 8, "float32", DTYPE, plan, targets), exact, strict=True)
        ]
        assert all(ours < limit for ours, limit in zip(errors, limits, strict=True)), (plan, errors, limits)
        assert len(read) == number, plan
