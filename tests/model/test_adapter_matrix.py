"""Every field of PEFT's LoraConfig that changes what is computed, on a base in 32, 8 and 4 bits: trained and read as stock
PEFT does (losses, gradients, texts, and the base when the adapter is off), or refused before anything is loaded or
written. Stock is a float32 BLOOM with the weights that the quantised base stands for, each row alone.

    pytest tests/model/test_adapter_matrix.py -s        prints the matrix
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import florilegium
from florilegium.config import make_config
from florilegium.errors import FlorilegiumError
from florilegium.model import ForwardOptions, LoadedModel, attach_adapter, fast_paths, load_base, token_losses
from florilegium.tokens import PackPlan, pack
from tests.oracle import alone, rows_of, stock_float32
from tests.tiny import save_tiny

CPU = torch.device("cpu")
BITS = (32, 8, 4)
CELLS = [32, 8, pytest.param(4, marks=pytest.mark.slow)]
ROWS = rows_of([5, 9, 3, 12])
QKV = {"target_modules": ["query_key_value"]}

# By the field that a cell is about. What stock PEFT makes of each is saved by stock PEFT, and read here.
READ: dict[str, dict[str, Any]] = {
    "plain": QKV,
    "r": {**QKV, "r": 7},
    "lora_alpha": {**QKV, "lora_alpha": 3},
    "lora_dropout": {**QKV, "lora_dropout": 0.3},
    "target_modules: all linears": {"target_modules": "all-linear"},
    "target_modules: pattern": {"target_modules": r".*h\.1\..*(query_key_value|dense)"},
    "target_modules: lm_head": {"target_modules": ["query_key_value", "lm_head"]},
    "target_modules: word_embeddings": {"target_modules": ["query_key_value", "word_embeddings"]},
    "exclude_modules": {"target_modules": ["query_key_value", "dense"], "exclude_modules": ["h.0.self_attention.dense"]},
    "exclude_modules: pattern": {"target_modules": ["query_key_value", "dense"], "exclude_modules": r".*h\.0\..*dense"},
    "rank_pattern": {**QKV, "rank_pattern": {"h.1.self_attention.query_key_value": 3}},
    "rank_pattern: pattern": {**QKV, "rank_pattern": {r"^transformer\.h\.1\..*query_key_value": 3}},
    "alpha_pattern: pattern": {**QKV, "alpha_pattern": {r"h\.(0|1)\.self_attention\.query_key_value": 30}},
    "rank_pattern: endless": {**QKV, "rank_pattern": {r"(\w+\.?)+query_key_value": 3}},
    "layers_to_transform": {**QKV, "layers_to_transform": [1], "layers_pattern": "h"},
    "layer_replication": {**QKV, "layer_replication": [[0, 2], [1, 2]]},
    "modules_to_save: lm_head": {**QKV, "modules_to_save": ["lm_head"]},
    "modules_to_save: word_embeddings": {**QKV, "modules_to_save": ["word_embeddings"]},
    "modules_to_save: ln_f": {**QKV, "modules_to_save": ["ln_f"]},
    "modules_to_save: norms": {**QKV, "modules_to_save": ["input_layernorm", "post_attention_layernorm"]},
    "modules_to_save: dense": {**QKV, "modules_to_save": ["dense"]},
    "bias: all": {**QKV, "bias": "all"},
    "bias: lora_only": {**QKV, "bias": "lora_only"},
    "lora_bias": {**QKV, "lora_bias": True},
    "use_rslora": {**QKV, "use_rslora": True},
    "use_dora": {**QKV, "use_dora": True},
    "fan_in_fan_out": {**QKV, "fan_in_fan_out": True},
    "trainable_token_indices": {**QKV, "trainable_token_indices": [5, 6]},
    "target_parameters": {"target_modules": [], "target_parameters": ["dense.weight"]},
    "use_qalora": {**QKV, "use_qalora": True, "qalora_group_size": 8},
    "alora_invocation_tokens": {**QKV, "alora_invocation_tokens": [5]},
    "init: gaussian": {**QKV, "init_lora_weights": "gaussian"},
    "init: orthogonal": {**QKV, "init_lora_weights": "orthogonal"},
    "init: eva": {**QKV, "init_lora_weights": "eva"},
    "init: mica": {**QKV, "init_lora_weights": "mica"},
    "init: pissa": {**QKV, "init_lora_weights": "pissa"},
    "init: pissa_niter_4": {**QKV, "init_lora_weights": "pissa_niter_4"},
    "init: olora": {**QKV, "init_lora_weights": "olora"},
    "init: loftq": {**QKV, "init_lora_weights": "loftq"},
    "init: corda": {**QKV, "init_lora_weights": "corda"},
    "init: lora_ga": {**QKV, "init_lora_weights": "lora_ga"},
}  # fmt: skip
TRAIN: dict[str, dict[str, Any]] = {
    "plain": {},
    "lora_rank": {"lora_rank": 7},
    "lora_alpha": {"lora_alpha": 3.0},
    "target_modules: all-linear": {"target_modules": "all-linear"},
    "target_modules: dense": {"target_modules": "dense"},
    "target_modules: one layer": {"target_modules": "h.1.self_attention.query_key_value"},
    "target_modules: word_embeddings": {"target_modules": "query_key_value,word_embeddings"},
    "target_modules: lm_head": {"target_modules": "query_key_value,lm_head"},
    "target_modules: lm_head alone": {"target_modules": "lm_head"},
    "target_modules: ln_f": {"target_modules": "ln_f"},
    "target_modules: q_proj": {"target_modules": "q_proj"},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "lora_init: gaussian": {"lora_init": "gaussian"},
    "lora_init: orthogonal": {"lora_init": "orthogonal"},
    "lora_init: orthogonal, odd rank": {"lora_init": "orthogonal", "lora_rank": 7},
    "lora_init: olora": {"lora_init": "olora"},
    "lora_init: pissa": {"lora_init": "pissa"},
    "lora_init: corda": {"lora_init": "corda"},
}
# What the cells say; a change of any of them is a change for users.
REFUSED_READING = {
    "target_modules: lm_head", "rank_pattern: endless", "layer_replication",
    "trainable_token_indices", "target_parameters", "use_qalora", "alora_invocation_tokens", "init: pissa_niter_4",
    "init: loftq", "init: corda", "init: lora_ga",
}  # fmt: skip
REFUSED_TRAINING = {
    "target_modules: lm_head", "target_modules: lm_head alone", "target_modules: ln_f", "target_modules: q_proj",
    "lora_init: orthogonal, odd rank", "lora_init: corda",
}  # fmt: skip
NEED_WHOLE_WEIGHTS = {
    "modules_to_save: dense", "init: pissa", "init: olora", "lora_init: pissa", "lora_init: olora", "lora_init: orthogonal",
    "dora",
}  # fmt: skip
# Fields that say where or how a thing was made, and nothing of what is computed; or of formats that are refused above.
NO_CELL = {
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config",
    "qalora_group_size", "monteclora_config", "runtime_config", "use_bdlora", "arrow_config", "kasa_config",
    "ensure_weight_tying", "layers_pattern", "init_lora_weights", "alpha_pattern",
}  # fmt: skip


# These change what a quantised base keeps in 16 bits: the adapter's numbers are rounded to bfloat16 there, by PEFT too.
IN_16_BITS = {"target_modules: word_embeddings", "bias: all", "bias: lora_only"}
SAME = ("", "equal", "to bf16")
MADE_WITH_DATA = ("corda", "lora_ga", "loftq", "eva")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("matrix") / "bloom", heads=4, head_dim=16)


@pytest.fixture(scope="module")
def stock_bases(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of float32 models with the weights that `tiny` in so many bits stands for."""
    folders = {}
    for bits in BITS:
        base = load_base(str(tiny), bits=bits, device=CPU, compute="float32")
        model = attach_adapter(base, make_config({"bits": bits, "lora_rank": 4}))
        folders[bits] = tmp_path_factory.mktemp("stock") / str(bits)
        stock = stock_float32(base, model).unload()
        stock.config.__dict__.pop("quantization_config", None)  # it is float32 now
        if bits == 4:  # bitsandbytes gives NF4 back as bfloat16
            for module in stock.transformer.h.modules():
                if isinstance(module, torch.nn.Linear):
                    module.weight.data = module.weight.data.bfloat16().float()
        stock.save_pretrained(folders[bits])
    return folders


