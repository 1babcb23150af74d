"""Kernels, one file each, every one with a reference implementation. `README.md` has a row on each.

Of ours only the references are known here, and only `model/fast_paths.py` knows this room: everything works without it,
with its kernels off (`--kernels off`) and with the folder gone."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from florilegium.fast import flex_attention, frozen_linear, support
from florilegium.fast.card import card_of, no_bfloat16
from florilegium.fast.compile_pool import compiled_so_far
from florilegium.fast.head_loss import head_losses
from florilegium.fast.host_blocks import HostBlocks
from florilegium.fast.int8_head import losses_of_both_heads
from florilegium.fast.modules import Bloom, blocks_of
from florilegium.fast.recording import empty_cache
from florilegium.fast.training.cuda_graph import CudaGraphRunner

if TYPE_CHECKING:
    from florilegium.fast.decoding.decoder import Decoder
    from florilegium.fast.layers.fused_layers import FusedLayers
    from florilegium.fast.training.block_stack import BlockStack

AUTO = ("fused-blocks", "fused-layers", "flex-attention", "quantized-linear", "chunked-loss", "fast-decode")
NAMES = (*AUTO, "int8-head")  # which rounds a weight that the model has in 16 bits, and so is asked for by name


def select_kernels(request: str, device: torch.device, bits: int) -> tuple[tuple[str, ...], str]:
    """The kernels for `request` ('auto', 'off' or names with commas) and, if a named one cannot run here, the reason.

    `auto`, also among names, leaves out what cannot run; a name that cannot run comes back with its reason and is not
    silently dropped.
    """
    reasons = _unsupported_here(device, bits)
    if request == "off":
        return (), ""
    auto = [name for name in AUTO if not reasons[name]]
    asked = [name.strip() for name in request.split(",") if name.strip()]
    names = tuple(dict.fromkeys(name for one in asked for name in (auto if one == "auto" else [one])))
    for name in names:
        if name not in reasons:
            return names, f"unknown kernel {name!r}; available: {', '.join(NAMES)}"
        if reasons[name]:
            return names, f"kernel {name!r} is not supported here: {reasons[name]}"
    if "int8-head" in names and "fast-decode" not in names:
        return names, "'int8-head' is the head of 'fast-decode', which is not among them"
    return names, ""


def _unsupported_here(device: torch.device, bits: int) -> dict[str, str]:
    """What of each kernel's needs is missing before the model is known."""
    no_cuda = no_bfloat16(device) if device.type == "cuda" else "its kernels need CUDA"
    quantized = bits in (4, 8)
    return {
        "fused-blocks": no_cuda or ("" if quantized else "it is for a base of 8 or 4 bits"),
        "fused-layers": ""
        if device.type == "cpu"
        else no_cuda or ("its kernels compute in bfloat16" if bits == 32 else ""),
        "fast-decode": no_cuda or ("its kernels compute in bfloat16" if bits == 32 else ""),
        "int8-head": no_cuda or ("it is for the fast decoder, which computes in bfloat16" if bits == 32 else ""),
        "flex-attention": flex_attention.unsupported_reason(
            device, flex_attention.FLEX_BLOCK, flex_attention.MIN_HEAD_DIM
        ),
        "quantized-linear": "" if quantized else f"the base has {bits} bits, and it is for 8 and 4",
        "chunked-loss": "",
    }


def install_kernels(model: torch.nn.Module, names: tuple[str, ...]) -> None:
    """Gives the quantized linears of `model` the forward that `names` ask for: ours, or bitsandbytes' own."""
    frozen_linear.remove(model)
    if "quantized-linear" in names:
        frozen_linear.install(model)


