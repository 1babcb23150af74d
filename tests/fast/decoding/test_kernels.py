"""The fast decoder's kernels against float64: matmuls, attention over the cache. Without a CUDA device Triton interprets
them (`TRITON_INTERPRET=1 pytest tests/fast/decoding`)."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from florilegium.fast.decoding import attention_kernel, block_kernel, matmul_kernel
from florilegium.fast.decoding.block_kernel import LoraInput
from florilegium.fast.decoding.matmul_kernel import LoraOperands
from florilegium.fast.decoding.stored_weight import padded
from florilegium.fast.unpack_kernel import BYTE_ORDER, NATURAL_ORDER, PAIR_ORDER, in_stored_order
from florilegium.reference import alibi_slopes
from tests.fast.decoding.interpreted import CUDA, DEVICE, DTYPE, LAST_BIT, error, linear, on_a_card, runs_kernels

pytestmark = runs_kernels


def in_mma_order(x: torch.Tensor, form: int) -> torch.Tensor:
    """As a kernel that makes rows for that form writes them."""
    if form == 16:
        return x
    column = torch.arange(x.shape[1], device=x.device)
    j, s, p, h = column // 16 % 4, column // 4 % 4, column // 2 % 2, column % 2
    if form != 8:
        p, h = h, p
    out = torch.empty_like(x)
    out[:, column // 64 * 64 + 16 * s + 8 * h + 2 * j + p] = x
    return out


@pytest.mark.parametrize("form", [8, 16, 4, 5])
@pytest.mark.parametrize(("M", "N", "K", "split"), [(3, 200, 192, 1), (40, 128, 512, 4)])
def test_matmul(form: int, M: int, N: int, K: int, split: int) -> None:
    weight, exact_NK = linear(form, N, K)
    assert weight.bits == (4 if form == 5 else form)
    x = torch.zeros(padded(M)[1], K, dtype=DTYPE, device=DEVICE)
    x[:M] = torch.randn(M, K, device=DEVICE).to(DTYPE)
    raw = torch.full((split, M, N), float("nan"), device=DEVICE)
    matmul_kernel.stored_matmul(in_mma_order(x, form), weight, raw, M, matmul_kernel.PARTIAL, split=split)
    exact = x[:M].double() @ exact_NK.T
    assert error(raw.sum(0) * weight.scale_N, exact) < LAST_BIT
    if form in (8, 16):  # as a head is stored
        scores = torch.full((M, N), float("nan"), device=DEVICE)
        matmul_kernel.stored_matmul(in_mma_order(x, form), weight, scores, M, matmul_kernel.SCORES)
        assert error(scores, exact) < LAST_BIT
    x_at, b = (torch.randn(n, 32, device=DEVICE).to(DTYPE) for n in (len(x), N))
    place = torch.zeros(M, dtype=torch.int32, device=DEVICE)
    adapter = LoraOperands(b[None], x_at, place, torch.tensor([1, 0], dtype=torch.int32, device=DEVICE))
    matmul_kernel.stored_matmul(in_mma_order(x, form), weight, raw, M, matmul_kernel.PARTIAL, split=split, lora=adapter)
    more = x_at[:M].double() @ b.double().T
    assert error(raw.sum(0) * weight.scale_N, exact + more * weight.scale_N) < LAST_BIT
    if N % 64 == 0:  # as every product that another product follows
        active = torch.full((M, N), float("nan"), dtype=DTYPE, device=DEVICE)
        matmul_kernel.stored_matmul(in_mma_order(x, form), weight, active, M, matmul_kernel.GELU)
        wanted = torch.nn.functional.gelu(exact + weight.bias_N.double(), approximate="tanh")
        assert error(active, in_mma_order(wanted, form)) < LAST_BIT
        matmul_kernel.stored_matmul(in_mma_order(x, form), weight, active, M, matmul_kernel.GELU, lora=adapter)
        wanted = torch.nn.functional.gelu(exact + weight.bias_N.double() + more, approximate="tanh")
        assert error(active, in_mma_order(wanted, form)) < LAST_BIT


@pytest.mark.parametrize("form", [8, 16, 4])
def test_the_adapters_product_of_an_input_that_no_norm_makes(form: int) -> None:
    """Columns in the order of the weight; rows of one adapter, of another and of none."""
    M, K, R = 5, 4160, 16
    x, a = torch.randn(M, K, device=DEVICE).to(DTYPE), torch.randn(R, K, device=DEVICE).to(DTYPE)
    order = {4: PAIR_ORDER, 8: BYTE_ORDER, 16: NATURAL_ORDER}[form]
    assert torch.equal(in_stored_order(x, order), in_mma_order(x, form))
    place, x_at = (
        torch.tensor([1, 0, -1, 0, 1], dtype=torch.int32, device=DEVICE),
        torch.full((M, R), float("nan"), device=DEVICE),
    )
    others = torch.stack([a, -2 * a])
    block_kernel.down_projection(in_stored_order(x, order), LoraInput(in_stored_order(others, order), place, x_at), M)
    wanted = x.double() @ a.double().T
    wanted[[0, 4]], wanted[2] = -2 * wanted[[0, 4]], 0
    assert error(x_at, wanted) < 1e-5 and (x_at[2] == 0).all()


@pytest.mark.parametrize(("R", "split", "kind"), [(16, 2, matmul_kernel.PARTIAL), (128, 1, matmul_kernel.GELU)])
def test_rows_of_several_adapters_add_each_its_own(R: int, split: int, kind: int) -> None:
    """To the bit what each gets alone, with whole numbers, whose sums are exact in any order: five places, of which
    this step's rows use three; rows of none; a place that nobody uses holds what is no number."""
    M, N, K, places = 23, 128, 256, 5
    weight, _ = linear(8, N, K)
    generator = torch.Generator().manual_seed(3)

    def whole(*shape: int) -> torch.Tensor:
        return torch.randint(-3, 4, shape, generator=generator).to(DEVICE, DTYPE)

    x, x_at, b = whole(padded(M)[1], K), whole(padded(M)[1], R), whole(places, N, R)
    b[2] = float("nan")
    as_int = {"dtype": torch.int32, "device": DEVICE}
    place = torch.tensor([[4, 0, -1, 1][m % 4] for m in range(M)], **as_int)
    x_at[:M][place < 0] = 0
    listed = torch.tensor([3, 0, 1, 4, -1, -1, -1, -1, -1], **as_int)
    out = torch.full((split, M, N), float("nan"), device=DEVICE)
    lora = LoraOperands(b, x_at, place, listed)
    matmul_kernel.stored_matmul(x, weight, out, M, kind, lora=lora, split=split)
    for m in range(M):
        alone = torch.full((split, 1, N), float("nan"), device=DEVICE)
        own = None
        if place[m] >= 0:
            only = torch.tensor([1, 0], **as_int)
            own = LoraOperands(b[place[m]][None].contiguous(), x_at[m:].contiguous(), place[m : m + 1] * 0, only)
            own = own._replace(x_at_MR=torch.cat([own.x_at_MR, x_at[: 2 * m + 16]]))
        rows = torch.cat([x[m:], x[:m]]).contiguous()
        matmul_kernel.stored_matmul(rows, weight, alone, 1, kind, lora=own, split=split)
        assert torch.equal(alone[:, 0], out[:, m]), (m, place[m])


