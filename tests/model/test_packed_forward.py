"""The packed walk against stock BLOOM in float32 on each quote alone: hidden states, losses, gradients of the
adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from florilegium.config import make_config
from florilegium.model import ForwardOptions, LoadedModel, attach_adapter, hidden_states, load_base, token_losses
from florilegium.tokens import Example, PackPlan, pack
from tests.oracle import alone, places, rows_of, stock_float32
from tests.tiny import save_tiny

LENGTHS = (9, 2, 17, 1, 30, 11, 5)
MASKED, PART = 4, 5  # a quote of which nothing is learned, and one of which the second half is


@pytest.fixture(scope="module", params=[4, 5], ids=["4 heads", "5 heads"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("bloom"), heads=request.param)


def examples() -> list[Example]:
    return rows_of(LENGTHS, masked=MASKED, part=PART)


def adapted(folder: Path, bits: int):
    """A base with LoRA whose B is not zero, in float32, dropout off."""
    base = load_base(str(folder), bits=bits, device=torch.device("cpu"), compute="float32")
    torch.manual_seed(3)
    model = attach_adapter(base, make_config({"rank": 4, "dropout": 0.0, "bits": bits}))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return base, model


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("fast", [(), ("quantized-linear", "chunked-loss")], ids=["plain", "fast"])
def test_packed_equals_stock_alone(folder: Path, bits: int, fast: tuple[str, ...]) -> None:
    import florilegium.fast

    base, model = adapted(folder, bits)
    florilegium.fast.install_kernels(model, tuple(n for n in fast if n != "quantized-linear" or bits == 8))
    # bitsandbytes' own int8 forward on the CPU dequantises only in training mode; dropout is 0, so nothing else
    # changes.
    model.train()
    oracle = stock_float32(base, model)
    (batch,) = pack(examples(), PackPlan(row_tokens=40))
    assert batch.tokens_BT.shape[0] == 2 and batch.document_BT.max() == len(LENGTHS) - 1

    losses_N = token_losses(LoadedModel(base, model), batch, ForwardOptions(kernels=fast))
    losses_N.mean().backward()
    hidden_BTW = hidden_states(LoadedModel(base, model), batch, ForwardOptions(kernels=fast))

    hidden, total, count = alone(oracle, examples())
    for place, wanted in zip(places([batch], examples()), hidden, strict=True):
        assert (hidden_BTW[place[1:]] - wanted).abs().max() / wanted.abs().max() < 1e-5
    (total / count).backward()
    assert losses_N.shape == (count,)
    assert abs(float((losses_N.mean() - total / count).detach())) < 1e-5
    theirs = dict(oracle.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            error = (parameter.grad - theirs[name].grad).norm() / theirs[name].grad.norm()
            assert error < 1e-5, (name, float(error))


def test_a_document_does_not_see_its_neighbours(folder: Path) -> None:
    base, model = adapted(folder, 32)
    rows = examples()
    (batch,) = pack(rows, PackPlan(row_tokens=200))
    before = hidden_states(LoadedModel(base, model), batch)
    batch.tokens_BT[batch.document_BT == 0] = 7  # another first quote
    after = hidden_states(LoadedModel(base, model), batch)
    others = batch.document_BT > 0
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[batch.document_BT == 0], after[batch.document_BT == 0])


def test_lean_gives_the_same_gradients(folder: Path) -> None:
    gradients = []
    for lean in (False, True):
        base, model = adapted(folder, 32)
        model.train()
        (batch,) = pack(examples(), PackPlan(row_tokens=40))
        token_losses(LoadedModel(base, model), batch, ForwardOptions(recompute=lean)).mean().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
