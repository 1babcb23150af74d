"""One file knows a family's modules by name: what it says is what Transformers' model does, and nobody else says it."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma3Config, LlamaConfig

import florilegium
from florilegium.config import make_config
from florilegium.model import load_base
from florilegium.model.adapter_config import is_quick_pattern
from florilegium.model.families import BLOOM, OTHER, family_of, head_unsupported, head_weight, packs
from florilegium.model.families.bloom import block_sizes
from florilegium.model.lora import lora_config
from florilegium.reference import sdpa_attention
from tests.model.small_families import FAMILIES, make_model
from tests.tiny import make_bloom

ROOT = Path(florilegium.__file__).parent


def test_a_family_by_its_model_type() -> None:
    assert family_of("bloom") is BLOOM and packs(BLOOM)
    assert family_of("llama") is OTHER and family_of(None) is OTHER and not packs(OTHER)


def test_blooms_modules_in_turn_are_stock_bloom() -> None:
    """On one document with no padding: stock BLOOM's own last hidden states."""
    model = make_bloom()
    tokens_BT = torch.randint(4, 400, (2, 11), generator=torch.Generator().manual_seed(1))
    attend = sdpa_attention(torch.zeros_like(tokens_BT), BLOOM.alibi_slopes(model, torch.device("cpu")), torch.float32)
    with torch.no_grad():
        hidden_BTW = BLOOM.embed(model, tokens_BT, torch.float32)
        for block in BLOOM.blocks(model):
            hidden_BTW = BLOOM.apply_block(block, hidden_BTW, attend, torch.float32)
        ours = BLOOM.final_norm(model, hidden_BTW)
        stock = BLOOM.backbone(model)(tokens_BT).last_hidden_state
    torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-5)
    assert head_weight(model) is model.lm_head.weight and head_unsupported(BLOOM, model) == ""


def test_block_sizes_are_those_of_the_modules() -> None:
    model = make_bloom(heads=2, head_dim=16)
    sizes, linears = BLOOM.block_sizes(model.config, ["query_key_value"]), BLOOM.linears(BLOOM.blocks(model)[0])
    assert sizes == block_sizes(32, 2)
    assert sizes.weights == sum(linear.weight.numel() for linear in linears)
    assert sizes.largest_weight == max(linear.weight.numel() for linear in linears)
    assert (sizes.lora_outputs, sizes.lora_inputs) == tuple(linears.qkv.weight.shape)
    assert BLOOM.lora_targets(model) == [BLOOM.fused_linears[0]]
    everywhere = BLOOM.block_sizes(model.config, BLOOM.fused_linears)
    assert everywhere.lora_outputs == sum(linear.weight.shape[0] for linear in linears)
    assert everywhere.lora_inputs == sum(linear.weight.shape[1] for linear in linears)


def test_no_adapter_goes_where_no_text_goes() -> None:
    """A model with a vision tower, loaded for its texts: LoRA there would be counted, saved and never used."""
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=FAMILIES["Gemma 3"][1], vision_config={**vision, "image_size": 28, "patch_size": 14}
    )
    for request in ("auto", "all-linear", "q_proj"):
        model = AutoModelForCausalLM.from_config(config)
        lora = lora_config(model, make_config({"target_modules": request}))
        names = [name for name, _ in get_peft_model(model, lora).named_parameters() if "lora_" in name]
        assert names and not [name for name in names if "language_model.layers" not in name]
        assert isinstance(lora.exclude_modules, str) and is_quick_pattern(lora.exclude_modules), "it is read again"
    assert lora_config(make_model("Llama"), make_config({})).exclude_modules is None


def test_another_familys_targets() -> None:
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    model = AutoModelForCausalLM.from_config(config)
    assert OTHER.lora_targets(model) == "all-linear"
    assert OTHER.backbone(model) is model.model


def test_a_mixtures_routers_take_no_adapter() -> None:
    """Which expert a token goes to is a choice, and jumps where the adapter moves it a little."""
    model = make_model("Mixtral")
    with_lora = get_peft_model(model, LoraConfig(target_modules=OTHER.lora_targets(model)))
    on = {name.rsplit(".", 1)[-1] for name, module in with_lora.named_modules() if hasattr(module, "base_layer")}
    assert {"q_proj", "o_proj"} <= on and "gate" not in on and "lm_head" not in on


def test_the_bases_family(tiny: Path) -> None:
    base = load_base(str(tiny), bits=16, device=torch.device("cpu"))
    assert base.family is BLOOM and base.packs


NAMED = re.compile(r"query_key_value|(?<!tie_)word_embeddings|dense_h_to_4h|dense_4h_to_h|[.]ln_f")


def test_blooms_modules_are_named_in_one_file() -> None:
    """And in the kernels that were written for it; `export/` may name tensors as files of other programs do."""
    named = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if NAMED.search(path.read_text(encoding="utf-8"))
    }
    others = ("fast/training/", "fast/decoding/", "fast/modules.py", "fast/support.py", "export/")
    assert {name for name in named if not name.startswith(others)} == {"model/families/bloom.py"}
