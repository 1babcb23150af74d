"""Tensors of more than 2^31 numbers, which 32 bits cannot count: BLOOM-176B's embedding has 250,880 x 14,336.

Of such a tensor a test touches a few rows at its end; the rest is memory that is asked for and never used. Without a
CUDA device Triton interprets the kernels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="Triton is not installed")

from florilegium.fast import head_loss_kernel
from florilegium.fast.decoding import block_kernel
from florilegium.fast.decoding.state import make_slot_state
from florilegium.fast.dequantize_kernel import dequantize_int8, dequantize_nf4
from florilegium.fast.training import gelu_kernel
from florilegium.model.tensor_reader import TensorReader
from florilegium.storage.safetensors_io import header_piece
from tests.fast.decoding.interpreted import DEVICE, runs_kernels

FAR = 1 << 31
ROWS, WIDTH = 131_200, 16_384  # the fewest that pass it, and a few more


def embedding(dtype: torch.dtype) -> torch.Tensor:
    """[ROWS, WIDTH], its last 64 rows random, the others never written."""
    torch.manual_seed(0)
    table = torch.empty(ROWS, WIDTH, dtype=dtype, device=DEVICE)
    assert table.numel() > FAR
    table[-64:] = torch.randn(64, WIDTH, device=DEVICE).mul(9).to(dtype)
    return table


def rows_far_apart(N: int, K: int, dtype: torch.dtype) -> torch.Tensor:
    """[N, K] whose last row begins beyond 2^31."""
    stride = FAR // (N - 1) + 64
    return torch.empty((N - 1) * stride + K, dtype=dtype, device=DEVICE).as_strided((N, K), (stride, 1))


@runs_kernels
def test_an_embedding_is_read_at_its_end() -> None:
    table, norm = embedding(torch.int8), torch.nn.LayerNorm(WIDTH, device=DEVICE)
    bloom: Any = SimpleNamespace(
        word_embeddings=SimpleNamespace(weight=table), word_embeddings_layernorm=norm.requires_grad_(False)
    )
    state = make_slot_state(2, 8, 64, 2, torch.device(DEVICE))
    token = torch.tensor([ROWS - 1, ROWS - 40], dtype=torch.int32, device=DEVICE)
    places = torch.tensor([0, 1], dtype=torch.int32, device=DEVICE)
    inputs: Any = SimpleNamespace(token=token, position=places, slot=places)
    found = torch.empty(2, WIDTH, device=DEVICE)
    block_kernel.embed(state, inputs, bloom, found, 2)
    wanted = F.layer_norm(table[token.long()].float(), (WIDTH,), norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@runs_kernels
def test_the_head_s_loss_reads_its_last_rows() -> None:
    weight, targets = embedding(torch.bfloat16), torch.tensor([ROWS - 1, -100, ROWS - 60], device=DEVICE)
    hidden, logits = (torch.randn(3, n, device=DEVICE).bfloat16() for n in (WIDTH, ROWS))
    hidden /= 100  # exponentials of what follows stay within bounds
    own = (hidden.float() * weight[targets].float()).sum(1)
    weighed = (logits.float() - own[:, None]).clamp(max=64).exp()
    weighed[torch.arange(3), targets.clamp(min=0)] = 0
    losses = torch.empty(3, device=DEVICE)
    rest = head_loss_kernel.losses_and_weights(logits, hidden, weight, targets, losses, grad=True)
    there = targets >= 0
    torch.testing.assert_close(losses[there], weighed.sum(1).log1p()[there], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits[there].float(), weighed[there], rtol=1e-2, atol=0)
    sums, grad = torch.randn(3, WIDTH, device=DEVICE), torch.empty(3, WIDTH, device=DEVICE)
    head_loss_kernel.head_grad(sums, weight, targets, rest, grad)
    wanted = (sums - rest[:, None] * weight[targets].float()) / (1 + rest[:, None])
    torch.testing.assert_close(grad, torch.where(there[:, None], wanted, 0.0), rtol=1e-3, atol=1e-3)


@runs_kernels
@pytest.mark.parametrize("bits", [8, 4])
def test_weights_are_dequantised_into_rows_far_apart(bits: int) -> None:
    """As into a copy that has the adapter's columns beside it."""
    import bitsandbytes as bnb

    near, far = torch.empty(3, 128, dtype=torch.int8, device=DEVICE), rows_far_apart(3, 128, torch.int8)
    for out in (near, far):
        if bits == 8:
            codes = torch.arange(3 * 128, device=DEVICE).remainder(255).sub(127).to(torch.int8).view(3, 128)
            dequantize_int8(codes, None, out)
        else:
            torch.manual_seed(0)
            packed, state = bnb.functional.quantize_4bit(torch.randn(3, 128, device=DEVICE) * 40, quant_type="nf4")
            dequantize_nf4(packed, state, out)
    assert torch.equal(near, far) and near.any()


@runs_kernels
def test_gelu_writes_rows_far_apart() -> None:
    torch.manual_seed(0)
    raw, scale, bias = torch.randn(3, 64, device=DEVICE), torch.ones(64, device=DEVICE), torch.zeros(64, device=DEVICE)
    near, far = torch.empty(3, 64, dtype=torch.float16, device=DEVICE), rows_far_apart(3, 64, torch.float16)
    for out in (near, far):
        gelu_kernel.gelu(raw, scale, bias, out)
    assert torch.equal(near, far) and near.any()
    for grad in (near, far):
        gelu_kernel.gelu_grad(raw, scale, bias, grad)
    assert torch.equal(near, far) and near.any()


@pytest.mark.slow  # 2 GiB of memory
def test_a_tensor_is_read_from_a_file_beyond_4_gib(tmp_path: Path) -> None:
    """The file is a hole but for its ends."""
    path, size = tmp_path / "model.safetensors", FAR + 70
    entries = {"first": (0, FAR + 6), "last": (FAR + 6, FAR + 6 + size)}
    header = header_piece(
        {
            name: {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}
            for name, (start, end) in entries.items()
        }
    )
    with path.open("wb") as file:
        file.write(header)
        file.seek(len(header) + entries["last"][0])
        file.write(b"begin")
        file.seek(len(header) + entries["last"][1] - 3)
        file.write(b"end")
    with TensorReader(path, torch.device("cpu")) as reader:
        found = reader.read("last")
    assert len(found) == size and bytes(found[:5].tolist()) == b"begin" and bytes(found[-3:].tolist()) == b"end"
    assert not found[5:64].any() and not found[-64:-3].any()
