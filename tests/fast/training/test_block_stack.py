"""The block stack's kernels, and its passes against autograd in float32, on small shapes. Without a CUDA device Triton
interprets them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="Triton is not installed")

from florilegium import fast, reference
from florilegium.config import make_config
from florilegium.fast import dequantize_kernel, frozen_linear, head_loss_kernel
from florilegium.fast.training import (
    attention_grad_kernel,
    attention_kernel,
    gelu_kernel,
    lora_grad_kernel,
    lora_kernel,
    norm_kernel,
)
from florilegium.fast.training.norm_kernel import PendingUpdate, Residual
from florilegium.fast.training.saved_activations import ActivationPlan
from florilegium.model import ForwardOptions, LoadedModel, attach_adapter, hidden_states, load_base, token_losses
from florilegium.model.families.bloom import bloom_model
from florilegium.reference import Dropout
from florilegium.tokens import Example, PackPlan, pack
from tests.tiny import save_tiny

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() and "TRITON_INTERPRET" not in os.environ, reason="no CUDA device, and not interpreted"
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Triton's interpreter multiplies bfloat16 wrongly, so on the CPU the same code runs, and is held to more, in float32.
DTYPE, LAST_BIT = (torch.bfloat16, 3e-3) if torch.cuda.is_available() else (torch.float32, 2e-6)


def error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours.detach().double() - exact.detach().double()).norm() / exact.detach().double().norm())


def documents(sizes: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Document numbers [1, T], starts and ends [T]."""
    document = torch.tensor([i for i, size in enumerate(sizes) for _ in range(size)], dtype=torch.int32)
    first = torch.tensor([sum(sizes[:i]) for i in range(len(sizes))], dtype=torch.int32)
    size = torch.tensor(sizes, dtype=torch.int32)
    return document[None].to(DEVICE), first[document.long()].to(DEVICE), (first + size)[document.long()].to(DEVICE)


MANY_HEADS = pytest.param(
    112, 128, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="a minute in the interpreter")
)


@pytest.mark.parametrize(("H", "head_dim"), [(3, 64), (3, 80), (3, 96), (3, 128), MANY_HEADS])
@pytest.mark.parametrize("sizes", [[1, 70, 3, 1, 64, 53], [1] * 64, [127, 1], [60, 68]], ids=str)
def test_attention_equals_the_reference(H: int, head_dim: int, sizes: list[int]) -> None:
    torch.manual_seed(0)
    T = sum(sizes)
    document, start, end = documents(sizes)
    slopes = reference.alibi_slopes(H, DEVICE)
    fused = torch.randn(T, H, 3, head_dim, device=DEVICE).to(DTYPE)
    scale, bias = (torch.rand(H, 3, head_dim, device=DEVICE) + 0.5 for _ in range(2))
    grad = torch.randn(T, H, head_dim, device=DEVICE).to(DTYPE)
    exact_fused = fused.double().requires_grad_()
    q, k, v = (exact_fused * scale.double() + bias.double()).permute(2, 1, 0, 3)[:, None]
    exact = reference.sdpa_attention(document, slopes, torch.float64)(q, k, v)[0].transpose(0, 1)
    exact.backward(grad.double())
    parts, scales, biases = fused.unbind(-2), scale.unbind(-2), bias.unbind(-2)  # of a raw projection
    wide = torch.full((2, T, H * head_dim + 8), float("nan"), device=DEVICE).to(DTYPE)  # rows that lie further apart
    out, grad_out = wide[0, :, : H * head_dim], wide[1, :, : H * head_dim]
    logsumexp = attention_kernel.attention(parts, scales, biases, start, slopes, wide[0])
    grad_out.copy_(grad.view(T, -1))
    grads = torch.full_like(fused, float("nan"))
    attention_grad_kernel.attention_grad(
        parts, scales, biases, wide[0], logsumexp, wide[1], grads.unbind(-2), start_T=start, end_T=end, slopes_H=slopes
    )
    assert error(out.view(T, H, head_dim), exact) < 2 * LAST_BIT and wide[0, :, H * head_dim :].isnan().all()
    assert error(grads, exact_fused.grad) < 4 * LAST_BIT


def error_unit(rounded: torch.Tensor) -> torch.Tensor:
    """What the rounding error of the residual stream counts in, float64."""
    _, exponent = torch.frexp(rounded.float())
    return torch.ldexp(torch.ones(rounded.shape, dtype=torch.float64, device=rounded.device), exponent - 16)


