"""Each fast piece against its reference and against float64: forward, backward, odd shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from florilegium.fast import frozen_linear, head_loss_slices, head_losses
from florilegium.reference import alibi_slopes, cross_entropy_losses, sdpa_attention


@pytest.mark.parametrize("rows,width,vocabulary", [(1, 8, 50), (37, 24, 1000), (200, 16, 40_000)])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=["fp32", "bf16 head"])
def test_head_losses_equal_the_reference(rows: int, width: int, vocabulary: int, stored: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(vocabulary, width).to(stored)
    targets = torch.randint(0, vocabulary, (rows,))
    gradients, losses = [], []
    for function in (cross_entropy_losses, lambda h, w, t: head_losses(h, w, t, chunk_bytes=4 * vocabulary * 20)):
        torch.manual_seed(1)
        hidden = (torch.randn(rows, width) * 3).requires_grad_()
        loss = function(hidden, weight, targets)
        (loss * torch.linspace(0.5, 2, rows)).sum().backward()
        losses.append(loss.detach())
        gradients.append(hidden.grad)
    assert torch.allclose(losses[0], losses[1], rtol=1e-5, atol=1e-5)
    assert (gradients[0] - gradients[1]).norm() / gradients[0].norm() < 1e-5


@pytest.mark.parametrize("slice_tokens", [256, 700, 5000])
@pytest.mark.parametrize("scale", [1, 40], ids=["near", "certain"])
def test_a_head_that_is_cast_slice_by_slice_is_as_near_to_float64(monkeypatch, slice_tokens: int, scale: int) -> None:
    """Targets in every slice, some that are nearly certain, one row without, rows and slices that do not divide."""
    monkeypatch.setattr(head_loss_slices, "SLICE_BYTES", 4 * 24 * slice_tokens)
    torch.manual_seed(0)
    hidden, weight = scale * torch.randn(45, 24), torch.randn(3001, 24).bfloat16()
    targets = torch.randint(0, 3001, (45,))
    targets[:10] = (hidden[:10] @ weight.float().T).argmax(-1)
    targets[11] = -100
    found = []
    for h, w in ((hidden.double(), weight.double()), (hidden, weight)):
        h.requires_grad_()
        exactly = h.dtype == torch.float64
        losses = F.cross_entropy(h @ w.T, targets, reduction="none") if exactly else head_losses(h, w, targets, 8000)
        losses.sum().backward()
        found.append((losses.detach(), h.grad))
    (exact, exact_grad), (ours, our_grad) = found
    assert torch.allclose(ours.double(), exact, rtol=1e-5, atol=1e-5 * scale)  # logits of 1,000 have steps of 6e-5
    assert (our_grad - exact_grad).norm() / exact_grad.norm() < 1e-5
    assert (our_grad[:10] - exact_grad[:10]).abs().max() < 1e-5 * scale


@pytest.mark.parametrize("function", [head_losses, cross_entropy_losses], ids=["fast", "reference"])
@pytest.mark.parametrize("targets", [[-100] * 5, [-100, 3, -100, 7, -100]], ids=["none", "some"])
def test_places_without_a_target_have_no_loss_and_no_gradient(function, targets: list[int]) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(5, 8).requires_grad_()
    losses = function(hidden, torch.randn(50, 8), torch.tensor(targets))
    losses.sum().backward()
    learned = torch.tensor(targets) >= 0
    assert (losses[~learned] == 0).all() and (losses[learned] > 0).all()
    assert (hidden.grad[~learned] == 0).all() and (hidden.grad[learned].abs().sum(1) > 0).all()


def test_head_losses_in_bfloat16_are_as_near_to_float64_as_torch_is() -> None:
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(64, 32), torch.randn(5000, 32), torch.randint(0, 5000, (64,))
    exact = F.cross_entropy(hidden.bfloat16().double() @ weight.bfloat16().double().T, targets, reduction="none")
    stock = F.cross_entropy((hidden.bfloat16() @ weight.bfloat16().T).float(), targets, reduction="none")
    ours = head_losses(hidden.bfloat16(), weight.bfloat16(), targets)
    assert (ours - exact).norm() <= 1.05 * (stock - exact).norm()


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize("dtype,limit", [(torch.float32, 1e-6), (torch.bfloat16, 6e-3)])
def test_frozen_linear_equals_the_dequantised_weight(kind: str, dtype: torch.dtype, limit: float) -> None:
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    torch.manual_seed(0)
    K, N = 128, 96
    module = Linear8bitLt(K, N, has_fp16_weights=False) if kind == "int8" else Linear4bit(K, N, quant_type="nf4")
    module = module.to("cpu").requires_grad_(False)
    assert frozen_linear.install(module) == 1
    exact_NK = frozen_linear.weight_of(module, torch.float32).double()
    x = torch.randn(3, 7, K).to(dtype).requires_grad_()
    y = module(x)
    grad = torch.randn(3, 7, N).to(dtype)
    y.backward(grad)
    wanted = x.detach().double() @ exact_NK.T + module.bias.double()
    assert (y.double() - wanted).norm() / wanted.norm() < limit
    wanted_grad = grad.double() @ exact_NK
    assert (x.grad.double() - wanted_grad).norm() / wanted_grad.norm() < limit
    frozen_linear.remove(module)
    assert "forward" not in module.__dict__


def test_nothing_but_references_is_kept_for_the_backward_pass() -> None:
    from bitsandbytes.nn import Linear8bitLt

    module = Linear8bitLt(64, 64, has_fp16_weights=False).to("cpu").requires_grad_(False)
    frozen_linear.install(module)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        module(torch.randn(5, 64, requires_grad=True))
    assert kept == []


@pytest.mark.parametrize("heads", [1, 4, 5, 14, 16, 112])
def test_slopes_equal_stock_bloom(heads: int) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    stock = build_alibi_tensor(torch.ones(1, 2, dtype=torch.long), heads, torch.float32)[:, 0, 1]
    assert torch.allclose(alibi_slopes(heads), stock, rtol=1e-6)


def test_a_document_may_lie_anywhere_in_its_row() -> None:
    """The relative bias does not change with the place; stock BLOOM's absolute one does, in bfloat16."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 4, 16, 8) for _ in range(3))
    slopes = alibi_slopes(4)
    alone = sdpa_attention(torch.zeros(1, 16, dtype=torch.int32), slopes, torch.float32)(q, k, v)
    row = torch.full((1, 2000), -1, dtype=torch.int32)
    row[0, 1900:1916] = 3
    placed = [torch.zeros(1, 4, 2000, 8) for _ in range(3)]
    for whole, part in zip(placed, (q, k, v), strict=True):
        whole[:, :, 1900:1916] = part
    far = sdpa_attention(row, slopes, torch.float32)(*placed)[:, :, 1900:1916]
    assert torch.allclose(alone, far, atol=1e-6)
