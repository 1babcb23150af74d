"""Which kernels run: the one file that knows the room for speed (`fast/`). Without that room everything runs by the
references.

A kernel that was asked for by name and cannot run comes with the reason, so that nobody gets the slow way in silence;
`auto` leaves it out. What is made here (a block stack, a decoder, a recorded graph) is handed to whoever uses it and
kept nowhere else."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

import torch

from florilegium import reference
from florilegium.config import named_kernels
from florilegium.errors import UsageError
from florilegium.model.families import head_weight
from florilegium.model.kernel_protocols import BlockStack, GraphRunner, HeadLosses, HostBlocks, LayerRunner, SlotDecoder
from florilegium.reference import LogitRule

HAS_FAST = importlib.util.find_spec("florilegium.fast") is not None
NONE_HERE = "this installation has no fast kernels"
WRITING = ("fast-decode", "int8-head")
OF_THE_MODEL = ("fused-blocks", "fused-layers", *WRITING, "flex-attention")  # it decides, not the machine alone
LEAVE_OUT = "Use 'auto', or leave that name out"
PIECE = 1024  # rows of logits at a time, where the chunked loss is not installed

if HAS_FAST:
    from florilegium import fast

if TYPE_CHECKING:
    from florilegium.fast.modules import Bloom
    from florilegium.model.loaded import LoadedModel
    from florilegium.model.memory_plan import MemoryPlan


def select_kernels(request: str, device: torch.device, bits: int) -> tuple[tuple[str, ...], str]:
    """The kernels for `request` ('auto', 'off' or names with commas) and, if a named one cannot run here, the
    reason."""
    if HAS_FAST:
        return fast.select_kernels(request, device, bits)
    return (), "" if request in ("auto", "off") else NONE_HERE


def kernels_for_texts(request: str, device: torch.device, bits: int) -> tuple[str, ...]:
    """Those of `select_kernels`, before the base is read. Raises UsageError with the reason."""
    names, reason = select_kernels(request, device, bits)
    if reason:
        raise UsageError(f"kernels={request!r}: {reason}", LEAVE_OUT)
    return names


def refuse_for_texts(request: str, loaded: LoadedModel) -> None:
    """Raises UsageError for a kernel of `request` that was named and cannot write texts of this model."""
    for name in sorted({*WRITING, "flex-attention"} & {*named_kernels(request)}):
        if reason := unsupported(name, loaded):
            raise UsageError(f"kernels={request!r}: {reason}", LEAVE_OUT)


def unknown_kernel(request: str) -> str:
    """Of a `request` for kernels of a card that is not here: why it is none, or an empty string."""
    known = ("auto", "off", *(fast.NAMES if HAS_FAST else ()))
    unknown = (name for name in named_kernels(request) if name not in known)
    name = next(unknown, "")
    return f"unknown kernel {name!r}; available: {', '.join(known[2:])}" if name else ""


def compute_capability(device: torch.device) -> tuple[int, int]:
    """CUDA's, of the card of `device`."""
    return fast.card_of(device).capability if HAS_FAST else torch.cuda.get_device_capability(device)


def install_kernels(model: torch.nn.Module, names: tuple[str, ...]) -> None:
    """Gives the quantized linears of `model` the forward that `names` ask for."""
    if HAS_FAST:
        fast.install_kernels(model, names)


def unsupported(name: str, loaded: LoadedModel, streamed: int | None = None) -> str:
    """Why one of the kernels in `OF_THE_MODEL` cannot run on this model, or an empty string. `streamed`: blocks whose
    weights will lie in host memory; None: those that do now."""
    if not HAS_FAST:
        return NONE_HERE
    if name == "fused-layers":
        if loaded.base.packs:
            return "it is for families other than BLOOM, which has fused-blocks"
        return fast.layers_unsupported(loaded.backbone, loaded.base.device, loaded.base.compute_dtype)
    if not loaded.base.packs:
        # other families attend in their own way; runs of theirs on a GPU name it, and go on
        return "" if name == "flex-attention" else "it supports BLOOM models only"
    if name in WRITING and loaded.base.host is not None and (streamed or (streamed is None and loaded.base.host)):
        return "weights of its blocks lie in host memory"
    reason = {
        "fused-blocks": fast.block_stack_unsupported,
        "fast-decode": fast.decoder_unsupported,
        "int8-head": fast.decoder_unsupported,
        "flex-attention": fast.flex_attention_unsupported,
    }[name]
    return reason(_bloom(loaded), loaded.base.device, loaded.base.compute_dtype)


def _bloom(loaded: LoadedModel) -> Bloom:
    """The model as the kernels read it: what they rely on is asked by `unsupported` and not by the type checker, which
    cannot know what quantisation and PEFT made of the modules."""
    return cast("Bloom", loaded.backbone)


def _held(loaded: LoadedModel) -> range | None:
    """The numbers of the blocks that this process of a pipeline holds; None: all."""
    stage = loaded.base.stage
    return None if stage is None else range(stage.first, stage.last)


def head_losses(names: tuple[str, ...]) -> HeadLosses:
    """The loss under the head; the chunked one never holds all logits of a vocabulary of 250,880."""
    if "chunked-loss" not in names:
        return reference.cross_entropy_losses
    return fast.head_losses if HAS_FAST else _losses_in_pieces


