"""NEFTune's noise: of the right size, and a token's own wherever its row is packed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import florilegium.reference.dropout as dropout
from florilegium.model import ForwardOptions, LoadedModel, load_base, token_losses
from florilegium.model.families import packs
from florilegium.model.noise import add_noise, make_embedding_noisy
from florilegium.model.packed_forward import _embedded
from florilegium.reference import uniform_noise
from florilegium.tokens import NO_TARGET, Batch, Example, PackPlan, numbered, pack

SEED = torch.tensor([1234567])
PLANS = (PackPlan(64, 8, 256), PackPlan(16, 8, 16), PackPlan(separate=True, batch_tokens=48))
ROWS = numbered([Example(list(range(4, 4 + n)), [True] * n) for n in (9, 3, 14, 6, 2, 11)])


def by_token(batches: list[Batch], width: int = 8) -> dict[int, torch.Tensor]:
    """The noise of each token that is no padding, by its number in the step."""
    found: dict[int, torch.Tensor] = {}
    for batch in batches:
        noise_BTW = add_noise(torch.zeros(*batch.tokens_BT.shape, width), replace(batch, seed_1=SEED), alpha=5.0)
        there = batch.targets_BT != NO_TARGET
        found |= dict(zip(batch.number_BT[there].tolist(), noise_BTW[there], strict=True))
    return found


@pytest.mark.parametrize("plan", PLANS[1:])
def test_a_tokens_noise_is_its_own_however_rows_are_packed(plan: PackPlan) -> None:
    one, other = by_token(pack(ROWS, PLANS[0])), by_token(pack(ROWS, plan))
    assert one.keys() == other.keys() and len(one) == sum(len(row.token_ids) - 1 for row in ROWS)
    assert all(torch.equal(one[number], other[number]) for number in one)


def test_it_is_uniform_and_as_large_as_its_document_is_short() -> None:
    noise_TW = uniform_noise(SEED, torch.arange(4096), 24)
    assert noise_TW.dtype == torch.float32 and float(noise_TW.abs().max()) < 1
    assert abs(float(noise_TW.mean())) < 0.01 and float(noise_TW.std()) == pytest.approx(3**-0.5, rel=0.01)
    assert len(noise_TW.unique()) > 40_000
    found = by_token(pack(ROWS, PLANS[0]), width=512)
    for row in ROWS:
        length, first = len(row.token_ids) - 1, row.number or 0
        largest = max(float(found[number].abs().max()) for number in range(first, first + length))
        assert largest == pytest.approx(5 / (length * 512) ** 0.5, rel=0.02)


def test_seeds_tokens_and_the_adapters_dropout_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    number_T = torch.arange(64)
    noise_TW = uniform_noise(SEED, number_T, 16)
    assert torch.equal(noise_TW[8:], uniform_noise(SEED, number_T[8:], 16))
    assert not torch.equal(noise_TW, uniform_noise(SEED + 1, number_T, 16))
    kept_TW = dropout.dropout_keep(int(SEED), 0, number_T, 16, 32768)
    assert 0.3 < float((kept_TW == (noise_TW > 0)).float().mean()) < 0.7
    monkeypatch.setattr(dropout, "NOISE_AT_ONCE", 10)
    assert torch.equal(noise_TW, uniform_noise(SEED, number_T, 16))


def test_of_another_family_too_and_only_while_it_is_trained(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.tiny import make_tokenizer

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=400, **shape)).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    base = load_base(str(tmp_path), bits=32, device=torch.device("cpu"))
    make_embedding_noisy(base.model, 5.0)
    loaded = LoadedModel(base, base.model)

    def loss(tokens: int) -> float:
        batches = [replace(b, seed_1=SEED) for b in pack(ROWS, PackPlan(separate=True, batch_tokens=tokens))]
        with torch.no_grad():
            return sum(float(token_losses(loaded, batch, ForwardOptions()).sum()) for batch in batches)

    base.model.eval()
    quiet = loss(256)
    base.model.train()
    noisy = loss(256)
    assert noisy == pytest.approx(loss(16), rel=1e-5) and noisy != pytest.approx(quiet, rel=1e-4)
    base.model.eval()
    assert loss(16) == pytest.approx(quiet, rel=1e-5)


def test_blooms_noise_goes_in_before_its_norm_as_stock_puts_it(tiny: Path) -> None:
    """Behind the norm, whose outputs are some ten times as large, the same noise would be a tenth of it."""
    base = load_base(str(tiny), bits=32, device=torch.device("cpu"))
    loaded, options = LoadedModel(base, base.model), ForwardOptions(neftune_alpha=5.0)
    assert packs(base.family)
    (batch,) = pack(ROWS[:1], PackPlan(separate=True))
    batch = replace(batch, seed_1=SEED)
    loaded.model.train()
    ours = _embedded(loaded, base.family, batch, options)
    stock = base.model.get_input_embeddings().register_forward_hook(lambda _, __, out: add_noise(out, batch, 5.0))
    seen: list[torch.Tensor] = []
    first = base.model.transformer.h[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    base.model(input_ids=batch.tokens_BT)
    stock.remove(), first.remove()
    assert torch.allclose(ours, seen[0], atol=1e-6)
    quiet = _embedded(loaded, base.family, batch, ForwardOptions())
    assert float((ours - quiet).abs().mean()) > 0.01
