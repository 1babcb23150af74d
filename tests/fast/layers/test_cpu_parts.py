"""What a CPU computes the layers by, in 16 bits: as near to float32 as its roundings allow, forward and back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from florilegium.fast.layers.cpu_parts import ON_CPU
from florilegium.fast.layers.packed_rows import PackedRows
from florilegium.fast.layers.parts import GELU_TANH, SILU
from florilegium.reference import Dropout, dropout_keep

SIZES = [9, 1, 30, 24]
T = sum(SIZES)
Function = Callable[..., torch.Tensor]


def rows() -> PackedRows:
    starts = torch.tensor([sum(SIZES[:i]) for i in range(len(SIZES))], dtype=torch.int32)
    sizes = torch.tensor(SIZES)
    start_T = starts.repeat_interleave(sizes)
    end_T = (starts + sizes).int().repeat_interleave(sizes)
    return PackedRows(start_T, end_T, torch.arange(T, dtype=torch.int32), None, max(SIZES))


def values_and_gradients(function: Function, inputs: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    given = [x.detach().to(dtype).requires_grad_() for x in inputs]
    out = function(*given)
    grad = torch.linspace(-1, 1, out.numel(), dtype=torch.float32).view(out.shape).to(dtype)
    return [out.detach(), *torch.autograd.grad(out, given, grad)]


def attention_under_a_mask(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int = T) -> torch.Tensor:
    start_T, groups = rows().start_T, q.shape[1] // k.shape[1]
    index = torch.arange(T)
    allowed_TT = (start_T[:, None] == start_T[None]).tril() & (index[:, None] - index < window)
    q, k, v = (x.transpose(0, 1) for x in (q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed_TT).transpose(0, 1)


CASES: dict[str, tuple[Function, Function, list[tuple[int, ...]]]] = {
    "attention": (
        lambda q, k, v: ON_CPU.attend(q, k, v, rows(), None),
        attention_under_a_mask,
        [(T, 4, 32), (T, 2, 32), (T, 2, 32)],
    ),
    "attention in a window": (
        lambda q, k, v: ON_CPU.attend(q, k, v, rows(), 7),
        lambda q, k, v: attention_under_a_mask(q, k, v, 7),
        [(T, 4, 32), (T, 2, 32), (T, 2, 32)],
    ),
    "norm": (
        lambda x: ON_CPU.rms_norm(x, torch.linspace(0.5, 2, 96, dtype=x.dtype), 1e-5),
        lambda x: F.rms_norm(x, (96,), torch.linspace(0.5, 2, 96, dtype=x.dtype), 1e-5),
        [(T, 96)],
    ),
    "silu": (lambda a, b: ON_CPU.gate(a, b, SILU), lambda a, b: F.silu(a) * b, [(T, 96), (T, 96)]),
    "gelu": (
        lambda a, b: ON_CPU.gate(a, b, GELU_TANH),
        lambda a, b: F.gelu(a, approximate="tanh") * b,
        [(T, 96), (T, 96)],
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_a_part_is_its_formula(name: str, dtype: torch.dtype) -> None:
    ours, formula, shapes = CASES[name]
    torch.manual_seed(0)
    inputs = [torch.randn(shape) for shape in shapes]
    exact = values_and_gradients(formula, [x.to(dtype).float() for x in inputs], torch.float32)
    near = 1e-5 if dtype == torch.float32 else 0.01
    for found, wanted in zip(values_and_gradients(ours, inputs, dtype), exact, strict=True):
        assert found.dtype == dtype
        assert (found.float() - wanted).norm() < near * wanted.norm()


@pytest.mark.parametrize("width", [32, 37])
def test_the_bits_that_are_kept_of_a_dropout_are_its_draws(width: int) -> None:
    dropout = Dropout(torch.tensor([11]), torch.arange(T, dtype=torch.int32), 3, 0.25)
    kept = ON_CPU.kept(dropout, width)
    assert kept is not None and kept.dtype == torch.uint8 and kept.shape == (T, -(-width // 8))
    x_TK, a_RK = torch.randn(T, width), torch.eye(width)
    wanted = x_TK * dropout_keep(11, 3, dropout.number_T, width, dropout.drop_limit) / 0.75
    down, beside = ON_CPU.down_projection(x_TK, a_RK, 40, dropout, kept)
    assert torch.allclose(down, wanted) and torch.equal(beside[:, :width], down) and not beside[:, width:].any()
    grad = torch.zeros(T, width)
    ON_CPU.add_input_grad(grad, x_TK, a_RK, dropout, kept)
    assert torch.allclose(grad, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_row_of_an_int8_product_is_off_the_same_way_in_every_token(dtype: torch.dtype) -> None:
    """What is rounded once for a row would be."""
    import bitsandbytes as bnb

    N, K, generator = 64, 256, torch.Generator().manual_seed(0)
    codes = torch.randint(-127, 128, (N, K), dtype=torch.int8, generator=generator)
    scale_N = torch.rand(N, generator=generator) * 0.1 + 0.01
    linear = bnb.nn.Linear8bitLt(K, N, bias=False, has_fp16_weights=False)
    linear.weight = bnb.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scale_N)
    exact_NK = codes.double() * (scale_N.double() / 127)[:, None]
    buffer = torch.empty(0, dtype=dtype)
    x_TK, grad_TN = (torch.randn(512, width, generator=generator).to(dtype) for width in (K, N))
    found = ON_CPU.product(x_TK, linear, buffer), ON_CPU.product_grad(grad_TN, linear, buffer)
    for ours, exact in zip(found, (x_TK.double() @ exact_NK.T, grad_TN.double() @ exact_NK), strict=True):
        assert ours.dtype == dtype
        gain = (ours.double() * exact).sum(0) / exact.square().sum(0)
        assert (gain - 1).abs().mean() < 5e-4, "0.0015 with scales in 16 bits"


@pytest.mark.parametrize("p", [0.05, 0.1])
def test_a_dropout_in_16_bits_is_no_factor_off(p: float) -> None:
    dropout = Dropout(torch.tensor([5]), torch.arange(512, dtype=torch.int32), 0, p)
    x_TK = torch.rand(512, 256).bfloat16() + 1
    down, _ = ON_CPU.down_projection(
        x_TK, torch.eye(256, dtype=torch.bfloat16), 256, dropout, ON_CPU.kept(dropout, 256)
    )
    left = down != 0
    assert abs(float((down.double()[left] / x_TK.double()[left]).mean()) * (1 - p) - 1) < 3e-4