def test_the_residual_stream_keeps_twice_the_bits_of_bfloat16() -> None:
    """Of an embedding in float32, and of a sum; a number that rounding brings to the next power of two, 0 and the least
    number too."""
    torch.manual_seed(0)
    T, W = 9, 48
    norm = torch.nn.LayerNorm(W, device=DEVICE).requires_grad_(False)
    exact = torch.randn(T, W, device=DEVICE) * 10 ** torch.linspace(-6, 4, T, device=DEVICE)[:, None]
    exact[0, :5] = torch.tensor([0.0, 1.9990, -3.9999, 1e-45, 1.00390625])
    normed = torch.empty(T, W, dtype=torch.bfloat16, device=DEVICE)
    saved, low = norm_kernel.residual_norm(Residual(exact, None), None, norm, normed)
    assert saved.dtype == torch.bfloat16 and low is not None and low.dtype == torch.int8
    if torch.cuda.is_available():  # Triton's interpreter cuts where a GPU rounds
        assert torch.equal(saved, exact.bfloat16())
        whole = saved.double() + low.double() * error_unit(saved)
        assert ((whole - exact.double()).abs() <= 2**-15 * exact.abs().double() + 1e-44).all()
        more, left = norm_kernel.residual_norm(
            Residual(saved, low),
            PendingUpdate(saved, torch.ones(W, device=DEVICE), torch.zeros(W, device=DEVICE)),
            norm,
            normed,
        )
        assert error(more.double() + left.double() * error_unit(more), whole + saved.double()) < 1e-5


@pytest.mark.parametrize("dropout", [0.0, 0.25])  # a share that 16 bits draw exactly
def test_norm_and_its_gradient(dropout: float) -> None:
    torch.manual_seed(0)
    T, W, padded = 5, 48, 56
    norm = torch.nn.LayerNorm(W, device=DEVICE).requires_grad_(False)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    before, raw = torch.randn(T, W, device=DEVICE).to(DTYPE), (torch.randn(T, W, device=DEVICE) * 9).to(DTYPE)
    low = torch.randint(-127, 128, (T, W), dtype=torch.int8, device=DEVICE) if dropout else None
    scale, bias = torch.rand(W, device=DEVICE), torch.randn(W, device=DEVICE)
    seed, numbers = torch.tensor([11], device=DEVICE), torch.arange(T, dtype=torch.int32, device=DEVICE)
    exact = (
        before.double() + (low.double() * error_unit(before) if low is not None else 0) + raw.double() * scale + bias
    )
    normed, dropped = (torch.full((T, n), float("nan"), device=DEVICE).to(DTYPE) for n in (padded, W))
    saved, left = norm_kernel.residual_norm(
        Residual(before, low), PendingUpdate(raw, scale, bias), norm, normed, dropped if dropout else None,
        dropout=Dropout(seed, numbers, 2, dropout) if dropout else None,
    )  # fmt: skip
    assert error(saved, exact) < LAST_BIT and error(saved.double() + left.double() * error_unit(saved), exact) < 1e-5
    x = saved.double().requires_grad_()
    y = F.layer_norm(x, (W,), norm.weight.double(), norm.bias.double(), norm.eps)
    assert error(normed[:, :W], y) < LAST_BIT and normed[:, W:].isnan().all()
    kept = torch.ones_like(y)
    if dropout:
        kept = (dropped != 0).double() / (1 - dropout)
        assert 0.5 < float((dropped != 0).float().mean()) < 0.9
        assert error(dropped, y * kept) < LAST_BIT
    scaled, above, down = (torch.randn(T, columns, device=DEVICE).to(DTYPE) for columns in (W, padded, W))
    scale, next_scale = torch.rand(2, W, device=DEVICE) + 0.1
    (y * above[:, :W].double() + y * kept * down.double()).sum().backward()
    wanted, again = (scaled.double() / scale + x.grad) * next_scale, torch.empty_like(saved)
    more: dict[str, Any] = {
        "lora_grad_TW": down, "lora_input_TW": again, "dropout": Dropout(seed, numbers, 2, dropout) if dropout else None,
    }  # fmt: skip
    norm_kernel.residual_norm_grad(scaled, above, saved, norm, scale, next_scale, **more)
    assert error(scaled, wanted) < LAST_BIT and torch.equal(again, dropped if dropout else normed[:, :W])
    norm_kernel.residual_norm_grad(scaled.fill_(float("nan")), above, saved, norm, None, next_scale, **more)
    assert error(scaled, x.grad * next_scale) < LAST_BIT