def _losses_in_pieces(
    hidden_NW: torch.Tensor, weight_VW: torch.Tensor, targets_N: torch.Tensor, *, rule: LogitRule
) -> torch.Tensor:
    """The reference, a few rows at a time: without a backward pass that holds no more logits than these."""
    pieces = [slice(start, start + PIECE) for start in range(0, len(targets_N), PIECE)]
    return torch.cat([reference.cross_entropy_losses(hidden_NW[p], weight_VW, targets_N[p], rule) for p in pieces])


def attention(
    names: tuple[str, ...], document_BT: torch.Tensor, slopes_H: torch.Tensor, dtype: torch.dtype, head_dim: int
) -> reference.Attend:
    """Attention inside the documents of a batch. Rows and heads that flex_attention cannot take go to the reference: the
    names say what may run."""
    if HAS_FAST and "flex-attention" in names:
        device, num_tokens = document_BT.device, document_BT.shape[1]
        if not fast.flex_attention.unsupported_reason(device, num_tokens, head_dim):
            return fast.flex_attention.document_attention(document_BT, slopes_H, dtype)
    return reference.sdpa_attention(document_BT, slopes_H, dtype)


def losses_of_both_heads(
    loaded: LoadedModel, hidden_NW: torch.Tensor, targets_N: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """By the head as it is, and read in int8 as a decoder with `int8-head` does: both from scores in float32."""
    return fast.losses_of_both_heads(hidden_NW, head_weight(loaded.model).detach(), targets_N)


def supports_int8_matmul(loaded: LoadedModel) -> bool:
    """Whether the fused blocks multiply by this model's weights as they are stored, and need no room for a dequantised
    one."""
    return fast.supports_int8_matmul(_bloom(loaded), _held(loaded))


def describe_int8_path(loaded: LoadedModel) -> str:
    """The same for the run's first lines, and what is missing where something is; an empty string where there is
    nothing to say."""
    return fast.describe_int8_path(_bloom(loaded), _held(loaded))


def host_blocks(device: torch.device) -> HostBlocks | None:
    """For the weights of blocks in host memory; None where the room for speed is not there."""
    return fast.HostBlocks(device) if HAS_FAST else None


def make_block_stack(loaded: LoadedModel, memory: MemoryPlan, lengths: Sequence[int] = ()) -> BlockStack:
    """The fused blocks of a model that is not `unsupported`, keeping what `memory` says. `lengths` are tokens of batches
    that will come, whose kernels are compiled ahead (`compiling_ahead`)."""
    numbers = memory.full, memory.middle, memory.copies
    return fast.make_block_stack(
        _bloom(loaded),
        *numbers,
        lengths=lengths,
        held=_held(loaded),
        host=cast("fast.HostBlocks | None", loaded.base.host),
    )


def empty_cache() -> None:
    """`torch.cuda.empty_cache`, which no CUDA graph that another thread records survives: when none is recorded."""
    (fast if HAS_FAST else torch.cuda).empty_cache()


def make_layer_runner(loaded: LoadedModel, longest: int) -> LayerRunner:
    """The layers of a model that is not `unsupported`, put in place; no document that will come has more tokens than
    `longest`."""
    return fast.make_fused_layers(loaded.backbone, loaded.base.compute_dtype, longest)


@contextlib.contextmanager
def compiling_ahead() -> Iterator[None]:
    """Kernels that are not begun at its end are left: a run that ends early does not wait for them."""
    try:
        yield
    finally:
        if HAS_FAST:
            fast.cancel_pending_compiles()


def compiled_so_far() -> tuple[int, int]:
    """Kernels that are compiled in this process, and all that were asked for until now."""
    return fast.compiled_so_far() if HAS_FAST else (0, 0)


def graph_runner(
    function: Callable[[dict[str, torch.Tensor]], torch.Tensor], updates: Sequence[torch.Tensor]
) -> GraphRunner:
    """`function`, recorded and replayed; `updates` are the tensors that it adds to."""
    return fast.CudaGraphRunner(function, updates)


def make_decoder(
    loaded: LoadedModel, *, slots: int, capacity: int, max_rows: int, eos: int, places: int = 1
) -> SlotDecoder:
    """The fast decoder of a model that is not `unsupported`, reading the adapter as it is now; with `places` for that
    and others."""
    sizes = {"slots": slots, "capacity": capacity, "max_rows": max_rows, "eos": eos, "places": places}
    head_VW = head_weight(loaded.model).detach()
    return fast.make_decoder(_bloom(loaded), head_VW, **sizes, int8_head="int8-head" in loaded.kernels)


def add_adapter(decoder: SlotDecoder, loaded: LoadedModel) -> int:
    """The number of that model's adapter, as it is now, in a decoder of the same base."""
    return decoder.add_adapter(_bloom(loaded))


def lend_dequantized(owner: torch.nn.Module, borrower: torch.nn.Module) -> contextlib.AbstractContextManager[None]:
    """Inside, the borrower multiplies by the weights that `dequantized_once` made for the owner, over the same base."""
    return fast.frozen_linear.lend_dequantized(owner, borrower) if HAS_FAST else contextlib.nullcontext()


def dequantized_once(model: torch.nn.Module, dtype: torch.dtype) -> contextlib.AbstractContextManager[None]:
    """Inside, quantized linears multiply by a copy of their weights that is made once, where memory allows."""
    return fast.frozen_linear.dequantized_once(model, dtype) if HAS_FAST else contextlib.nullcontext()
