"""The fused layers of other families beside Transformers' own modules and PEFT's, on the same packed rows with the same
dropout: hidden states, losses, and every gradient of the adapter. By the CPU's own operations in float32, and by the kernels
where there is a CUDA device, or Triton interprets them."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import Gemma3Config

from florilegium import fast
from florilegium.fast.layers import fused_layers, gated_mlp, lora_linear
from florilegium.fast.layers.cpu_parts import ON_CPU
from florilegium.fast.layers.document_attention import attending
from florilegium.fast.layers.gated_mlp import gated_mlps
from florilegium.fast.layers.parts import LayerParts
from florilegium.fast.layers.rms_norm import rms_norms
from florilegium.model import ForwardOptions, LoadedModel, hidden_states, token_losses
from florilegium.model.base import Base
from florilegium.model.document_packing import find_packing, fused_layers_unsupported
from florilegium.model.families.other import recompute_activations
from florilegium.model.fused_layers import FusedLayers
from florilegium.model.row_dropout import draw_by_rows, rows_drawn
from florilegium.tokens import Batch, Example, PackPlan, numbered, pack
from tests.model.small_families import FAMILIES, VOCABULARY, make_model

GPU = torch.cuda.is_available()
KERNELS_RUN = GPU or "TRITON_INTERPRET" in os.environ
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPE = torch.bfloat16 if GPU else torch.float32
NEAR = 0.03 if GPU else 2e-5
SIZES = (70, 30, 12, 3, 2)
PLAN = PackPlan(row_tokens=128, multiple=64, batch_tokens=128, bucketed=True)
LOSS = ("chunked-loss",)
BY_POSITIONS = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}


@pytest.fixture(autouse=True, params=["cpu", "kernels"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> LayerParts:
    """By what the layers are computed; a test's model lies on the GPU where there is one."""
    chosen: LayerParts = ON_CPU
    if request.param == "kernels":
        if not KERNELS_RUN:
            pytest.skip("no CUDA device, and not interpreted")
        from florilegium.fast.layers.kernel_parts import KERNELS as chosen
    elif GPU:
        pytest.skip("a GPU has kernels")
    monkeypatch.setattr(fused_layers, "parts_of", lambda device: chosen)
    return chosen


def quantised(model: nn.Module, bits: int) -> None:
    """Linears of the layers become bitsandbytes'."""
    import bitsandbytes as bnb

    for module in [m for name, m in model.named_modules() if "layers" in name]:
        for name, child in list(module.named_children()):
            if not isinstance(child, nn.Linear):
                continue
            K, N, weight = child.in_features, child.out_features, child.weight.data
            linear: Any
            if bits == 8:
                linear = bnb.nn.Linear8bitLt(K, N, bias=child.bias is not None, has_fp16_weights=False)
                codes, scale, _ = bnb.functional.int8_vectorwise_quant(weight.half())
                linear.weight = bnb.nn.Int8Params(
                    codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scale
                )
            else:
                linear = bnb.nn.Linear4bit(K, N, bias=child.bias is not None, quant_type="nf4", compute_dtype=DTYPE)
                packed, state = bnb.functional.quantize_4bit(weight, quant_type="nf4", blocksize=64)
                linear.weight = bnb.nn.Params4bit(
                    packed, requires_grad=False, quant_state=state, quant_type="nf4", bnb_quantized=True, module=linear
                )
                linear.quant_state = state
            if child.bias is not None:
                linear.bias = child.bias
            setattr(module, name, linear)


def loaded(name: str, bits: int = 32, dropout: float = 0.0, targets: Any = "all-linear", **sizes: Any) -> LoadedModel:
    model = make_model(name, **BY_POSITIONS, **sizes).to(DEVICE, DTYPE)
    if bits in (4, 8):
        quantised(model, bits)
    model.requires_grad_(False)
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=6, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM")
    peft_model = get_peft_model(model, config)
    for parameter_name, parameter in peft_model.named_parameters():
        if "lora_" in parameter_name:
            parameter.data = parameter.data.float().normal_(0, 0.1)
    draw_by_rows(peft_model)
    base = Base(model, None, name, bits, DEVICE, DTYPE, "", "")  # type: ignore[arg-type]  # no text is read
    found = LoadedModel(base, peft_model, ("quantized-linear",) if bits in (4, 8) else ())
    fast.install_kernels(peft_model, found.kernels)
    return found


def fused(model: LoadedModel) -> FusedLayers:
    return FusedLayers(fast.make_fused_layers(model.backbone, DTYPE, max(SIZES)))


