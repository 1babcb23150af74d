"""A model by Transformers, from the files that `weight_files.py` found and no others.

`from_pretrained` is given a configuration and slices of tensors, and no folder: a folder may hold an adapter that it
would load on top, a checkpoint of another kind that it would take instead, a generation function. It keeps state of the
whole process while it works, so there is one load at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from florilegium.errors import ModelError
from florilegium.model.families import family_of, packs
from florilegium.model.kernel_protocols import HostBlocks
from florilegium.model.load_errors import ONE_LOAD_AT_A_TIME
from florilegium.model.model_config import model_config
from florilegium.model.stage import Stage
from florilegium.model.stage_loader import load_stage
from florilegium.model.stored_loader import load_stored
from florilegium.model.undrawn import Undrawn
from florilegium.model.weight_check import check_headers, check_loaded, refuse_empty, weights_of
from florilegium.model.weight_files import WeightFiles

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel


def load_model(
    files: WeightFiles,
    config: Mapping[str, Any],
    bits: int,
    device: torch.device,
    compute_dtype: torch.dtype,
    stage: Stage | None = None,
    host: HostBlocks | None = None,
) -> PreTrainedModel:
    """The model that the config.json `config` describes with the weights of `files`, its linears in `bits`, on `device`;
    of it what `stage` holds, if there is one; its blocks' weights in `host`. Raises ModelError where the two do not belong together."""
    with ONE_LOAD_AT_A_TIME:
        empty = outline(config, files.name)
        family = family_of(empty.config.model_type)
        files = weights_of(empty, files)
        is_quantized = getattr(empty.config, "quantization_config", None) is not None
        if not is_quantized:  # bitsandbytes' own tensors have other names and shapes: Transformers' report judges them
            check_headers(empty, files, exact=packs(family))
        quantization = quantization_config(bits, compute_dtype) if bits in (8, 4) else None
        # Our own forward pass casts as it goes; other families compute in the dtype that they are stored in.
        stored = torch.float32 if bits == 32 else torch.bfloat16 if packs(family) else compute_dtype
        if stage is not None:
            assert packs(family) and not is_quantized, "the plan of the pipeline refuses others"
            return load_stage(files, empty, quantization, stored, device, family, stage)
        if quantization is not None and not is_quantized:
            model = family.load_quantized(files, empty, quantization, device, host)
            if model is not None:
                refuse_empty(model, files.name)
                return model
        if is_quantized and packs(family) and device.type == "cuda":
            model = load_stored(files, empty, stored, device, host)
            if model is not None:
                refuse_empty(model, files.name)
                return model
        if host is not None:
            fix = "Leave --memory out, or choose a BLOOM whose head is its embedding"
            raise ModelError(
                f"{files.name} cannot lie in host memory: only a BLOOM's blocks can, read by our own loader", fix
            )
        return _from_pretrained(type(empty), files, empty.config, stored, device, quantization)


def outline(values: Mapping[str, Any], name: str) -> PreTrainedModel:
    """The model that a config.json describes, without numbers: on the meta device. Raises ModelError for an encoder."""
    from transformers import AutoModelForCausalLM

    _refuse_encoder(values, name)
    with torch.device("meta"), Undrawn():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(model_config(values, name), dtype=torch.bfloat16)
    return model


def _refuse_encoder(values: Mapping[str, Any], name: str) -> None:
    """BERT and its like read both ways and fill gaps. Transformers makes a causal LM of them all the same, and whether it
    is one was seen only once its weights had been downloaded."""
    kinds = values.get("architectures")
    if not isinstance(kinds, list) or not kinds or values.get("is_decoder"):
        return
    if all(isinstance(kind, str) and kind.endswith("ForMaskedLM") for kind in kinds):
        raise ModelError(
            f"{name} is an encoder ({kinds[0][:40]}), which fills gaps in a text and writes none",
            "Choose a causal LM, such as bigscience/bloom-560m",
        )


def _from_pretrained(
    kind: type[PreTrainedModel],
    files: WeightFiles,
    config: PretrainedConfig,
    stored: torch.dtype,
    device: torch.device,
    quantization: BitsAndBytesConfig | None,
) -> PreTrainedModel:
    with files.slices() as slices:
        loaded: Any = kind.from_pretrained(  # a pair, because of output_loading_info
            None,
            config=config,
            state_dict=slices,
            dtype=stored,
            device_map={"": str(device)},
            local_files_only=True,
            ignore_mismatched_sizes=True,  # the report names them, and they are refused
            output_loading_info=True,
            quantization_config=quantization,
        )
    model: PreTrainedModel = loaded[0]
    check_loaded(model, loaded[1], files.name)
    return model


def quantization_config(bits: int, compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )
