"""BLOOM onto a CUDA device, a tensor at a time: each linear is quantised as it arrives, so the device never holds more
than the quantised model and one layer in 16 bits. Transformers' loader does the same work in several times as long;
what it makes is what is made here, which a test holds: the same modules, the same scales, the same codes (of int8 those
that Transformers makes when it loads in float16).

The checkpoint may name its tensors from the BloomModel (`h.0.mlp...`, as bigscience's do) or from the BloomForCausalLM
(`transformer.h.0...`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from florilegium.model.tensor_reader import TensorReader

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.utils.quantization_config import QuantizationConfigMixin

PIECE = 1 << 22  # numbers that are converted at a time


def load_streamed(folder: Path, quantisation: QuantizationConfigMixin, device: torch.device) -> PreTrainedModel | None:
    """A BloomForCausalLM with bitsandbytes linears on `device`, or None where the folder is not one that this loader
    knows (then Transformers' own loader takes it, or says what is wrong)."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.quantizers.auto import AutoHfQuantizer

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if getattr(config, "quantization_config", None) is not None or not config.tie_word_embeddings:
        return None
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    quantizer = AutoHfQuantizer.from_config(quantisation)
    quantizer.preprocess_model(model=model, device_map={"": str(device)}, dtype=torch.bfloat16)
    wanted = {name for name, _ in model.transformer.named_parameters(prefix="transformer")}
    for path in sorted(folder.glob("*.safetensors")):
        with TensorReader(path, device) as reader:
            if not reader.can_read_all:
                return None
            for key in reader.names:
                name = key if key.startswith("transformer.") else f"transformer.{key}"
                if name in wanted:
                    _place(model, name, reader.read(key))
                    wanted.discard(name)
                elif key != "lm_head.weight":
                    return None
    if wanted:
        return None
    model.tie_weights()
    model.hf_quantizer = quantizer
    quantizer.postprocess_model(model)
    return cast("PreTrainedModel", model)


def _place(model: Any, name: str, tensor: torch.Tensor) -> None:
    home, leaf = name.rsplit(".", 1)
    module = model.get_submodule(home)
    if leaf == "weight" and isinstance(module, torch.nn.Linear):
        module.weight = _quantised(module, tensor)
    else:
        setattr(module, leaf, torch.nn.Parameter(_bfloat16(tensor), requires_grad=False))


def _bfloat16(tensor: torch.Tensor) -> torch.Tensor:
    """In the same memory where 16 bits become 16 others: an embedding of 250,880 rows is 2 GB of bloom-7b1."""
    if tensor.dtype != torch.float16 or not tensor.numel():
        return tensor.to(torch.bfloat16)
    to = tensor.view(torch.bfloat16)
    old, new = tensor.view(-1), to.view(-1)
    for place in range(0, len(old), PIECE):
        new[place : place + PIECE] = old[place : place + PIECE].to(torch.bfloat16)
    return to


def _quantised(module: Any, weight_NK: torch.Tensor) -> Any:
    import bitsandbytes as bnb

    if isinstance(module, bnb.nn.Linear8bitLt):
        codes_NK, scale_N, _ = bnb.functional.int8_vectorwise_quant(weight_NK.half())
        return bnb.nn.Int8Params(codes_NK, requires_grad=False, has_fp16_weights=False, CB=codes_NK, SCB=scale_N)
    old = module.weight
    packed, state = bnb.functional.quantize_4bit(
        weight_NK.to(torch.bfloat16),
        blocksize=old.blocksize,
        compress_statistics=old.compress_statistics,
        quant_type=old.quant_type,
        quant_storage=old.quant_storage,
    )
    module.quant_state = state
    return bnb.nn.Params4bit(
        packed, requires_grad=False, quant_state=state, blocksize=old.blocksize, compress_statistics=old.compress_statistics,
        quant_type=old.quant_type, quant_storage=old.quant_storage, module=module, bnb_quantized=True,
    )  # fmt: skip