def batch_of(sizes: tuple[int, ...] = SIZES) -> Batch:
    generator = torch.Generator().manual_seed(2)
    examples = numbered(
        [Example(torch.randint(4, VOCABULARY, (n + 1,), generator=generator).tolist(), [True] * (n + 1)) for n in sizes]
    )
    (batch,) = pack(examples, PLAN)
    batch = batch.to(DEVICE)
    batch.seed_1.fill_(77)
    return batch


def losses_and_gradients(model: LoadedModel, batch: Batch, options: ForwardOptions) -> dict[str, torch.Tensor]:
    model.model.train()
    model.model.zero_grad(set_to_none=True)
    layers = options.fused_layers
    if layers is None:
        with rows_drawn(batch):
            losses = token_losses(model, batch, options)
            losses.sum().backward()
    else:
        with layers.through(batch, training=True):
            losses = token_losses(model, batch, options)
            losses.sum().backward()
    found = {name: p.grad.clone() for name, p in model.model.named_parameters() if p.grad is not None}
    return {"losses": losses.detach(), **found}


def differ(ours: dict[str, torch.Tensor], plain: dict[str, torch.Tensor]) -> dict[str, float]:
    assert ours.keys() == plain.keys() and len(plain) > 2
    errors = {
        name: float((ours[name] - value).float().norm() / value.float().norm().clamp(min=1e-6))
        for name, value in plain.items()
    }
    return {name: error for name, error in errors.items() if not error < NEAR * (1 if name == "losses" else 3)}


@pytest.mark.parametrize("bits", [32, 8, 4])
@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Qwen3", "Gemma"])
def test_losses_and_gradients_are_those_of_the_plain_layers(name: str, bits: int) -> None:
    # on a GPU the plain layers draw dropout by torch, so there it is compared without
    model, batch = loaded(name, bits, 0.0 if GPU else 0.25), batch_of()
    plain = losses_and_gradients(model, batch, ForwardOptions(LOSS, document_mask="positions"))
    layers = fused(model)
    assert len(layers.runner.linears) == 14, "seven of each of two layers"
    mlps = [module for module in model.model.modules() if hasattr(module, "act_fn")]
    assert len(mlps) == 2 and all("forward" in vars(mlp) for mlp in mlps), "recognised, whatever the adapter drops"
    ours = losses_and_gradients(model, batch, ForwardOptions(LOSS, document_mask="positions", fused_layers=layers))
    assert not differ(ours, plain)


@pytest.mark.parametrize("name", ["Mistral", "Gemma 3"])
def test_windows_narrower_than_a_document(name: str, parts: LayerParts) -> None:
    if not parts.takes_windows:
        pytest.skip("refused, which the trial of each family sees")
    model, batch = loaded(name, 32, 0.25), batch_of()
    assert model.base.model.config.sliding_window == 5
    plain = losses_and_gradients(model, batch, ForwardOptions(LOSS, document_mask="positions"))
    options = ForwardOptions(LOSS, document_mask="positions", fused_layers=fused(model))
    assert not differ(losses_and_gradients(model, batch, options), plain)


def test_a_norm_that_is_trained_gets_its_gradient() -> None:
    model, batch = loaded("Llama", 8), batch_of()
    norms = [p for name, p in model.model.named_parameters() if name.endswith("norm.weight")]
    for weight in norms:
        weight.requires_grad = True
    plain = losses_and_gradients(model, batch, ForwardOptions(LOSS, document_mask="positions"))
    assert sum(name.endswith("norm.weight") for name in plain) == len(norms) == 5
    options = ForwardOptions(LOSS, document_mask="positions", fused_layers=fused(model))
    assert not differ(losses_and_gradients(model, batch, options), plain)


def test_a_bias_that_is_trained_keeps_its_layer_from_being_fused(parts: LayerParts) -> None:
    """The function gives none of the base's own parameters a gradient."""
    layers = [m for m in loaded("Qwen2").model.modules() if isinstance(m, LoraLayer)]
    biased = [layer for layer in layers if layer.base_layer.bias is not None]
    assert biased and not any(lora_linear.unsupported_reason(layer, parts) for layer in layers)
    biased[0].base_layer.bias.requires_grad = True
    assert "biases are trained" in lora_linear.unsupported_reason(biased[0], parts)


def test_layers_without_an_adapter_and_recomputed_activations_give_the_same() -> None:
    model, batch = loaded("Llama", 8, 0.0 if GPU else 0.25, ["q_proj", "down_proj"]), batch_of()
    plain = losses_and_gradients(model, batch, ForwardOptions(LOSS, document_mask="positions"))
    options = ForwardOptions(LOSS, document_mask="positions", fused_layers=fused(model))
    assert not differ(losses_and_gradients(model, batch, options), plain)
    assert options.fused_layers is not None
    recompute_activations(model.model, options.fused_layers.runner.checkpoint_contexts)
    assert not differ(losses_and_gradients(model, batch, options), plain)


