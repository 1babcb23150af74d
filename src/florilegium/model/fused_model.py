"""What keeps a model from the fused blocks, by its config.json and the run's settings, before a weight is read.

`fast/support.py` and `fast/training/block_stack.py` ask the same of the modules once they are there, and decide; which
card there is, is asked elsewhere. A test holds the two to the same answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from florilegium.config import TrainConfig, named_kernels
from florilegium.model.families import packs
from florilegium.model.skeleton import Skeleton

if TYPE_CHECKING:
    from transformers import PretrainedConfig

WIDEST_HEAD, WIDTH_STEP = 128, 64
MOST_RANK = 256  # of an adapter on a linear that no norm stands before (`fast/training/lora_kernel.py`)


def fused_unsupported(skeleton: Skeleton, config: TrainConfig) -> str:
    """Why the fused blocks do not run on this model with these settings, or an empty string."""
    if not packs(skeleton.family):
        return "it is for BLOOM models"
    if config.bits not in (8, 4):
        return "it requires the fused-blocks kernel, on a base of 8 or 4 bits"
    if not {"auto", "fused-blocks"} & {*named_kernels(config.kernels)}:
        return "--kernels leaves the fused blocks out"
    if config.dtype not in ("auto", "bfloat16"):
        return f"the fused blocks compute in bfloat16, and --dtype is {config.dtype}"
    return _of_the_model(skeleton, config.bits) or _of_the_adapter(skeleton, config)


def _of_the_model(skeleton: Skeleton, bits: int) -> str:
    config = skeleton.config
    if (head := skeleton.width // config.num_attention_heads) > WIDEST_HEAD:
        return f"the fused blocks take heads of up to {WIDEST_HEAD} numbers, and this model's have {head}"
    if skeleton.width % WIDTH_STEP:
        return f"the fused blocks take a width that is a multiple of {WIDTH_STEP}"
    if getattr(config, "apply_residual_connection_post_layernorm", False):
        return "the fused blocks take the residual before the layer norm, and this model has it after"
    if getattr(config, "hidden_dropout", 0):
        return "this model has dropout, which the fused blocks do not make"
    if bits == 4 and _stored_kind(config) not in (None, "nf4"):
        return "its 4-bit weights are not NF4"
    return ""


def _stored_kind(config: PretrainedConfig) -> object:
    """Of a base that is quantised already, as which kind of 4 bits."""
    stored = getattr(config, "quantization_config", None)
    return (
        stored.get("bnb_4bit_quant_type") if isinstance(stored, dict) else getattr(stored, "bnb_4bit_quant_type", None)
    )


def _of_the_adapter(skeleton: Skeleton, config: TrainConfig) -> str:
    assert packs(skeleton.family), "asked before"
    if config.dora:
        return "the fused blocks take plain LoRA, not --dora"
    on = set(skeleton.adapter_on)
    _, attention_out, _, mlp_down = skeleton.family.fused_linears
    if not on <= set(skeleton.family.fused_linears):
        return "the fused blocks take LoRA on the linears of blocks only"
    if config.lora_rank > MOST_RANK and on & {attention_out, mlp_down}:
        return f"the fused blocks take a rank of up to {MOST_RANK} on {attention_out} and {mlp_down}"
    return ""