def block_stack_unsupported(bloom: Bloom, device: torch.device, compute: torch.dtype) -> str:
    """Why the fused blocks cannot run on this BloomModel, or an empty string."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    # here and not above: it imports Triton, without which the rest of this room works
    from florilegium.fast.training.block_stack import unsupported_reason

    return unsupported_reason(bloom, device, compute)


def make_block_stack(
    bloom: Bloom,
    full: int,
    middle: int,
    copies: int,
    dtype: torch.dtype = torch.bfloat16,
    lengths: Sequence[int] = (),
    held: range | None = None,
    host: HostBlocks | None = None,
) -> BlockStack:
    """The blocks of a BloomModel forward and backward by hand (`block_stack.py`). The numbers are its plan's; `lengths`
    are tokens of batches to come; `held` are the numbers of the blocks, where others lie elsewhere; `host`
    brings the weights of those in host memory."""
    from florilegium.fast.training.block_stack import BlockStack
    from florilegium.fast.training.saved_activations import ActivationPlan

    return BlockStack(bloom, ActivationPlan(full, middle, copies), dtype, lengths, held, host)


def layers_unsupported(backbone: torch.nn.Module, device: torch.device, compute: torch.dtype) -> str:
    """Why the layers of a family that is not BLOOM cannot be fused, or an empty string."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    from florilegium.fast.layers.fused_layers import unsupported_reason

    return unsupported_reason(backbone, device, compute)


def make_fused_layers(backbone: torch.nn.Module, dtype: torch.dtype, longest: int) -> FusedLayers:
    """The layers of such a model, fused where they are recognised (`layers/`)."""
    from florilegium.fast.layers import fused_layers

    parts = fused_layers.parts_of(next(backbone.parameters()).device)
    return fused_layers.FusedLayers(backbone, dtype, longest, parts)


def flex_attention_unsupported(bloom: Bloom, device: torch.device, compute: torch.dtype) -> str:
    """Why torch's flex_attention cannot run on this BloomModel, or an empty string."""
    return flex_attention.unsupported_heads(bloom.embed_dim // bloom.num_heads)


def supports_int8_matmul(bloom: Bloom, held: range | None = None) -> bool:
    """Whether the fused blocks read this model's weights as they are stored, and need no room for a dequantised one."""
    return all(support.supports_int8_matmul(layer) for layer in blocks_of(bloom, held))


def describe_int8_path(bloom: Bloom, held: range | None = None) -> str:
    """The same for the run's first lines, and what is missing where something is."""
    return support.describe_int8_path(bloom, held)


def cancel_pending_compiles() -> None:
    """Kernels that nobody has begun to compile are compiled when they are needed."""
    module = sys.modules.get("florilegium.fast.hopper.int8_matmul")
    # From sys.modules: where it was never imported nothing is pending, and to import it takes CUDA's compiler.
    if module is not None:
        module.cancel_pending_compiles()


def decoder_unsupported(bloom: Bloom, device: torch.device, compute: torch.dtype) -> str:
    """Why the fast decoder cannot run on this BloomModel, or an empty string."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    from florilegium.fast.decoding.weights import unsupported_reason

    return unsupported_reason(bloom, device, compute)


def make_decoder(
    bloom: Bloom,
    head_VW: torch.Tensor,
    *,
    slots: int,
    capacity: int,
    max_rows: int,
    eos: int,
    places: int,
    int8_head: bool = False,
) -> Decoder:
    """A `decoding/decoder.py` Decoder for a model without `decoder_unsupported`."""
    from florilegium.fast.decoding.decoder import Decoder

    return Decoder(
        bloom, head_VW, slots=slots, capacity=capacity, max_rows=max_rows, eos=eos, places=places, int8_head=int8_head
    )


__all__ = [
    "AUTO",
    "NAMES",
    "CudaGraphRunner",
    "HostBlocks",
    "block_stack_unsupported",
    "cancel_pending_compiles",
    "card_of",
    "compiled_so_far",
    "decoder_unsupported",
    "describe_int8_path",
    "empty_cache",
    "flex_attention",
    "flex_attention_unsupported",
    "frozen_linear",
    "head_losses",
    "install_kernels",
    "layers_unsupported",
    "losses_of_both_heads",
    "make_block_stack",
    "make_decoder",
    "make_fused_layers",
    "select_kernels",
    "supports_int8_matmul",
]
