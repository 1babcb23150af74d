"""A stage of a model onto a device: the tensors that it holds, and no others.

What is loaded has the bits that the whole model has in one process. On a CUDA device that is the loader of
`bloom_loader.py`; on the CPU Transformers loads in bfloat16 and bitsandbytes quantises that, so this does too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from florilegium.errors import ModelError
from florilegium.model.bloom_loader import fill
from florilegium.model.families import PackedFamily
from florilegium.model.stage import Stage, held_names
from florilegium.model.weight_files import WeightFiles

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.utils.quantization_config import QuantizationConfigMixin


def load_stage(
    files: WeightFiles,
    outline: PreTrainedModel,
    quantization: QuantizationConfigMixin | None,
    stored: torch.dtype,
    device: torch.device,
    family: PackedFamily,
    stage: Stage,
) -> PreTrainedModel:
    """`outline`, on the meta device and compared with `files`, with the numbers of `stage` in it; what is not quantised
    is held in `stored`. Raises ModelError where the head is stored beside an embedding that it is to be."""
    from transformers.quantizers.auto import AutoHfQuantizer

    model: Any = outline
    if model.config.tie_word_embeddings and "lm_head.weight" in files.tensors:
        raise ModelError(
            f"{files.name} stores its head beside the embedding, and its config.json says that they are one",
            "Train it without --parallel pipeline",
        )
    held = held_names(stage, family, outline)
    quantizer: Any = None
    if quantization is not None:
        quantizer = AutoHfQuantizer.from_config(quantization)
        quantizer.preprocess_model(model=model, device_map={"": str(device)}, dtype=torch.bfloat16)
    fill(model, files, device, stored, held, through_bfloat16=device.type == "cpu")
    model.tie_weights()
    if quantizer is not None:
        model.hf_quantizer = quantizer
        quantizer.postprocess_model(model)
    return cast("PreTrainedModel", model)
