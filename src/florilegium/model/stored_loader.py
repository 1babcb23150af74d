"""A BLOOM that is stored quantised onto a CUDA device, as it lies in its files: nothing is quantised again, and the host
holds a few pieces of 16 MiB (`tensor_reader.py`).

A linear's tensors may lie in several files, its scales behind the weights of all others (as Transformers saves int8):
they are read first, and each weight finds them on the device.

    int8   weight [N, K], SCB [N], weight_format (0: rows in their order)
    NF4    weight [N K / 2, 1], weight.absmax, weight.quant_map, weight.quant_state.bitsandbytes__nf4, weight.nested_...

What is made is what Transformers' loader makes, which a test holds, but that what is not quantised is held in bfloat16 as
of every other base (Transformers leaves it as it is stored). The state of NF4 is JSON by whoever made the file:
the kernels read by its sizes, so they are compared with the tensors before one runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from florilegium.errors import ModelError
from florilegium.model.bloom_loader import put, to_host
from florilegium.model.kernel_protocols import HostBlocks
from florilegium.model.tensor_reader import TensorReader
from florilegium.model.undrawn import Undrawn
from florilegium.model.weight_check import FLOATS, place
from florilegium.model.weight_files import AGAIN, WeightFiles

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NF4_STATE = "quant_state.bitsandbytes__nf4"
PARTS_INT8 = {"weight", "SCB", "weight_format"}
PARTS_NF4 = {"weight", "absmax", "quant_map", NF4_STATE}
NESTED = {"nested_absmax", "nested_quant_map"}
Parts = dict[str, str]  # of a weight: its parts and their names in the files


def load_stored(
    files: WeightFiles,
    outline: PreTrainedModel,
    stored: torch.dtype,
    device: torch.device,
    host: HostBlocks | None = None,
) -> PreTrainedModel | None:
    """`outline`, on the meta device, filled from `files`, what is not quantised held in `stored`, what is goes on into
    host memory where there is a `host`; None where they hold
    anything but a linear's int8 or NF4 and 16-bit numbers for the rest (Transformers' loader knows more kinds, and says
    what is missing). Raises ModelError for parts that do not belong together."""
    from transformers.quantizers.auto import AutoHfQuantizer

    model: Any = outline
    quantizer: Any = AutoHfQuantizer.from_config(model.config.quantization_config, pre_quantized=True)
    with Undrawn():
        quantizer.preprocess_model(model=model, device_map={"": str(device)}, dtype=stored)
    parts = _parts_by_weight(model, files)
    if parts is None:
        return None
    _fill(model, files, parts, stored, device, host)
    model.tie_weights()
    model.hf_quantizer = quantizer
    quantizer.postprocess_model(model)
    return cast("PreTrainedModel", model)


def _parts_by_weight(model: PreTrainedModel, files: WeightFiles) -> Mapping[str, Parts] | None:
    """What the files hold of each parameter; None where that is not exactly what this loader reads."""
    wanted = dict(model.named_parameters())
    parts: dict[str, Parts] = {}
    for key in files.tensors:
        weight, part = _home(key)
        name = place(weight, wanted, model.base_model_prefix)
        if not name or part in parts.get(name, {}):
            return None
        parts.setdefault(name, {})[part] = key
    if wanted.keys() != parts.keys():
        return None
    return parts if all(_is_read_here(model, name, found, files) for name, found in parts.items()) else None


def _home(key: str) -> tuple[str, str]:
    """The parameter that a stored tensor belongs to, and which part of it this is."""
    for part in ("SCB", "weight_format"):
        if key.endswith(f".{part}"):
            return key.removesuffix(part) + "weight", part
    home, inner, part = key.partition(".weight.")
    return (f"{home}.weight", part) if inner else (key, "weight")


def _is_read_here(model: PreTrainedModel, name: str, parts: Parts, files: WeightFiles) -> bool:
    home, leaf = name.rsplit(".", 1)
    module: Any = model.get_submodule(home)
    held = files.tensors[parts["weight"]] if "weight" in parts else None
    if held is None:
        return False
    if leaf == "weight" and _is_quantised(module):
        N, K = module.out_features, module.in_features
        if _is_int8(module):
            return parts.keys() == PARTS_INT8 and held.dtype == "I8" and held.shape == (N, K)
        return parts.keys() - NESTED == PARTS_NF4 and held.dtype == "U8" and 2 * held.num_bytes == N * K
    shape = tuple(getattr(module, leaf).shape)
    return parts.keys() == {"weight"} and held.dtype in FLOATS and held.shape == shape


def _is_quantised(module: nn.Module) -> bool:
    return type(module) is not nn.Linear and isinstance(module, nn.Linear)  # bitsandbytes' own kinds


def _is_int8(module: nn.Module) -> bool:
    import bitsandbytes as bnb

    return isinstance(module, bnb.nn.Linear8bitLt)


def _fill(
    model: PreTrainedModel, files: WeightFiles, parts: Mapping[str, Parts], stored: torch.dtype, device: torch.device,
    host: HostBlocks | None,
) -> None:  # fmt: skip
    homes = {key: (name, part) for name, found in parts.items() for part, key in found.items()}
    beside: dict[str, dict[str, torch.Tensor]] = {name: {} for name in parts}
    # Scales first: a weight then need not wait for its own on the device, which may have no room for many of them.
    for is_weight in (False, True):
        for path in files.paths:
            keys = {
                key for key in homes if files.tensors[key].file == path and (homes[key][1] == "weight") is is_weight
            }
            with TensorReader(path, device) as reader:
                for key, tensor in reader.read_all(filter(keys.__contains__, reader.names)):
                    name, part = homes[key]
                    beside[name][part] = tensor
                    if is_weight:
                        _put(model, name, beside.pop(name), stored, device)
                        to_host(model, name, host)
                    files.was_read(key)
                    del tensor  # the next one is waited for without it


def _put(
    model: PreTrainedModel, name: str, found: dict[str, torch.Tensor], stored: torch.dtype, device: torch.device
) -> None:
    home, leaf = name.rsplit(".", 1)
    module: Any = model.get_submodule(home)
    if leaf != "weight" or not _is_quantised(module):
        put(model, name, found["weight"], stored)
    elif _is_int8(module):
        module.weight = _int8_weight(name, found)
    else:
        module.weight = _nf4_weight(name, found, module, device)


def _int8_weight(name: str, found: Mapping[str, torch.Tensor]) -> nn.Parameter:
    import bitsandbytes as bnb

    int8_NK, scale_N = found["weight"], found["SCB"]
    if scale_N.shape != int8_NK.shape[:1] or scale_N.dtype != torch.float32 or bool(found["weight_format"].any()):
        raise ModelError(f"{name} has scales that do not fit it, or rows in another order", AGAIN)
    return cast(
        nn.Parameter,
        bnb.nn.Int8Params(int8_NK, requires_grad=False, has_fp16_weights=False, CB=int8_NK, SCB=scale_N),
    )


def _nf4_weight(name: str, found: dict[str, torch.Tensor], module: nn.Linear, device: torch.device) -> nn.Parameter:
    import bitsandbytes as bnb

    packed = found.pop("weight")
    weight: Any = bnb.nn.Params4bit.from_prequantized(
        data=packed,
        quantized_stats=found,
        requires_grad=False,
        device=device,
        module=cast(bnb.nn.Linear4bit, module),
    )
    state, numbers = weight.quant_state, module.out_features * module.in_features
    nested = state.state2
    sizes = [(state.absmax, state.blocksize, numbers)]
    sizes += [(nested.absmax, nested.blocksize, state.absmax.numel())] if nested is not None else []
    if (
        tuple(state.shape) != (module.out_features, module.in_features)
        or any(type(size) is not int or size < 1 or part.numel() != -(-total // size) for part, size, total in sizes)
        or state.absmax.dtype != (torch.uint8 if nested is not None else torch.float32)
        or state.code.numel() != 16
        or (nested is not None and (nested.code.numel() != 256 or nested.absmax.dtype != torch.float32))
    ):
        raise ModelError(f"{name} has scales that do not fit it", AGAIN)
    return cast(nn.Parameter, weight)
