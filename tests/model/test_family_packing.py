"""Other families on packed rows: losses and the adapter's gradients are those of Transformers' own logits, each document
alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model

from florilegium.generation.token_scores import token_scores
from florilegium.model import ForwardOptions, LoadedModel, fast_paths, token_losses
from florilegium.model.base import Base
from florilegium.model.document_packing import find_packing
from florilegium.model.families import head_unsupported, head_weight
from florilegium.model.families.other import OTHER, DocumentMask
from florilegium.tokens import Example, PackPlan, pack
from tests.model.small_families import FAMILIES, SINCE_5_24, VOCABULARY, WAYS, WAYS_BEFORE, make_model

SIZES = (30, 23, 17, 9, 5, 2)
PLAN = PackPlan(row_tokens=48, multiple=8)


def loaded(name: str) -> LoadedModel:
    """A tiny model with an adapter whose B is not zero."""
    model = make_model(name)
    torch.manual_seed(1)
    targets = OTHER.lora_targets(model)
    peft_model = get_peft_model(model, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    for parameter_name, parameter in peft_model.named_parameters():
        if "lora_B" in parameter_name:
            parameter.data.normal_(0, 0.1)
    base = Base(model, None, name, 32, torch.device("cpu"), torch.float32, "", "")
    return LoadedModel(base, peft_model)


def examples() -> list[Example]:
    generator = torch.Generator().manual_seed(2)
    return [Example(torch.randint(4, VOCABULARY, (n,), generator=generator).tolist(), [True] * n) for n in SIZES]


def gradients(
    model: LoadedModel, plan: PackPlan, groups: list[list[Example]], mask: DocumentMask
) -> dict[str, torch.Tensor]:
    """Of the summed loss of all groups, each packed for itself, and that sum."""
    model.model.eval()  # no dropout; gradients all the same
    model.model.zero_grad(set_to_none=True)
    total = torch.zeros(())
    for group in groups:
        for batch in pack(group, plan):
            loss = token_losses(model, batch, ForwardOptions(("chunked-loss",), document_mask=mask)).sum()
            loss.backward()
            total += loss.detach()
    found = {name: p.grad.clone() for name, p in model.model.named_parameters() if p.grad is not None}
    return {**found, "loss": total}


def stock_gradients(model: LoadedModel, rows: list[Example]) -> dict[str, torch.Tensor]:
    """The same by the logits that Transformers' own model gives for each document alone."""
    model.model.eval()
    model.model.zero_grad(set_to_none=True)
    total = torch.zeros(())
    for row in rows:
        tokens_BT = torch.tensor([row.token_ids])
        logits_TV = model.model(input_ids=tokens_BT, use_cache=False).logits[0, :-1].float()
        loss = F.cross_entropy(logits_TV, tokens_BT[0, 1:], reduction="sum")
        loss.backward()
        total += loss.detach()
    found = {name: p.grad.clone() for name, p in model.model.named_parameters() if p.grad is not None}
    return {**found, "loss": total}


@pytest.mark.parametrize("name", list(FAMILIES))
def test_packed_and_grouped_rows_train_as_each_document_alone(name: str) -> None:
    model, rows = loaded(name), examples()
    mask = find_packing(model).mask
    assert mask == WAYS[name] and not head_unsupported(model.family, model.model)
    alone = stock_gradients(model, rows)
    ways: dict[str, tuple[PackPlan, DocumentMask]] = {
        "grouped": (PackPlan(separate=True, multiple=8, batch_cost=16), "")
    }
    if mask:
        ways["packed"] = (PLAN, mask)
        assert any(not batch.one_a_row for batch in pack(rows, PLAN))
    for way, (plan, documents) in ways.items():
        together = gradients(model, plan, [rows], documents)
        assert together.keys() == alone.keys() and len(alone) > 2
        for key, value in alone.items():
            error = (together[key] - value).norm() / value.norm().clamp(min=1e-3)
            assert error < 1e-5, (way, key, float(error))


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=["fp32 head", "bf16 head"])
@pytest.mark.parametrize("name", ["Gemma 2", "Cohere", "Phi"])
def test_kernels_off_and_a_head_in_16_bits_give_the_same_losses(name: str, stored: torch.dtype) -> None:
    """The reference, the chunked loss, and its slices where the head must be cast."""
    model = loaded(name)
    model.model.get_output_embeddings().weight = torch.nn.Parameter(
        model.model.get_output_embeddings().weight.detach().to(stored), requires_grad=False
    )
    hidden_NW = torch.randn(9, 32, generator=torch.Generator().manual_seed(5))
    targets_N = torch.randint(0, VOCABULARY, (9,), generator=torch.Generator().manual_seed(6))
    targets_N[4] = -100
    found = []
    for kernels in ((), ("chunked-loss",)):
        hidden = hidden_NW.clone().requires_grad_()
        losses = fast_paths.head_losses(kernels)(hidden, head_weight(model.model), targets_N, rule=model.logit_rule)
        losses.sum().backward()
        assert hidden.grad is not None
        found.append((losses.detach(), hidden.grad))
    (plain, plain_grad), (chunked, chunked_grad) = found
    assert (plain - chunked).norm() / plain.norm() < 1e-5 and chunked[4] == 0
    assert (plain_grad - chunked_grad).norm() / plain_grad.norm() < 1e-5


def test_scores_of_a_text_are_those_of_the_families_logits() -> None:
    for name in ("Gemma 2", "Phi"):
        model, (row, *_) = loaded(name), examples()
        model.model.eval()
        with torch.no_grad():
            logprob_TV = model.model(input_ids=torch.tensor([row.token_ids])).logits[0].float().log_softmax(-1)
        stock = logprob_TV[:-1].gather(1, torch.tensor(row.token_ids[1:])[:, None])[:, 0]
        (scored,) = token_scores(model, [row.token_ids])
        assert scored.logprobs == pytest.approx(stock.tolist(), abs=1e-4)


def test_logits_that_are_made_in_an_unknown_way_are_refused() -> None:
    model = loaded("Llama")
    model.model.get_output_embeddings().register_forward_hook(lambda module, inputs, out: out.tanh())
    assert "not what its head" in head_unsupported(model.family, model.model)
    assert head_unsupported(loaded("Llama").family, loaded("Llama").model) == ""


def test_a_packed_row_is_never_given_to_a_model_that_leaks() -> None:
    model = loaded("LFM2")
    packing = find_packing(model)
    assert not packing.mask and "attend to each other" in packing.reason
    (batch,) = pack(examples()[3:], PLAN)
    with pytest.raises(AssertionError, match="reads from one into the next"):
        token_losses(model, batch)


def test_finding_out_draws_nothing_and_leaves_the_model_as_it_was() -> None:
    model = loaded("Llama")
    model.model.train()
    before = torch.get_rng_state()
    assert find_packing(model).mask == "positions"
    assert model.model.training and torch.equal(before, torch.get_rng_state())


def test_the_table_of_families_is_what_was_tried() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "models.md"
    rows = [line.split(" | ") for line in page.read_text(encoding="utf-8").splitlines() if line.endswith("| 1e-5 |")]
    told = {row[0].removeprefix("| "): row[1] for row in rows}
    tried = {name: way or "padded" for name, way in WAYS_BEFORE.items()}
    newer = {name: f"{tried[name]}; {way} from Transformers 5.24" for name, way in SINCE_5_24.items()}
    assert told == {"BLOOM": "own", **tried, **newer}