@on_a_card
@pytest.mark.gpu
@pytest.mark.parametrize("form", [8, 16, 4, 5])
@pytest.mark.parametrize(("N", "K", "split"), [(320, 1024, 1), (320, 1024, 2), (16384, 4096, 1), (4096, 16384, 2)])
def test_a_row_is_the_same_whatever_the_number_of_rows(form: int, N: int, K: int, split: int) -> None:
    """To the bit, and each time: M chooses the tile, and no tile may sum in another order. With as many outputs as a 7b1
    has, a multiprocessor runs several programs: one whose warps did not wait for each other was right alone."""
    weight, _ = linear(form, N, K)
    x = torch.randn(1024, K, device=DEVICE).to(DTYPE)
    all_rows: list[torch.Tensor] = []
    for M in (1, 16, 32, 64, 128, 256, 384, 512, 1024):
        for _ in range(3):
            out = torch.full((split, M, N), float("nan"), device=DEVICE)
            matmul_kernel.stored_matmul(x, weight, out, M, matmul_kernel.PARTIAL, split=split)
            all_rows.append(out)
    for fewer, more in itertools.pairwise(all_rows):
        assert torch.equal(fewer, more[:, : fewer.shape[1]]), more.shape


def test_every_int8_is_exact() -> None:
    weight, _ = linear(8, 64, 64)
    codes = torch.randint(-128, 128, (64, 64), dtype=torch.int8, device=DEVICE)
    codes.view(-1)[:256] = torch.arange(-128, 128, dtype=torch.int8, device=DEVICE)
    x = torch.eye(64, dtype=DTYPE, device=DEVICE)
    out = torch.empty(1, 64, 64, device=DEVICE)
    weight = replace(weight, stored=codes.view(torch.int32))
    matmul_kernel.stored_matmul(in_mma_order(x, 8), weight, out, 64, matmul_kernel.PARTIAL)
    assert torch.equal(out[0], codes.T.float())


@pytest.mark.parametrize("head_dim", [64, 80])
def test_attention_over_the_cache(head_dim: int) -> None:
    torch.manual_seed(0)
    # Texts that write on, one that has ended, and forty rows of a prompt that is read from place 20 on.
    H, S, positions = 3, 128, [0, 70, -1, 127, *range(20, 60)]
    M = len(positions)
    query = torch.randn(M, H * head_dim, device=DEVICE).to(DTYPE)
    keys, values = (torch.randn(5, H, S, head_dim, device=DEVICE).to(DTYPE) for _ in range(2))
    slots, slopes = [1, 0, 2, 4, *[3] * 40], alibi_slopes(H, DEVICE)
    out = torch.full_like(query, 7.0)
    as_int = {"dtype": torch.int32, "device": DEVICE}
    slot, position = torch.tensor(slots, **as_int), torch.tensor(positions, **as_int)
    attention_kernel.cached_attention(query, keys, values, slot, position, slopes, out, M, 16)
    for m in range(1, M, 7):
        alone = torch.full_like(query[:1], 7.0)
        attention_kernel.cached_attention(
            query[m : m + 1], keys, values, slot[m : m + 1], position[m : m + 1], slopes, alone, 1, 16
        )
        # NumPy, which interprets on the CPU, sums a row by its place in the tile.
        assert torch.equal(alone[0], out[m]) if CUDA else error(alone[0], out[m]) < 1e-6, m
    for m, (s, p) in enumerate(zip(slots, positions, strict=True)):
        if p < 0:
            assert (out[m] == 7).all()
            continue
        q = query[m].view(H, 1, head_dim).double()
        distance = torch.arange(p + 1, device=DEVICE) - p
        score = (q * keys[s, :, : p + 1].double()).sum(-1) / head_dim**0.5 + slopes[:, None].double() * distance
        exact = (score.softmax(-1)[..., None] * values[s, :, : p + 1].double()).sum(1)
        assert error(out[m].view(H, head_dim), exact) < LAST_BIT