def test_dropout_draws_each_number_by_itself() -> None:
    """The right share, and no row, column or block that follows another."""
    T, W, dropout = 64, 320, 0.3
    norm = torch.nn.LayerNorm(W, device=DEVICE).requires_grad_(False)
    torch.nn.init.ones_(norm.bias)

    def kept(seed: int, number: int) -> torch.Tensor:
        before, seeds = torch.zeros(T, W, dtype=DTYPE, device=DEVICE), torch.tensor([seed], device=DEVICE)
        numbers = torch.arange(T, dtype=torch.int32, device=DEVICE)
        normed, dropped = torch.empty_like(before), torch.empty_like(before)
        norm_kernel.residual_norm(
            Residual(before, None), None, norm, normed, dropped, dropout=Dropout(seeds, numbers, number, dropout)
        )
        return (dropped != 0).float()

    first = kept(11, 2)
    others = {
        "row": first.roll(1, 0), "row 4": first.roll(4, 0), "column": first.roll(1, 1), "columns 4": first.roll(4, 1), "block": kept(11, 3),
        "step": kept(12, 2),
    }  # fmt: skip
    sigma = (1 / (T * W)) ** 0.5
    assert abs(float(first.mean()) - 0.7) < 4 * sigma * (dropout * 0.7) ** 0.5
    for name, other in others.items():
        assert abs(float(torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1])) < 4 * sigma, name
    assert torch.equal(first, kept(11, 2))


