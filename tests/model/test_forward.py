"""The packed walk against stock BLOOM in float32 on each quote alone: hidden states, losses, gradients of the adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from florilegium.config import make_config
from florilegium.model import Walk, attach_adapter, hidden_states, load_base, token_losses
from florilegium.model.forward import transformer
from florilegium.tokens import Example, PackPlan, pack
from tests.tiny import save_tiny

LENGTHS = (9, 2, 17, 5, 30, 11)


@pytest.fixture(scope="module", params=[4, 5], ids=["4 heads", "5 heads"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("bloom"), heads=request.param)


def examples() -> list[Example]:
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(4, 400, (n,), generator=generator).tolist() for n in LENGTHS]
    return [Example([*row, 2], [True] * (len(row) + 1)) for row in rows]


def adapted(folder: Path, bits: int):
    """A base with LoRA whose B is not zero, in float32, dropout off."""
    base = load_base(str(folder), bits=bits, device=torch.device("cpu"), compute="float32")
    torch.manual_seed(3)
    model = attach_adapter(base, make_config({"rank": 4, "dropout": 0.0, "bits": bits}))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return base, model


def stock_float32(base, model):
    """Stock BLOOM with the weights that the base really holds (dequantised), and the same adapter: the oracle."""
    from peft import LoraConfig, get_peft_model
    from transformers import BloomForCausalLM

    oracle = BloomForCausalLM(base.model.config).eval()
    state = {}
    for name, module in base.model.named_modules():
        codes = getattr(getattr(module, "weight", None), "CB", None)
        if codes is None:
            codes = getattr(getattr(module, "state", None), "CB", None)
        for key, parameter in module.named_parameters(recurse=False):
            state[f"{name}.{key}".replace(".base_layer", "")] = parameter.data.float()
        if codes is not None:
            scale = module.weight.SCB if module.weight.SCB is not None else module.state.SCB
            state[f"{name}.weight".replace(".base_layer", "")] = codes.float() * scale[:, None] / 127
    state = {k: v for k, v in state.items() if "lora_" not in k}
    oracle.load_state_dict(state, strict=False)
    oracle.tie_weights()
    oracle = get_peft_model(oracle, LoraConfig(r=4, lora_alpha=32, lora_dropout=0.0, target_modules=["query_key_value"]))
    missing = oracle.load_state_dict({k: v for k, v in model.state_dict().items() if "lora_" in k}, strict=False)
    assert not missing.unexpected_keys
    return oracle.eval()


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("fast", [(), ("linear", "loss")], ids=["plain", "fast"])
def test_packed_equals_stock_alone(folder: Path, bits: int, fast: tuple[str, ...]) -> None:
    import florilegium.fast

    base, model = adapted(folder, bits)
    florilegium.fast.install(model, tuple(n for n in fast if n != "linear" or bits == 8))
    # bitsandbytes' own int8 forward on the CPU dequantises only in training mode; dropout is 0, so nothing else changes.
    model.train()
    oracle = stock_float32(base, model)
    (batch,) = pack(examples(), PackPlan(row_tokens=40))
    assert batch.tokens_BT.shape[0] == 2 and batch.document_BT.max() == len(LENGTHS) - 1

    losses_N = token_losses(base, model, batch, Walk(fast=fast))
    losses_N.mean().backward()
    hidden_BTW = hidden_states(base, model, batch, Walk(fast=fast))

    total, count = 0.0, 0
    for example in examples():
        ids = torch.tensor([example.token_ids])
        (place,) = [
            (b, t)
            for b, t in torch.nonzero(batch.position_BT == 0).tolist()
            if batch.document_BT[b, t] >= 0 and batch.tokens_BT[b, t : t + ids.shape[1] - 1].tolist() == example.token_ids[:-1]
        ]
        alone = transformer(oracle)(ids).last_hidden_state[0, :-1]
        packed = hidden_BTW[place[0], place[1] : place[1] + ids.shape[1] - 1]
        assert (alone - packed).abs().max() / alone.abs().max() < 1e-5
        logits = oracle(ids).logits[0, :-1]
        total = total + F.cross_entropy(logits, ids[0, 1:], reduction="sum")
        count += ids.shape[1] - 1
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
    before = hidden_states(base, model, batch)
    batch.tokens_BT[batch.document_BT == 0] = 7  # another first quote
    after = hidden_states(base, model, batch)
    others = batch.document_BT > 0
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[batch.document_BT == 0], after[batch.document_BT == 0])


def test_lean_gives_the_same_gradients(folder: Path) -> None:
    gradients = []
    for lean in (False, True):
        base, model = adapted(folder, 32)
        model.train()
        (batch,) = pack(examples(), PackPlan(row_tokens=40))
        token_losses(base, model, batch, Walk(lean=lean)).mean().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
