"""Loading, quantising, counting, and refusing what does not fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from florilegium.config import make_config
from florilegium.errors import ModelError, UsageError
from florilegium.model import (
    AdapterFacts,
    attach_adapter,
    choose_device,
    count_parameters,
    load_adapter,
    load_base,
    save_adapter,
)
from florilegium.model.adapter_origin import base_name
from florilegium.model.identity import BaseFacts, base_facts
from florilegium.model.lora import target_modules
from tests.tiny import save_tiny

CPU = torch.device("cpu")


def test_bloom_7b1_trains_0_111_percent() -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import BloomConfig, BloomForCausalLM

    with torch.device("meta"):
        bloom = BloomForCausalLM(BloomConfig(vocab_size=250880, hidden_size=4096, n_head=32, n_layer=30))
        model = get_peft_model(bloom, LoraConfig(r=16, lora_alpha=32, target_modules=target_modules(bloom, "auto")))
    count = count_parameters(model)
    assert count.trained == 7_864_320 and count.total == 7_076_880_384 and f"{100 * count.share:.3f}" == "0.111"


@pytest.mark.slow
def test_bloom_560m_in_int8_keeps_its_16_bit_embedding(tmp_path: Path) -> None:
    """At most 0.77 GiB where PEFT's prepare_model_for_kbit_training makes it 1.24."""
    from transformers import BloomConfig, BloomForCausalLM

    from tests.tiny import make_tokenizer

    config = BloomConfig(vocab_size=250880, hidden_size=1024, n_head=16, n_layer=24)
    BloomForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    base = load_base(str(tmp_path), bits=8, device=CPU)
    held = sum(t.numel() * t.element_size() for t in {t.data_ptr(): t for t in tensors(base.model)}.values())
    print(f"{held / 2**30:.3f} GiB")
    assert held / 2**30 <= 0.77


def tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    found = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        state = getattr(module, "state", None)
        found += [
            t
            for t in (getattr(state, "SCB", None), getattr(getattr(module, "weight", None), "SCB", None))
            if t is not None
        ]
    return found


@pytest.mark.parametrize("bits", [8, 4, 16, 32])
def test_each_width_loads_and_only_the_adapter_trains(tiny: Path, bits: int) -> None:
    base = load_base(str(tiny), bits=bits, device=CPU)
    model = attach_adapter(base, make_config({"bits": bits, "rank": 4}))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in n and "query_key_value" in n for n in trained)
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    kind = type(base.model.transformer.h[0].mlp.dense_h_to_4h).__name__
    assert kind == {8: "Linear8bitLt", 4: "Linear4bit"}.get(bits, "Linear")
    assert count_parameters(model).total == 38_336 + count_parameters(model).trained


def test_an_adapter_goes_to_disk_and_back(tiny: Path, tmp_path: Path) -> None:
    base = load_base(str(tiny), bits=8, device=CPU)
    torch.manual_seed(0)
    model = attach_adapter(base, make_config({"rank": 4}))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_()
    before = {n: p.clone() for n, p in model.named_parameters() if p.requires_grad}
    save_adapter(model, base, tmp_path / "adapter", AdapterFacts(base=base_facts(base)), "card")
    again = load_adapter(load_base(str(tiny), bits=8, device=CPU), tmp_path / "adapter")
    after = dict(again.named_parameters())
    assert all(torch.equal(p, after[n]) for n, p in before.items())
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("shape", [{"seed": 1}, {"layers": 3}, {"layers": 1}, {"heads": 8}])
def test_an_adapter_is_refused_on_another_base(tiny: Path, tmp_path: Path, shape: dict) -> None:
    base = load_base(str(tiny), bits=32, device=CPU)
    model = attach_adapter(base, make_config({"rank": 4, "bits": 32}))
    save_adapter(model, base, tmp_path / "adapter", AdapterFacts(base=base_facts(base)), "card")
    other = load_base(str(save_tiny(tmp_path / "other", **shape)), bits=32, device=CPU)
    with pytest.raises(ModelError, match="was made for") as error:
        load_adapter(other, tmp_path / "adapter")
    assert "--model" in error.value.fix and error.value.exit_code == 4


def test_an_adapter_is_refused_with_another_tokenizer(tiny: Path, tmp_path: Path) -> None:
    base = load_base(str(tiny), bits=32, device=CPU)
    facts = AdapterFacts(base=replace(base_facts(base), tokenizer_digest="0" * 64))
    save_adapter(attach_adapter(base, make_config({"rank": 4, "bits": 32})), base, tmp_path / "adapter", facts, "card")
    with pytest.raises(ModelError, match="another tokenizer"):
        load_adapter(load_base(str(tiny), bits=32, device=CPU), tmp_path / "adapter")