@pytest.fixture(scope="module")
def matrix() -> Iterator[dict[tuple[str, str, int], str]]:
    cells: dict[tuple[str, str, int], str] = {}
    yield cells
    for what in ("train", "read"):
        print(f"\n\n{what:38}" + "".join(f"{f'{bits} bits':10}" for bits in BITS))
        for name in dict.fromkeys(name for kind, name, _ in cells if kind == what):
            row = [cells.get((what, name, bits), "") for bits in BITS]
            reasons = dict.fromkeys(cell for cell in row if cell not in SAME)
            print(f"{name:38}" + "".join(f"{cell if cell in SAME else 'refused':10}" for cell in row), *reasons)


def stock_adapter(tiny: Path, folder: Path, settings: dict[str, Any]) -> Path:
    """An adapter as stock PEFT makes and saves it, its numbers far from their start."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    # These need data, other families or another package when they are made; what is saved has the same form.
    said = {key: value for key, value in settings.items() if key == "layer_replication" or value in MADE_WITH_DATA}
    plain = {key: value for key, value in settings.items() if key not in said}
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **plain})
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **said}))
    return folder


@pytest.mark.parametrize("bits", CELLS)
@pytest.mark.parametrize("name", READ)
def test_reads_as_stock_peft_does(
    tiny: Path, stock_bases: dict[int, Path], tmp_path: Path, matrix: Any, name: str, bits: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if bits != 32 and name not in NEED_WHOLE_WEIGHTS and name in REFUSED_READING:
        pytest.skip("refused for what it is, whatever the bits")
    folder = stock_adapter(tiny, tmp_path / "adapter", READ[name])
    if name in REFUSED_READING or (bits < 16 and name in NEED_WHOLE_WEIGHTS):
        monkeypatch.setattr("florilegium.generation.tuned.load_base", _must_not_be_called)
        with pytest.raises(FlorilegiumError) as error:
            florilegium.load(folder, model=str(tiny), bits=bits, device="cpu")
        assert error.value.exit_code in (2, 4) and error.value.fix
        matrix["read", name, bits] = str(error.value)
        return
    tuned = florilegium.load(folder, model=str(tiny), bits=bits, device="cpu")
    base = AutoModelForCausalLM.from_pretrained(stock_bases[bits]).eval()
    wanted_base = loss_of(base)
    stock = PeftModel.from_pretrained(base, str(folder)).eval()
    wanted = loss_of(stock)
    assert abs(wanted - wanted_base) > 1e-3, "this adapter would show nothing"
    rounded = bits < 16 and name in IN_16_BITS
    near = 1e-2 if rounded else 2e-5
    assert ours(tuned) == pytest.approx(wanted, abs=near)
    with tuned.adapter_off():
        assert ours(tuned) == pytest.approx(wanted_base, abs=2e-5)
    assert ours(tuned) == pytest.approx(wanted, abs=near)  # and on again
    for prompt in () if rounded else ("Be kind", "Time is a"):
        ids = tuned.base.tokenizer(prompt, return_tensors="pt")["input_ids"]
        written = stock.generate(input_ids=ids, do_sample=False, max_new_tokens=8, eos_token_id=2, pad_token_id=3)[0]
        text = tuned.base.tokenizer.decode(written, skip_special_tokens=True)
        assert tuned.generate(prompt, temperature=0.0, max_new_tokens=8)[0].text.split() == text.split()
    matrix["read", name, bits] = "to bf16" if rounded else "equal"


@pytest.mark.parametrize("bits", CELLS)
@pytest.mark.parametrize("name", TRAIN)
def test_trains_as_stock_peft_does(
    tiny: Path, stock_bases: dict[int, Path], tmp_path: Path, matrix: Any, name: str, bits: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if bits != 32 and name in REFUSED_TRAINING - NEED_WHOLE_WEIGHTS:
        pytest.skip("refused for what it is, whatever the bits")
    settings = {"lora_dropout": 0.0, "lora_rank": 4, "bits": bits, **TRAIN[name]}
    if name in REFUSED_TRAINING or (bits < 16 and name in NEED_WHOLE_WEIGHTS):
        monkeypatch.setattr("florilegium.runs.prepare.load_base", _must_not_be_called)
        rows = tmp_path / "rows.jsonl"
        rows.write_text("".join(json.dumps({"quote": f"Be kind to {w}.", "tags": [w]}) + "\n" for w in "abcdefgh"))
        with pytest.raises(FlorilegiumError) as error:
            florilegium.train(rows, model=str(tiny), output=str(tmp_path / "run"), device="cpu", **settings)
        assert error.value.exit_code in (2, 4) and error.value.fix and not (tmp_path / "run").exists()
        matrix["train", name, bits] = str(error.value)
        return
    base = load_base(str(tiny), bits=bits, device=CPU, compute="float32")
    torch.manual_seed(3)
    config = make_config(settings)
    model = attach_adapter(base, config)
    fast_paths.install_kernels(model, ("quantized-linear",) if bits < 16 else ())
    stock = stock_training(stock_bases[bits], config)
    ours_, theirs = trained(model), trained(stock)
    rounded = name in IN_16_BITS and bits < 16
    assert ours_.keys() == theirs.keys() and ours_
    for key, parameter in ours_.items():
        assert torch.allclose(parameter, theirs[key], atol=0.02 if rounded else 1e-5), f"{key} starts otherwise"
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(key))) * 0.05
        parameter.data.add_(noise)
        theirs[key].data.copy_(parameter)
    loaded = LoadedModel(base, model)
    (batch,) = pack(ROWS, PackPlan(row_tokens=48))
    loss = token_losses(loaded, batch, ForwardOptions()).mean()
    loss.backward()
    _, total, count = alone(stock, ROWS)
    (total / count).backward()
    assert float(loss.detach()) == pytest.approx(float((total / count).detach()), abs=1e-2 if rounded else 2e-5)
    for key, parameter in ours_.items():
        error = (parameter.grad - theirs[key].grad).norm() / theirs[key].grad.norm()
        assert error < (2e-2 if rounded else 2e-4), (key, float(error))
    with loaded.adapter_off():
        model.eval()
        base_loss = float(token_losses(loaded, batch).mean())
    from transformers import AutoModelForCausalLM

    assert base_loss == pytest.approx(loss_of(AutoModelForCausalLM.from_pretrained(stock_bases[bits])), abs=2e-5)
    matrix["train", name, bits] = "to bf16" if rounded else "equal"


def test_every_field_of_loraconfig_has_its_cell() -> None:
    """A field that a later PEFT brings shows up here, and is decided upon."""
    from peft import LoraConfig

    named = {name.split(":")[0] for name in READ} | NO_CELL
    assert {field.name for field in fields(LoraConfig)} <= named


def stock_training(folder: Path, config: Any) -> Any:
    """Stock PEFT's own start on the same weights, from the same seed."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    stock = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(3)
    names = {"auto": ["query_key_value"], "all-linear": "all-linear"}
    return get_peft_model(
        stock,
        LoraConfig(
            r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=0.0, use_rslora=config.rslora,
            target_modules=names.get(config.target_modules, config.target_modules.split(",")), use_dora=config.dora,
            init_lora_weights=True if config.lora_init == "default" else config.lora_init, task_type="CAUSAL_LM",
        ),
    )  # fmt: skip


def trained(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def loss_of(model: Any) -> float:
    """The mean loss of each row alone, by Transformers' own forward."""
    with torch.no_grad():
        losses = []
        for row in ROWS:
            ids = torch.tensor([row.token_ids])
            losses.append(
                F.cross_entropy(model.eval()(input_ids=ids).logits[0, :-1].float(), ids[0, 1:], reduction="none")
            )
        return float(torch.cat(losses).mean())


def ours(tuned: Any) -> float:
    """The same by our own forward pass, all rows packed."""
    (batch,) = pack(ROWS, PackPlan(row_tokens=48))
    with torch.no_grad():
        return float(token_losses(tuned.loaded, batch, ForwardOptions(tuned.loaded.kernels)).mean())


def _must_not_be_called(*given: object, **named: object) -> Callable[..., object]:
    raise AssertionError("refused only after it was loaded")