def test_what_is_recognised_is_what_it_computes() -> None:
    assert (
        len(rms_norms(make_model("Llama", **BY_POSITIONS))) == 5
        and len(rms_norms(make_model("Qwen3", **BY_POSITIONS))) == 9
    )
    gemma = make_model("Gemma", **BY_POSITIONS)
    assert not rms_norms(gemma), "its weight is one more than it says"
    for module in gemma.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.weight.data.fill_(80.0)
    assert not rms_norms(gemma.bfloat16()), "also where that is within what 16 bits round"
    assert [act for _, act in gated_mlps(make_model("Llama", **BY_POSITIONS), torch.float32)] == [0, 0]
    assert [act for _, act in gated_mlps(make_model("Gemma", **BY_POSITIONS), torch.float32)] == [1, 1]
    odd = make_model("Llama", **BY_POSITIONS)
    mlp: Any = odd.model.layers[0].mlp
    mlp.forward = lambda x: 2 * mlp.down_proj(0.5 * mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))
    assert len(gated_mlps(odd, torch.float32)) == 1


# what each family's layers say when they are tried: nothing, or why they stay Transformers'
WIDE = {"sliding_window": 100}
TRIED: list[tuple[str, dict[str, Any], str]] = [
    *((name, {}, "") for name in ("Llama", "Qwen3", "Granite", "SmolLM3", "OLMo 2")),
    ("Mistral", WIDE, ""),
    ("Phi-3", WIDE, ""),
    ("Gemma 3", WIDE, ""),
    ("Mistral", {}, "longer than the window of 5"),
    ("Gemma 2", WIDE, "softcap"),
    # functions, and not modules that could be looked up
    ("StarCoder2", WIDE, ""),
    ("StarCoder2", {**WIDE, "residual_dropout": 0.2}, "dropout"),
    ("StarCoder2", {**WIDE, "attention_dropout": 0.2}, "dropout"),
]


@pytest.mark.parametrize(
    ("name", "sizes", "why"), TRIED, ids=lambda value: str(value) if isinstance(value, str) else ""
)
def test_a_family_is_tried_before_its_layers_are_fused(
    name: str, sizes: dict[str, Any], why: str, parts: LayerParts
) -> None:
    why = "" if "window" in why and parts.takes_windows else why
    assert name in FAMILIES
    model = loaded(name, **sizes)
    before = {module: dict(vars(module)) for module in model.model.modules()}
    reason = fused_layers_unsupported(model)
    assert (why in reason and bool(reason)) if why else not reason, reason
    assert all(vars(module).get("forward") == was.get("forward") for module, was in before.items()), (
        "modules were changed"
    )


def test_it_is_tried_with_the_products_that_the_run_will_make(monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes' own int8 forward rounds activations on a card: over many layers that is further off than any limit."""
    import bitsandbytes as bnb

    model = loaded("Llama", 8)
    fast.install_kernels(model.model, ())  # as it is when a run is planned
    plain = bnb.nn.Linear8bitLt.forward
    # and other rows round otherwise
    monkeypatch.setattr(bnb.nn.Linear8bitLt, "forward", lambda self, x: plain(self, x * (1 + x.shape[1] / 40)))
    as_planned = LoadedModel(model.base, model.model)
    assert not fused_layers_unsupported(as_planned) and find_packing(as_planned).mask == "positions"


def test_a_module_that_only_looks_like_one_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(*_: object) -> list[Any]:
        raise TypeError("forward() wants more than its input")

    monkeypatch.setattr(gated_mlp, "gated_mlps", raising)
    assert "forward() wants more" in fused_layers_unsupported(loaded("Llama"))


def test_every_part_of_a_model_attends_as_before(parts: LayerParts) -> None:
    config = Gemma3Config()
    config._attn_implementation = {"": "eager", "text_config": "sdpa"}
    with attending(config, parts):
        assert config._attn_implementation == config.text_config._attn_implementation == parts.attention_name
    assert (config._attn_implementation, config.text_config._attn_implementation) == ("eager", "sdpa")


def test_texts_and_evaluations_outside_go_through_the_models_own_modules() -> None:
    model, tokens_BT = loaded("Llama"), torch.arange(5, 40, device=DEVICE)[None]
    with torch.inference_mode(), model.evaluating():
        before = model.model(input_ids=tokens_BT).logits
        layers = fused(model)
        assert torch.equal(model.model(input_ids=tokens_BT).logits, before)
        batch = batch_of()
        options = ForwardOptions(LOSS, document_mask="positions", fused_layers=layers)
        once, again = (hidden_states(model, batch, options) for _ in range(2))
        assert torch.equal(once, again), "nothing is drawn in an evaluation"
        with model.adapter_off():
            assert not torch.allclose(hidden_states(model, batch, options), once, rtol=0.01)
