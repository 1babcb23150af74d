"""LoRA's kernels on inputs that come from no norm: with dropout, columns in the order that the matmul beside wants, rows
that lie further apart. Without a CUDA device Triton interprets them."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from florilegium.fast.training import lora_grad_kernel, lora_kernel, norm_kernel
from florilegium.fast.training.norm_kernel import Residual
from florilegium.fast.unpack_kernel import NATURAL_ORDER, PAIR_ORDER
from florilegium.reference import Dropout, drop_limit, dropout_keep
from tests.fast.training.test_block_stack import DEVICE, DTYPE, LAST_BIT, error

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() and "TRITON_INTERPRET" not in os.environ, reason="no CUDA device, and not interpreted"
)
T, K, P = 64, 256, 0.25
NUMBERS = torch.randperm(4 * T, generator=torch.Generator().manual_seed(1))[:T].to(DEVICE, torch.int32)  # of a step's


def stored(x: torch.Tensor, order: int) -> torch.Tensor:
    """Columns as `order` keeps them, in rows that lie further apart: number 16 j + 4 s + 2 h + p at 16 s + 8 h + 2 j +
    p."""
    wide = torch.full((len(x), x.shape[1] + 24), float("nan"), device=DEVICE).to(x.dtype)
    if order == PAIR_ORDER:
        x = x.view(len(x), -1, 4, 4, 2, 2).permute(0, 1, 3, 4, 2, 5).reshape(x.shape)
    wide[:, : x.shape[1]] = x
    return wide[:, : x.shape[1]]


def drawn(stream: int, seed: int = 11) -> Dropout:
    return Dropout(torch.tensor([seed], device=DEVICE), NUMBERS, stream, P)


def kept(stream: int) -> torch.Tensor:
    """What the norm's kernel keeps of [T, K], as the block stack's qkv and up do."""
    norm = torch.nn.LayerNorm(K, device=DEVICE).requires_grad_(False)
    torch.nn.init.zeros_(norm.weight), torch.nn.init.ones_(norm.bias)
    normed, dropped = torch.zeros(2, T, K, dtype=DTYPE, device=DEVICE)
    norm_kernel.residual_norm(
        Residual(torch.zeros_like(normed), None), None, norm, normed, dropped, dropout=drawn(stream)
    )
    return (dropped != 0).double()


def test_the_plain_path_drops_the_same() -> None:
    assert torch.equal(kept(7) > 0, dropout_keep(11, 7, NUMBERS, K, drop_limit(P)))


@pytest.mark.parametrize("order", [NATURAL_ORDER, PAIR_ORDER])
@pytest.mark.parametrize("rank", [4, 24])
def test_every_kernel_drops_the_same(order: int, rank: int) -> None:
    torch.manual_seed(0)
    dropout, mask = drawn(7), kept(7) / (1 - P)
    assert 0.65 < float((mask > 0).double().mean()) < 0.85 and not torch.equal(kept(8) > 0, mask > 0)
    x, a, beside = (torch.randn(n, m, device=DEVICE).to(DTYPE) for n, m in ((T, K), (rank, K), (T, -(-rank // 8) * 8)))
    x_at = lora_kernel.down_projection(stored(x, order), a, beside, order=order, dropout=dropout)
    assert error(x_at, (x * mask) @ a.double().T) < LAST_BIT
    assert torch.equal(beside[:, :rank], x_at) and (beside[:, rank:] == 0).all()

    x_at_grad, out_grad = (torch.randn(T, n, device=DEVICE).to(DTYPE) for n in (32, 100))
    by = torch.rand(100, device=DEVICE)
    grad_a, grad_b = lora_grad_kernel.lora_gradients(
        stored(x, order), x_at_grad[:, :rank], stored(out_grad, NATURAL_ORDER), x_at, by, order=order, dropout=dropout
    )
    assert error(grad_a, x_at_grad[:, :rank].double().T @ (x * mask).double()) < LAST_BIT
    assert error(grad_b, out_grad.double().T @ x_at.double() * by[:, None]) < 1e-5

    before, slope = torch.randn(T, K, device=DEVICE).to(DTYPE), torch.rand(T, K, device=DEVICE).to(DTYPE)
    more = (x_at_grad[:, :rank].double() @ a.double()) * mask
    for given, exact in ((None, before + more), (slope, before + more * slope)):
        grad = stored(before, NATURAL_ORDER)
        lora_grad_kernel.add_lora_input_grad(grad, x_at_grad[:, :rank], a, given, dropout)
        assert error(grad, exact) < LAST_BIT


def test_without_dropout_nothing_is_dropped() -> None:
    x, a, beside = (torch.randn(n, m, device=DEVICE).to(DTYPE) for n, m in ((T, K), (16, K), (T, 16)))
    x_at = lora_kernel.down_projection(stored(x, PAIR_ORDER), a, beside, order=PAIR_ORDER)
    assert error(x_at, x.double() @ a.double().T) < LAST_BIT
    grad = torch.zeros(T, K, device=DEVICE).to(DTYPE)
    lora_grad_kernel.add_lora_input_grad(grad, x_at, a)
    assert error(grad, x_at.double() @ a.double()) < LAST_BIT


def test_a_rank_that_the_kernels_do_not_hold_is_not_cut() -> None:
    x, a = torch.randn(T, K, device=DEVICE).to(DTYPE), torch.randn(300, K, device=DEVICE).to(DTYPE)
    with pytest.raises(AssertionError, match="as they are"):
        lora_kernel.down_projection(x, a, torch.empty(T, 304, device=DEVICE).to(DTYPE), dropout=drawn(1))
