"""What the rest of the package may ask of a family of models.

    Family          any causal LM of Transformers: its backbone, the linears that take LoRA, how it is loaded
    PackedFamily    one whose modules we call ourselves, so that a row may hold many documents: its embedding, its blocks
                    with an attention that is handed in, its last norm, and what a block costs in memory

To add a family, write its file beside `bloom.py` and name it in `FAMILIES`. `model` is the Transformers model or PEFT's
wrapping of it. Shapes: B rows, T tokens, W width, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import torch
from torch import nn

from florilegium.reference import Attend

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.utils.quantization_config import QuantizationConfigMixin

    from florilegium.model.kernel_protocols import HostBlocks
    from florilegium.model.weight_files import WeightFiles

    AnyModel = PreTrainedModel | PeftModel

Noise = Callable[[torch.Tensor], torch.Tensor]  # the embeddings of a batch, with noise on them


class BlockLinears(NamedTuple):
    """A block's linears by role, with whatever PEFT or bitsandbytes made of them."""

    qkv: nn.Module
    attention_out: nn.Module
    mlp_up: nn.Module
    mlp_down: nn.Module


@dataclass(frozen=True)
class BlockSizes:
    """What a block takes: numbers in its frozen weights, and bytes a token in the fused blocks (`memory_plan.py`)."""

    weights: int
    largest_weight: int
    lora_inputs: int  # of the linears that have LoRA, together
    lora_outputs: int
    kept: int  # bytes a token, where all activations are kept
    kept_middle: int  # where the block's input and the residual after attention are
    kept_input: int  # where the input alone is
    at_work: int  # what exists only while the block computes
    recomputed: int  # the same of what was not kept and is made again


class Family(Protocol):
    """Where things are in the models of these types."""

    @property
    def model_types(self) -> tuple[str, ...]: ...

    @property
    def packs(self) -> bool:
        """Whether this is a PackedFamily."""

    def backbone(self, model: AnyModel) -> nn.Module:
        """The model without its head."""

    def lora_targets(self, model: AnyModel) -> list[str] | str:
        """The linears that LoRA goes on unless the user says otherwise, as PEFT's `target_modules`."""

    def load_quantized(
        self, files: WeightFiles, outline: PreTrainedModel, quantization: QuantizationConfigMixin, device: torch.device,
        host: HostBlocks | None = None,
    ) -> PreTrainedModel | None:  # fmt: skip
        """`outline`, on the meta device, filled from `files` by a loader of our own, or None where Transformers' own takes
        it; the weights of its blocks go into host memory where there is a `host`."""


class PackedFamily(Family, Protocol):
    """A family whose modules our own forward pass calls. Its positions are ALiBi: relative, so a document mask alone
    makes packing exact."""

    @property
    def fused_linears(self) -> tuple[str, ...]:
        """The names of a block's linears: the fused blocks take LoRA on any of them."""

    def blocks(self, model: AnyModel) -> Sequence[nn.Module]: ...

    def linears(self, block: nn.Module) -> BlockLinears: ...

    def embed(
        self, model: AnyModel, tokens_BT: torch.Tensor, dtype: torch.dtype, noise: Noise | None = None
    ) -> torch.Tensor:
        """What the first block reads, [B, T, W]. `noise` goes onto what the embedding gives, before any norm, as
        Transformers' and TRL's NEFTune does."""

    def apply_block(
        self, block: nn.Module, hidden_BTW: torch.Tensor, attend: Attend, compute: torch.dtype
    ) -> torch.Tensor:
        """One block's output, in the dtype of its input; its linears multiply in `compute`. `attend` holds the batch's
        mask; all else is the block's own modules."""

    def final_norm(self, model: AnyModel, hidden_BTW: torch.Tensor) -> torch.Tensor: ...

    def alibi_slopes(self, model: AnyModel, device: torch.device) -> torch.Tensor:
        """The slope of each attention head, float32 [H]."""

    def block_sizes(self, config: PretrainedConfig, adapter_on: Collection[str]) -> BlockSizes:
        """With LoRA on the linears of these names."""


def inner_model(model: AnyModel) -> PreTrainedModel:
    """Transformers' own model, out of PEFT's wrapping if there is one."""
    return cast("PreTrainedModel", model.get_base_model() if hasattr(model, "get_base_model") else model)  # type: ignore[operator]
