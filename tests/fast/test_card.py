"""What is computed in, and which kernels run, by what a card can do; and float16 on BLOOM's own forward pass."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from florilegium import fast
from florilegium.fast import card as cards
from florilegium.fast import support
from florilegium.fast.card import CARDS, Card, acting_as, card_of
from florilegium.model import (
    ForwardOptions,
    LoadedModel,
    choose_compute_dtype,
    fast_paths,
    hidden_states,
    token_losses,
)
from florilegium.model.base import Base
from florilegium.tokens import Example, PackPlan, pack
from tests.tiny import make_bloom

CUDA = torch.device("cuda")
HALF = Card((7, 0), 96 * 1024)


@pytest.mark.parametrize(
    ("capability", "own", "others"),
    [
        ((6, 1), torch.float32, torch.float32),
        ((7, 0), torch.float16, torch.float32),
        ((7, 5), torch.float16, torch.float32),
        ((8, 0), torch.bfloat16, torch.bfloat16),
        ((8, 6), torch.bfloat16, torch.bfloat16),
        ((9, 0), torch.bfloat16, torch.bfloat16),
        ((12, 0), torch.bfloat16, torch.bfloat16),
    ],
)
def test_the_compute_dtype_by_capability(
    capability: tuple[int, int], own: torch.dtype, others: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *given, **named: True)  # as it says of a T4
    with acting_as(Card(capability, 64 * 1024)):
        for bits in (8, 4):
            assert choose_compute_dtype("auto", CUDA, bits) == own
            assert choose_compute_dtype("auto", CUDA, bits, own_forward=False) == others
        assert choose_compute_dtype("auto", CUDA, 32) == torch.float32
        assert choose_compute_dtype("float32", CUDA, 8) == torch.float32


@pytest.mark.parametrize("name", ["fused-blocks", "fast-decode", "flex-attention"])
def test_a_kernel_is_refused_on_an_older_card_with_the_reason(name: str) -> None:
    with acting_as(CARDS["T4"]):
        names, reason = fast.select_kernels(name, CUDA, 8)
        assert names == (name,) and ("7.5" in reason or "older than Ampere" in reason)
        assert fast.select_kernels("auto", CUDA, 8) == (("quantized-linear", "chunked-loss"), "")
        bloom = make_bloom().transformer
        assert "compute capability 7.5" in support.shared_unsupported_reason(bloom, CUDA, torch.bfloat16)
    with acting_as(CARDS["RTX 3090"]):
        assert fast.select_kernels("auto", CUDA, 8) == (fast.AUTO, "")


@pytest.mark.parametrize(("num_tokens", "head_dim", "flex"), [
    (256, 8, False), (256, 15, False), (256, 16, True), (256, 80, True), (256, 256, True), (256, 257, False), (192, 64, False),
])  # fmt: skip
def test_attention_is_chosen_by_the_shape_before_it_runs(
    num_tokens: int, head_dim: int, flex: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an Ampere card: the tensors that choose have no numbers."""
    monkeypatch.setattr(fast.flex_attention, "document_attention", lambda *given: "flex")
    monkeypatch.setattr(fast_paths.reference, "sdpa_attention", lambda *given: "plain")
    document_BT = SimpleNamespace(device=CUDA, shape=torch.Size((1, num_tokens)))
    with acting_as(CARDS["RTX 3090"]):
        slopes_H = torch.ones(4)
        chosen = fast_paths.attention(("flex-attention",), document_BT, slopes_H, torch.bfloat16, head_dim)  # type: ignore[arg-type]
        none = fast_paths.attention((), document_BT, slopes_H, torch.bfloat16, head_dim)  # type: ignore[arg-type]
    assert chosen == ("flex" if flex else "plain") and none == "plain"


def test_acting_as_a_consumer_card_takes_no_hopper_instruction_and_smaller_tiles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cards, "_real", lambda device: Card((9, 0), 227 * 1024))
    assert support.is_hopper(CUDA) and card_of(CUDA).is_roomy
    for name in ("RTX 3090", "RTX 4090"):
        with acting_as(CARDS[name]):
            assert not support.is_hopper(CUDA) and not card_of(CUDA).is_roomy
    assert support.is_hopper(CUDA)


def loaded(dtype: torch.dtype) -> LoadedModel:
    """A BLOOM whose residual stream passes float16's largest number, 65,504, as large ones' do in a few columns."""
    model = make_bloom()
    stored = torch.float16 if dtype == torch.float16 else torch.float32
    for block in model.transformer.h:
        block.mlp.dense_4h_to_h.bias.data[3] = 40_000.0
        for linear in (
            block.self_attention.query_key_value,
            block.self_attention.dense,
            block.mlp.dense_h_to_4h,
            block.mlp.dense_4h_to_h,
        ):
            linear.to(stored)
    base = Base(model, None, "tiny", 8, torch.device("cpu"), dtype, "", "")  # type: ignore[arg-type]
    return LoadedModel(base, model)


def examples() -> list[Example]:
    generator = torch.Generator().manual_seed(1)
    return [Example(torch.randint(4, 400, (n,), generator=generator).tolist(), [True] * n) for n in (19, 12, 7, 30)]


def test_float16_keeps_the_residual_stream_in_float32_and_gradients_above_nothing() -> None:
    """Losses and the gradient of a bias beside float32's, where a residual stream in float16 would be infinite."""
    (batch,) = pack(examples(), PackPlan(80, 8, 4096))
    found = {}
    for dtype in (torch.float32, torch.float16):
        model = loaded(dtype)
        trained = model.model.transformer.h[0].self_attention.query_key_value.bias.requires_grad_()
        hidden_BTW = hidden_states(model, batch)
        assert hidden_BTW.dtype == dtype and torch.isfinite(hidden_BTW).all()
        losses_N = token_losses(model, replace(batch), ForwardOptions(("chunked-loss",)))
        assert losses_N.dtype == torch.float32
        losses_N.sum().backward()  # the sum, as the step has it in float16
        found[dtype] = (losses_N.detach(), trained.grad.float())
    (exact, exact_grad), (ours, our_grad) = found[torch.float32], found[torch.float16]
    assert torch.allclose(ours, exact, rtol=5e-3, atol=5e-3)
    assert (our_grad - exact_grad).norm() / exact_grad.norm() < 2e-2