@pytest.mark.parametrize(("rank", "W", "T"), [(4, 320, 128), (16, 128, 192), (24, 512, 64), (257, 64, 64)])
def test_the_low_rank_matmuls_of_lora(rank: int, W: int, T: int) -> None:
    torch.manual_seed(0)
    R, N = -(-rank // 8) * 8, 200
    normed, a = torch.randn(T, W + R, device=DEVICE).to(DTYPE), torch.randn(rank, W, device=DEVICE).to(DTYPE)
    normed[:, W:] = float("nan")
    down = lora_kernel.down_projection(normed[:, :W], a, normed[:, W:])
    assert error(down, normed[:, :W].double() @ a.double().T) < LAST_BIT
    assert torch.equal(normed[:, W : W + rank], down) and (normed[:, W + rank :] == 0).all()
    qkv_grad, above = torch.randn(T, N, device=DEVICE).to(DTYPE), torch.randn(T, W + R, device=DEVICE).to(DTYPE)
    dropped, down_grad, b_rescale = (
        torch.randn(T, W, device=DEVICE).to(DTYPE),
        above[:, W : W + rank],
        torch.rand(N, device=DEVICE),
    )
    grad_a, grad_b = lora_grad_kernel.lora_gradients(dropped, down_grad, qkv_grad, down, b_rescale)
    assert error(grad_a, down_grad.double().T @ dropped.double()) < 1e-5
    assert error(grad_b, qkv_grad.double().T @ down.double() * b_rescale[:, None].double()) < 1e-5


def test_gelu_and_its_gradient() -> None:
    torch.manual_seed(0)
    raw = (torch.randn(7, 96, device=DEVICE) * 3).to(DTYPE)
    scale, bias = torch.rand(96, device=DEVICE), torch.randn(96, device=DEVICE)
    exact_raw = raw.double().requires_grad_()
    exact = F.gelu(exact_raw * scale + bias, approximate="tanh")
    grad = torch.randn(7, 96, device=DEVICE).to(DTYPE)
    exact.backward(grad.double())
    wide = torch.full((2, 7, 104), float("nan"), device=DEVICE).to(DTYPE)  # rows that lie further apart
    gelu_kernel.gelu(raw, scale, bias, wide[0, :, :96])
    assert error(wide[0, :, :96], exact) < LAST_BIT
    wide[1, :, :96] = grad
    grad = wide[1, :, :96]
    gelu_kernel.gelu_grad(raw, scale, bias, grad)
    assert wide[:, :, 96:].isnan().all()
    assert error(grad, exact_raw.grad) < LAST_BIT


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("shape", [(7, 64), (33, 192), (3, 4224)], ids=str)
def test_nf4_equals_bitsandbytes(shape: tuple[int, int], nested: bool) -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    torch.manual_seed(0)
    packed, state = quantize_4bit(
        torch.randn(shape, device=DEVICE), quant_type="nf4", blocksize=64, compress_statistics=nested
    )
    padded = torch.full((shape[0], shape[1] + 8), float("nan"), device=DEVICE).to(DTYPE)
    dequantize_kernel.dequantize_nf4(packed, state, padded[:, : shape[1]])
    assert (
        torch.equal(padded[:, : shape[1]], dequantize_4bit(packed, state).to(DTYPE))
        and padded[:, shape[1] :].isnan().all()
    )


@pytest.mark.parametrize("scaled", [True, False])
def test_int8_weights_are_exact(scaled: bool) -> None:
    codes = torch.randint(-127, 128, (5, 4200), dtype=torch.int8, device=DEVICE)
    scale = torch.rand(5, device=DEVICE) if scaled else None
    padded = torch.full((5, 4208), float("nan"), device=DEVICE).to(DTYPE)
    dequantize_kernel.dequantize_int8(codes, scale, padded[:, :4200])
    exact = codes.float() * (scale[:, None] / 127) if scaled else codes.float()
    assert (
        torch.equal(padded[:, :4200].float(), exact.to(DTYPE).float())
        or error(padded[:, :4200], exact) < LAST_BIT * scaled
    )
    assert padded[:, 4200:].isnan().all()


def test_losses_and_their_gradient() -> None:
    """Also of a token that is known well, whose gradient is small, of one with a loss of 40, and of a row without
    target."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(6, 40, device=DEVICE), torch.randn(5001, 40, device=DEVICE).to(DTYPE)
    targets = torch.randint(0, 5001, (6,), device=DEVICE)
    hidden[1], hidden[2] = 0.4 * weight[targets[1]].float(), -0.6 * weight[targets[2]].float()
    hidden, targets[5] = hidden.to(DTYPE), -100
    exact = hidden.double().requires_grad_()
    wanted = F.cross_entropy(exact @ weight.double().T, targets, reduction="none", ignore_index=-100)
    wanted.sum().backward()
    assert 1e-5 < wanted[1] < 0.1 and 25 < wanted[2] < 60
    logits, losses, grad = hidden @ weight.T, torch.empty(6, device=DEVICE), torch.full_like(hidden, float("nan"))
    rest = head_loss_kernel.losses_and_weights(logits, hidden, weight, targets, losses, grad=True)
    head_loss_kernel.head_grad(logits.float() @ weight.float(), weight, targets, rest, grad)
    plain = [0, 3, 4]
    assert error(losses[plain], wanted[plain]) < LAST_BIT and error(grad[plain], exact.grad[plain]) < 4 * LAST_BIT
    for row in (1, 2):  # logits of 20 are known to 0.06 in bfloat16
        assert abs(losses[row] - wanted[row]) < 10 * LAST_BIT * max(1.0, float(wanted[row])), row
        assert error(grad[row], exact.grad[row]) < 10 * LAST_BIT, row
    assert losses[5] == 0 and (grad[5] == 0).all()


def test_a_loss_beyond_the_limit_is_cut_and_nan_is_not_hidden() -> None:
    hidden, weight = torch.ones(2, 16, device=DEVICE).to(DTYPE), torch.zeros(100, 16, device=DEVICE).to(DTYPE)
    weight[3], weight[4] = -10, 10
    hidden[1, 0] = float("nan")
    targets, losses, grad = torch.tensor([3, 3], device=DEVICE), torch.empty(2, device=DEVICE), torch.empty_like(hidden)
    logits = hidden @ weight.T
    rest = head_loss_kernel.losses_and_weights(logits, hidden, weight, targets, losses, grad=True)
    head_loss_kernel.head_grad(logits.float() @ weight.float(), weight, targets, rest, grad)
    assert 64 <= losses[0] < 70 and losses[1].isnan() and grad[1].isnan().all()
    # Away from the others, which count alike beyond the limit: (10 + 98 * 0) / 99, and -10 of the target.
    assert error(grad[0], torch.full((16,), 10 + 10 / 99, device=DEVICE)) < LAST_BIT


PLANS = {
    "fast": ActivationPlan(),
    "lean": ActivationPlan(blocks_full=0),
    "least": ActivationPlan(blocks_full=0, blocks_partial=0),
    "mixed": ActivationPlan(blocks_full=1, blocks_partial=2, blocks_bf16=2),
    "copies": ActivationPlan(blocks_bf16=3),
}


def run_model(
    folder: Path, bits: int, compute: str, dtype: torch.dtype, plan: ActivationPlan | None, targets: str = "auto"
) -> list[torch.Tensor]:
    """Hidden states of real tokens and gradients of A and B, by autograd or the block stack."""
    base = load_base(str(folder), bits=bits, device=DEVICE, compute=compute)
    torch.manual_seed(3)
    model = attach_adapter(base, make_config({"rank": 4, "dropout": 0.0, "bits": bits, "target_modules": targets}))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.1 if targets == "auto" else 0.03)  # four of 0.1 magnify any rounding
        elif hasattr(parameter, "quant_state") and dtype == torch.float32:
            parameter.quant_state.dtype = dtype  # bitsandbytes would round its NF4 weights to bfloat16
    frozen_linear.install(model)
    stack = plan and fast.make_block_stack(
        bloom_model(model), plan.blocks_full, plan.blocks_partial, plan.blocks_bf16, dtype
    )
    model.train()
    rows = [torch.randint(4, 400, (n,)).tolist() for n in (9, 2, 60, 5, 30, 11)]
    (batch,) = pack([Example([*row, 2], [True] * (len(row) + 1)) for row in rows], PackPlan(100, 64))
    assert len(batch.tokens_BT) > 1
    batch = batch.to(DEVICE)
    hidden = hidden_states(LoadedModel(base, model), batch, ForwardOptions(block_stack=stack))[batch.document_BT >= 0]
    (hidden * torch.randn(hidden.shape, device=DEVICE)).sum().backward()
    return [hidden.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_what_a_step_needs_was_compiled_with_the_rest(tmp_path: Path, plan: ActivationPlan) -> None:
    """A kernel that the warm-up leaves out is compiled when a run's first step calls it, while the other cores
    wait."""
    import triton

    base = load_base(
        str(save_tiny(tmp_path / "bloom", heads=5, head_dim=64, layers=3)), bits=8, device=DEVICE, compute="bfloat16"
    )
    model = attach_adapter(base, make_config({"rank": 4, "dropout": 0.3, "bits": 8}))
    for module in (
        attention_grad_kernel,
        attention_kernel,
        dequantize_kernel,
        gelu_kernel,
        head_loss_kernel,
        lora_grad_kernel,
        lora_kernel,
        norm_kernel,
    ):
        for kernel in vars(module).values():  # what an earlier test had compiled would hide a gap
            if isinstance(kernel, triton.JITFunction):
                kernel.device_caches.clear()
    stack = fast.make_block_stack(bloom_model(model), plan.blocks_full, plan.blocks_partial, plan.blocks_bf16)
    loaded, options = LoadedModel(base, model), ForwardOptions(("chunked-loss",), block_stack=stack)
    (batch,) = pack([Example([*range(4, 200), 2], [True] * 197)], PackPlan(192, 64))
    compiled: list[str] = []
    triton.knobs.runtime.jit_post_compile_hook = lambda **told: compiled.append(str(told["fn"].name))
    try:
        model.eval()
        with torch.no_grad():
            token_losses(loaded, batch.to(DEVICE), options)
        model.train()
        token_losses(loaded, batch.to(DEVICE), options).sum().backward()
    finally:
        triton.knobs.runtime.jit_post_compile_hook = None
    assert not compiled


@pytest.mark.slow  # in the interpreter
@pytest.mark.parametrize("targets", ["auto", "all-linear", "dense,dense_4h_to_h", "dense_h_to_4h"])
@pytest.mark.parametrize("bits", [8, 4])
def test_the_block_stack_equals_autograd(tmp_path: Path, bits: int, targets: str) -> None:
    """Against autograd in float32 on the same weights. In bfloat16: about as near as autograd is."""
    folder = save_tiny(tmp_path / "bloom", heads=5, head_dim=64, layers=3, noise=0.02)
    exact = run_model(folder, bits, "float32", torch.float32, None, targets)
    limits = [2e-5, 2e-4]
    if torch.bfloat16 == DTYPE:
        limits = [
            2.5 * error(a, b)
            for a, b in zip(run_model(folder, bits, "bfloat16", DTYPE, None, targets), exact, strict=True)
        ]
    for name, plan in PLANS.items():
        errors = [
            error(a, b) for a, b in zip(run_model(folder, bits, "float32", DTYPE, plan, targets), exact, strict=True)
        ]
        print(bits, name, errors, limits)
        assert all(ours < limit for ours, limit in zip(errors, limits, strict=True)), name
