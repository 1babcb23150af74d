"""BLOOM onto a CUDA device, a tensor at a time: each linear is quantised as it arrives, so the device never holds more
than the quantised model, one layer in 16 bits and 128 MiB of the tensors that come next (`tensor_reader.AHEAD`).
Transformers' loader does the same work in several times as long; what it makes is what is made here, which a test holds:
the same modules, scales and quantised weights (in int8 those that Transformers makes when it loads in float16).

The checkpoint may name its tensors from the BloomModel (`h.0.mlp...`, as bigscience's do) or from the BloomForCausalLM
(`transformer.h.0...`).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from florilegium.model.kernel_protocols import HostBlocks
from florilegium.model.tensor_reader import TensorReader
from florilegium.model.undrawn import Undrawn
from florilegium.model.weight_check import place
from florilegium.model.weight_files import WeightFiles

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.utils.quantization_config import QuantizationConfigMixin

BLOCK_WEIGHT = re.compile(r"\.h\.(\d+)\.\w+\.(\w+)\.weight$")  # of a linear: a norm lies one level higher
PIECE = 1 << 22  # numbers that are converted at a time


def load_streamed(
    files: WeightFiles,
    outline: PreTrainedModel,
    quantization: QuantizationConfigMixin,
    device: torch.device,
    host: HostBlocks | None = None,
) -> PreTrainedModel | None:
    """`outline`, a BloomForCausalLM on the meta device whose tensors were compared with those of `files`, filled and
    with bitsandbytes linears on `device`; None where its head is stored by itself (Transformers' own loader knows
    whether it is another one). What is quantised goes on into host memory where there is a `host`."""
    from transformers.quantizers.auto import AutoHfQuantizer

    model: Any = outline
    if not model.config.tie_word_embeddings or "lm_head.weight" in files.tensors:
        return None
    quantizer = AutoHfQuantizer.from_config(quantization)
    with Undrawn():
        quantizer.preprocess_model(model=model, device_map={"": str(device)}, dtype=torch.bfloat16)
    fill(model, files, device, host=host)
    model.tie_weights()
    model.hf_quantizer = quantizer
    quantizer.postprocess_model(model)
    return cast("PreTrainedModel", model)


def fill(
    model: PreTrainedModel,
    files: WeightFiles,
    device: torch.device,
    stored: torch.dtype = torch.bfloat16,
    held: Collection[str] | None = None,
    *,
    through_bfloat16: bool = False,
    host: HostBlocks | None = None,
) -> None:
    """Reads the tensors of `model` from `files`, or of it those `held`: into bitsandbytes' linears quantised, else as
    `stored`. `through_bfloat16`: what is quantised is rounded to bfloat16 first."""
    wanted = dict(model.named_parameters())
    held = wanted if held is None else held
    for path in files.paths:
        here = {
            key: name
            for key, tensor in files.tensors.items()
            if tensor.file == path and (name := place(key, wanted, model.base_model_prefix)) in held
        }
        with TensorReader(path, device) as reader:
            for key, tensor in reader.read_all(filter(here.__contains__, reader.names)):
                put(model, here[key], tensor, stored, through_bfloat16=through_bfloat16)
                to_host(model, here[key], host)
                files.was_read(key)
                del tensor  # the next one is waited for without it


def put(
    model: nn.Module,
    name: str,
    tensor: torch.Tensor,
    stored: torch.dtype = torch.bfloat16,
    *,
    through_bfloat16: bool = False,
) -> None:
    """A tensor into the parameter `name` of `model`; see `fill`."""
    home, leaf = name.rsplit(".", 1)
    module = model.get_submodule(home)
    if leaf == "weight" and type(module) is not nn.Linear and isinstance(module, nn.Linear):  # bitsandbytes' own kinds
        module.weight = _quantised(module, tensor.to(torch.bfloat16) if through_bfloat16 else tensor)
        return
    numbers = _bfloat16(tensor) if stored == torch.bfloat16 else tensor.to(stored)
    setattr(module, leaf, nn.Parameter(numbers, requires_grad=False))


def to_host(model: nn.Module, name: str, host: HostBlocks | None) -> None:
    """The weight `name` into host memory, where there is a `host` and it is that of a block's quantised linear."""
    place = BLOCK_WEIGHT.search(name)
    if host is not None and place:
        host.take(int(place[1]), place[2], model.get_submodule(name.removesuffix(".weight")))


def _bfloat16(tensor: torch.Tensor) -> torch.Tensor:
    """In the same memory where 16 bits become 16 others: an embedding of 250,880 rows is 2 GB of bloom-7b1."""
    if tensor.dtype != torch.float16 or not tensor.numel():
        return tensor.to(torch.bfloat16)
    to = tensor.view(torch.bfloat16)
    old, new = tensor.view(-1), to.view(-1)
    for start in range(0, len(old), PIECE):
        new[start : start + PIECE] = old[start : start + PIECE].to(torch.bfloat16)
    return to


def _quantised(module: nn.Linear, weight_NK: torch.Tensor) -> nn.Parameter:
    import bitsandbytes as bnb

    if isinstance(module, bnb.nn.Linear8bitLt):
        int8_NK, scale_N, _ = bnb.functional.int8_vectorwise_quant(weight_NK.half())
        return cast(
            nn.Parameter,
            bnb.nn.Int8Params(int8_NK, requires_grad=False, has_fp16_weights=False, CB=int8_NK, SCB=scale_N),
        )
    assert isinstance(module, bnb.nn.Linear4bit), "Transformers made it, for 8 or 4 bits"
    old = cast(bnb.nn.Params4bit, module.weight)
    packed, state = bnb.functional.quantize_4bit(
        weight_NK.to(torch.bfloat16),
        blocksize=old.blocksize,
        compress_statistics=old.compress_statistics,
        quant_type=old.quant_type,
        quant_storage=old.quant_storage,
    )
    module.quant_state = state
    weight: nn.Parameter = bnb.nn.Params4bit(
        packed, requires_grad=False, quant_state=state, blocksize=old.blocksize, compress_statistics=old.compress_statistics,
        quant_type=old.quant_type, quant_storage=old.quant_storage, module=module, bnb_quantized=True,
    )  # fmt: skip
    return weight