@pytest.mark.parametrize(("left", "fix"), [("adapter_model.bin", "a pickle"), ("README.md", "Copy it again")])
def test_an_adapter_without_its_weights_says_what_to_do(tiny: Path, tmp_path: Path, left: str, fix: str) -> None:
    base = load_base(str(tiny), bits=32, device=CPU)
    folder = tmp_path / "adapter"
    save_adapter(
        attach_adapter(base, make_config({"bits": 32})), base, folder, AdapterFacts(base=base_facts(base)), "card"
    )
    (folder / "adapter_model.safetensors").rename(folder / left)
    with pytest.raises(ModelError, match="no adapter_model.safetensors") as caught:
        load_adapter(load_base(str(tiny), bits=32, device=CPU), folder)
    assert fix in str(caught.value.fix)


@pytest.mark.parametrize(("built_for", "fix"), [(None, "install a CUDA build"), ("13.0", "nvidia-smi")])
def test_no_gpu_says_whether_torch_or_the_driver_lacks(
    monkeypatch: pytest.MonkeyPatch, built_for: str | None, fix: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="no CUDA GPU found") as caught:
        choose_device("cuda")
    assert fix in str(caught.value.fix) and "--device cpu" in str(caught.value.fix)


def test_models_that_are_not_there_or_not_safe(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())

    def refused(name: str, cause: str) -> None:
        with pytest.raises(ModelError, match=cause):
            load_base(name, device=CPU)

    refused("/no/such/folder", "no model folder")
    refused("bigscience/bloom-560m", "from the Hub")
    refused(str(folder / "config.json"), "is a file")
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    refused(str(folder), "run its own code")
    (folder / "config.json").write_text("{" * 100_000)
    refused(str(folder), "cannot be read")
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no-such-model"}))
    refused(str(folder), "cannot load")
    (folder / "config.json").write_text(json.dumps(config))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(str(folder), "model.safetensors of .* is incomplete")
    weights.rename(folder / "pytorch_model.bin")
    refused(str(folder), "no safetensors")


def test_unknown_target_modules_are_named(tiny: Path) -> None:
    base = load_base(str(tiny), bits=32, device=CPU)
    with pytest.raises(UsageError, match="'q_proj' is no linear of this model"):
        attach_adapter(base, make_config({"bits": 32, "target_modules": "q_proj"}))


USUAL_TOKENIZERS = (
    "BloomTokenizerFast", "PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend", "GPT2Tokenizer", "GPT2TokenizerFast",
    "GPTNeoXTokenizer", "GPTNeoXTokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast", "Qwen2Tokenizer", "Qwen2TokenizerFast",
    "GemmaTokenizer", "GemmaTokenizerFast", "CohereTokenizerFast",
    "CodeGenTokenizer", "CodeLlamaTokenizer", "XGLMTokenizer", "T5Tokenizer", "BartTokenizer",
    "RobertaTokenizer", "XLNetTokenizer", "NllbTokenizer", "GPTSw3Tokenizer", "SomethingOfItsOwn", "PhiTokenizer",
)  # fmt: skip


def test_the_tokenizers_that_models_have_are_taken_and_others_are_not() -> None:
    from florilegium.model.tokenizer_loader import check_class

    for name in USUAL_TOKENIZERS:
        check_class(name, "it")
    for name in ("BertJapaneseTokenizer", "BertJapaneseTokenizerFast", "AutoModel", "CpmTokenizerFast", "pipeline", 7):
        with pytest.raises(ModelError, match="does more than read its files"):
            check_class(name, "it")


def test_a_base_that_was_named_by_a_relative_path_is_found_from_other_folders(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that was moved is asked for under the name that was given."""
    shutil.copytree(tiny, tmp_path / "models" / "bloom")
    monkeypatch.chdir(tmp_path)
    base = load_base("models/bloom", bits=32, device=torch.device("cpu"))
    config = make_config({"model": "models/bloom"})
    facts = AdapterFacts(base=base_facts(base), base_is_local=True)
    save_adapter(attach_adapter(base, config), base, tmp_path / "adapter", facts, "")
    assert base_name(tmp_path / "adapter", facts, None) == "models/bloom"
    monkeypatch.chdir("/")
    assert base_name(tmp_path / "adapter", facts, None) == str(tmp_path / "models" / "bloom")
    assert base_name(tmp_path / "adapter", facts, "another/model") == "another/model"
    assert base_name(tmp_path / "adapter", replace(facts, base_is_local=False), None) == "models/bloom"  # a Hub id
    (tmp_path / "models").rename(tmp_path / "elsewhere")
    assert base_name(tmp_path / "adapter", facts, None) == "models/bloom"
    for name in ("x" * 5000, "~nobody-of-that-name/bloom"):  # no system call takes these
        assert base_name(tmp_path / "adapter", replace(facts, base=BaseFacts(name)), None) == name
