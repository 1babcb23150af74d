"""What the decoder's tests share: where the kernels run, how exact they must be there, and a stored weight beside the
numbers that it stands for."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from florilegium.fast.decoding.weights import stored_weight

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
# Triton's interpreter multiplies bfloat16 wrongly, so on the CPU the same code runs, and is held to more, in float32.
DTYPE, LAST_BIT = (torch.bfloat16, 4e-3) if CUDA else (torch.float32, 2e-6)
EOS = 2
on_a_card = pytest.mark.skipif(not CUDA, reason="minutes in the interpreter")
runs_kernels = pytest.mark.skipif(
    not CUDA and "TRITON_INTERPRET" not in os.environ, reason="no CUDA device, and not interpreted"
)


def error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours.double() - exact.double()).norm() / exact.double().norm())


def linear(form: int, N: int, K: int) -> tuple[Any, torch.Tensor]:
    """A stored weight and the numbers that it stands for, float64 [N, K]."""
    import bitsandbytes as bnb

    torch.manual_seed(form)
    dense = torch.nn.Linear(K, N, device=DEVICE, dtype=torch.bfloat16).requires_grad_(False)
    bias = torch.randn(N, device=DEVICE).bfloat16()
    if form == 16:
        dense.bias.data.copy_(bias)
        return stored_weight(dense), dense.weight.double()
    if form == 8:
        module = bnb.nn.Linear8bitLt(K, N, has_fp16_weights=False)
        module.weight = bnb.nn.Int8Params(
            dense.weight.data.half().cpu(), requires_grad=False, has_fp16_weights=False
        ).to(DEVICE)
        exact = module.weight.CB.double() * module.weight.SCB.double()[:, None] / 127
    else:
        module = bnb.nn.Linear4bit(K, N, quant_type="nf4", compress_statistics=form == 5, compute_dtype=DTYPE)
        module.weight = bnb.nn.Params4bit(
            dense.weight.data.float(),
            requires_grad=False,
            quant_type="nf4",
            compress_statistics=form == 5,
            blocksize=64,
        ).to(DEVICE)
        exact = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state).double()
    module.bias = torch.nn.Parameter(bias, requires_grad=False)
    return stored_weight(module), exact
