"""Every other family: a causal LM through Transformers' own forward pass, one document a row, padded, or many where
the model was seen to keep them apart (`document_packing.py`).

Nothing is assumed of its modules but what Transformers promises (`base_model_prefix`, the input embedding). What our
own forward pass does by itself is asked of the model here: recomputing activations. NEFTune's noise: `noise.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn

from florilegium.model.families.base import inner_model
from florilegium.tokens import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.utils.quantization_config import QuantizationConfigMixin

    from florilegium.model.families.base import AnyModel
    from florilegium.model.kernel_protocols import Contexts, HostBlocks
    from florilegium.model.weight_files import WeightFiles

# How documents of one row are told apart: by positions that begin anew, or by a mask that is handed in beside them.
DocumentMask = Literal["positions", "mask", ""]


class OtherFamily:
    model_types: tuple[str, ...] = ()
    packs = False

    def backbone(self, model: AnyModel) -> nn.Module:
        inner = inner_model(model)
        return cast(nn.Module, getattr(inner, inner.base_model_prefix))

    def lora_targets(self, model: AnyModel) -> list[str] | str:
        """Every linear of attention and MLP, as the field has it for these models (Schulman et al. 2025, "LoRA Without
        Regret"). Of a mixture the linears that every token goes through: no router, which chooses and does not compute, and
        no expert, which are parameters and not modules."""
        leaves = {
            name.rsplit(".", 1)[-1]: module for name, module in model.named_modules() if hasattr(module, "weight")
        }
        routers = {leaf for leaf in leaves if leaf.endswith("gate") or leaf == "router"}
        if not routers:
            return "all-linear"
        head = inner_model(model).get_output_embeddings()
        linears = {leaf for leaf, module in leaves.items() if isinstance(module, nn.Linear) and module is not head}
        return sorted(linears - routers)

    def load_quantized(
        self, files: WeightFiles, outline: PreTrainedModel, quantization: QuantizationConfigMixin, device: torch.device,
        host: HostBlocks | None = None,
    ) -> PreTrainedModel | None:  # fmt: skip
        return None


OTHER = OtherFamily()


def position_table_size(model: AnyModel) -> int | None:
    """How many tokens a model with a table of learned positions can read; None for one whose positions have no end."""
    inner = inner_model(model)
    limit = getattr(inner.config, "max_position_embeddings", None)
    words = inner.get_input_embeddings()
    tables = [m.num_embeddings for m in inner.modules() if isinstance(m, nn.Embedding) and m is not words]
    # OPT's table has two rows more than positions
    return limit if isinstance(limit, int) and any(limit <= size <= limit + 2 for size in tables) else None


def embedding_weight(model: AnyModel) -> torch.Tensor:
    """The input embedding [V, W]."""
    return cast(nn.Embedding, inner_model(model).get_input_embeddings()).weight


def padded_hidden_states(model: AnyModel, batch: Batch) -> torch.Tensor:
    """The last layer's normed output [B, T, W] of rows of one document each."""
    backbone = OTHER.backbone(model)
    mask = (batch.document_BT >= 0).long()
    hidden: torch.Tensor = backbone(input_ids=batch.tokens_BT, attention_mask=mask, use_cache=False).last_hidden_state
    return hidden


def packed_hidden_states(model: AnyModel, batch: Batch, way: DocumentMask) -> torch.Tensor:
    """The same of rows that hold many documents. Padding has position 0 everywhere: each of its places is a document of
    its own, so that no row of scores is empty."""
    backbone, mask = OTHER.backbone(model), None
    if way == "mask":
        mask = document_mask(batch.document_BT, embedding_weight(model).dtype)
    arguments: dict[str, Any] = {"position_ids": batch.position_BT.long(), "attention_mask": mask, "use_cache": False}
    hidden: torch.Tensor = backbone(input_ids=batch.tokens_BT, **arguments).last_hidden_state
    return hidden


def document_mask(document_BT: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[B, 1, T, T], added to the scores: 0 where a token may read, the most negative number elsewhere."""
    T = document_BT.shape[1]
    same_BTT = document_BT[:, :, None] == document_BT[:, None, :]
    allowed_BTT = same_BTT & torch.ones(T, T, dtype=torch.bool, device=document_BT.device).tril()
    mask_BTT = torch.zeros(allowed_BTT.shape, dtype=dtype, device=document_BT.device)
    return mask_BTT.masked_fill_(~allowed_BTT, torch.finfo(dtype).min)[:, None]


def recompute_activations(model: AnyModel, contexts: Contexts | None = None) -> None:
    """Makes activations again in the backward pass, as `--memory lean` asks. `contexts` are those of fused layers, which
    draw nothing from torch: there is no state to keep of its random numbers, and while a step is recorded none can be
    kept."""
    inner = inner_model(model)
    # its name from Transformers 5.24 on
    enable = getattr(inner, "activation_checkpointing_enable", inner.gradient_checkpointing_enable)
    fused = {} if contexts is None else {"preserve_rng_state": False, "context_fn": contexts}
    enable({"use_reentrant": False, **fused})
