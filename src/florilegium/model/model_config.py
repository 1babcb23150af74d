"""A model's config.json as Transformers' configuration, once what it announces was compared with the weights.

Transformers builds a model from its configuration before it looks at the weights: a configuration that says 1e9 layers
would be built until memory is gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from florilegium.errors import ModelError
from florilegium.model.weight_files import WeightFiles

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LIMITS = {
    "n_layer": "tensors", "num_hidden_layers": "tensors", "num_layers": "tensors", "n_layers": "tensors",
    "hidden_size": "size", "n_embed": "size", "n_embd": "size", "d_model": "size", "vocab_size": "size", "intermediate_size": "size",
}  # fmt: skip


def check_sizes(config: Mapping[str, Any], files: WeightFiles) -> None:
    """Compares what config.json announces with the headers of the weight files. Raises ModelError."""
    num_tensors = len(files.tensors)
    largest = max((size for tensor in files.tensors.values() for size in tensor.shape), default=0)
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key, limit in LIMITS.items():
            value = part.get(key)
            if isinstance(value, (int, float)) and not 1 <= value <= max(
                1, num_tensors if limit == "tensors" else largest
            ):
                raise ModelError(
                    f"the config.json of {files.name} says {key} is {value:g}, and its weights hold no such thing",
                    "Get the model again",
                )


def model_config(values: Mapping[str, Any], name: str) -> PretrainedConfig:
    """Transformers' configuration of the model `name` for these values. Raises ModelError for a type of model that it does not know."""
    from transformers import CONFIG_MAPPING

    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ModelError(
            f"cannot load {name}: its config.json says model_type is {str(model_type)[:40]!r}, which this version of Transformers lacks",
            "pip install -U transformers, or choose another model",
        )
    config: PretrainedConfig = CONFIG_MAPPING[model_type].from_dict(dict(values))
    return config
