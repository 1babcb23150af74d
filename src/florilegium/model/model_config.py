"""A model's config.json as Transformers' configuration, without what would fetch or run anything.

Some of its fields choose code: `auto_map` a Python file of the folder, `attn_implementation` a kernel from the Hub,
`quantization_config` a library, `transformers_weights` other files. What a model computes is in its other fields and in
its weights; how it is computed is our own choice, so these are refused where they matter and left out where they do
not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from florilegium.errors import ModelError
from florilegium.model.config_numbers import check_numbers
from florilegium.model.load_errors import model_errors

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# How, not what: attention and experts by Transformers' default, and nothing by the name of another place.
OUR_CHOICE = (
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal", "_attn_implementation_autoset",
    "experts_implementation", "_experts_implementation", "_experts_implementation_internal", "kernel_config", "use_kernels",
    "fusion_config", "distributed_config", "transformers_weights", "extra_files", "_name_or_path", "name_or_path", "_commit_hash",
    "custom_generate", "custom_pipelines", "gguf_file", "trust_remote_code", "base_model_tp_plan", "base_model_pp_plan",
    "_adapter_model_path", "attribute_map", "sub_configs", "keys_to_ignore_at_inference",
    # what a forward pass gives back, and the classes of a classifier, of which there may be said to be billions
    "return_dict", "use_return_dict", "output_attentions", "output_hidden_states", "torchscript", "num_labels", "_num_labels",
    "dtype", "torch_dtype", "id2label", "label2id", "problem_type", "task_specific_params", "finetuning_task",
)  # fmt: skip
OURS = "florilegium never does: choose another model"
PLAIN = "Name the 16-bit model that it was made from; --bits 8 or 4 quantises it here"
SPECIAL_FLOATS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
FLOAT_NAMES = ("float16", "bfloat16", "float32", None)


def model_config(values: Mapping[str, Any], name: str) -> PretrainedConfig:
    """Transformers' configuration of the model `name` for these values of its config.json. Raises ModelError for a type
    of model that Transformers does not know, for numbers out of range, and for what is quantised in other ways than
    bitsandbytes'."""
    from transformers import CONFIG_MAPPING

    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ModelError(
            f"cannot load {name}: its config.json says model_type is {str(model_type)[:40]!r}, which this version of "
            "Transformers lacks",
            "pip install -U transformers, or choose another model",
        )
    with model_errors(name):  # also of what is nested too deep
        what_it_is = _what_it_is(dict(values))
        check_numbers(what_it_is, name)
        _check_quantization(what_it_is, name)
        config: PretrainedConfig = CONFIG_MAPPING[model_type].from_dict(what_it_is)
    return config


def stored_bits(values: Mapping[str, Any]) -> int | None:
    """The bits of a checkpoint that is quantised already; None where `--bits` decides."""
    quantization = values.get("quantization_config")
    if not isinstance(quantization, dict):
        return None
    return 4 if quantization.get("load_in_4bit") else 8 if quantization.get("load_in_8bit") else None


def _what_it_is(value: Any) -> Any:  # Any: whatever JSON can say
    """`value` without what is our own choice, in its parts too, and with the numbers that Transformers writes as
    `{"__float__": "Infinity"}` because JSON has none."""
    if isinstance(value, list):
        return [_what_it_is(item) for item in value]
    if not isinstance(value, dict):
        return value
    if list(value) == ["__float__"] and isinstance(value["__float__"], str):
        return SPECIAL_FLOATS.get(value["__float__"], value)
    return {key: _what_it_is(part) for key, part in value.items() if key not in OUR_CHOICE}


def _check_quantization(values: Mapping[str, Any], name: str) -> None:
    for part in (values, *(value for value in values.values() if isinstance(value, dict))):
        if part.get("compression_config") is not None:
            raise ModelError(f"{name} is quantised by compressed-tensors, and only bitsandbytes is read", PLAIN)
        quantization = part.get("quantization_config")
        if quantization is not None:
            _check_bitsandbytes(quantization, name)


def _check_bitsandbytes(quantization: object, name: str) -> None:
    """Transformers looks some of these words up as attributes of torch, and loads a library by others."""
    if not isinstance(quantization, dict):
        raise ModelError(f"the config.json of {name} has an invalid quantization_config", "Get the model again")
    in_bits = quantization.get("load_in_8bit") or quantization.get("load_in_4bit")
    method = quantization.get("quant_method", "bitsandbytes" if in_bits else None)
    if method != "bitsandbytes" or not in_bits:
        raise ModelError(f"{name} is quantised by {str(method)[:40]!r}, and only bitsandbytes is read", PLAIN)
    allowed: dict[str, tuple[object, ...]] = {
        **dict.fromkeys(("load_in_8bit", "load_in_4bit", "_load_in_8bit", "_load_in_4bit"), (True, False, None)),
        **dict.fromkeys(("bnb_4bit_use_double_quant", "llm_int8_enable_fp32_cpu_offload"), (True, False, None)),
        "llm_int8_has_fp16_weight": (False, None),
        "bnb_4bit_quant_type": ("nf4", "fp4", None),
        "bnb_4bit_compute_dtype": FLOAT_NAMES,
        "bnb_4bit_quant_storage": ("uint8", "int8", *FLOAT_NAMES),
    }
    for key, values in allowed.items():
        if key in quantization and not any(quantization[key] is v or quantization[key] == v for v in values):
            raise ModelError(f"the quantization_config of {name} says {key} is {str(quantization[key])[:40]!r}", PLAIN)
    threshold, skipped = quantization.get("llm_int8_threshold", 6.0), quantization.get("llm_int8_skip_modules")
    names = skipped if isinstance(skipped, list) else [] if skipped is None else [None]
    if type(threshold) not in (int, float) or not 0 <= threshold < 1e6 or not all(isinstance(n, str) for n in names):
        raise ModelError(f"the quantization_config of {name} has an invalid threshold or list of modules", PLAIN)
