"""How rows are packed where the fused blocks do not run, and how a family that is not BLOOM takes them: many documents a
row or one, its layers fused or as Transformers has them.

What a family can do is tried on the model itself (`model/document_packing.py`)."""

from __future__ import annotations

from florilegium.config import TrainConfig, named_kernels
from florilegium.errors import UsageError
from florilegium.model import LoadedModel
from florilegium.model.document_packing import Packing, find_packing, fused_layers_unsupported
from florilegium.runs.prepare import Prepared
from florilegium.runs.row_lengths import CPU_BATCH_TOKENS, ROW_TOKENS
from florilegium.tokens import PackPlan

CPU_ROW_TOKENS = 256
MASKED_ROW_TOKENS = 1024  # of other families on CUDA: their attention reads a mask of [T, T], and computes all of it
BATCH_COST, CPU_BATCH_COST = 512, 32  # one more batch of padded rows: the base's weights are dequantised again
CPU_FUSED_BATCH_TOKENS = 384  # in one row, whose documents do not meet
CPU_MASKED_BATCH_TOKENS = 768  # autograd keeps all that other families' modules compute


def documents_of(config: TrainConfig, loaded: LoadedModel) -> Packing:
    """How Transformers' own forward pass keeps documents apart; our own needs no such thing."""
    if loaded.base.packs:
        return Packing("")
    if config.neftune_alpha:
        return Packing("", "--neftune-alpha scales its noise by the length of a row")
    return find_packing(loaded)


def layers_unsupported(prepared: Prepared, loaded: LoadedModel, documents: Packing) -> str:
    """Why the layers of another family run as Transformers has them, or an empty string. It is tried. Raises UsageError
    where they were asked for by name."""
    reason = _layers_reason(prepared.config, prepared, loaded, documents)
    if reason and "fused-layers" in named_kernels(prepared.requested_kernels):
        raise UsageError(
            f"--kernels: 'fused-layers' is not supported here: {reason}", "Use --kernels auto, or leave that name out"
        )
    return reason


def _layers_reason(config: TrainConfig, prepared: Prepared, loaded: LoadedModel, documents: Packing) -> str:
    if documents.mask != "positions":
        return documents.reason or "its documents are kept apart by a mask"
    window = getattr(prepared.base.model.config.get_text_config(), "sliding_window", None)
    if config.device == "cuda" and window and window < longest_document(prepared):
        return f"documents are longer than its window of {window:,} tokens; --max-length {window} would cut them"
    return fused_layers_unsupported(loaded)


def row_packing(config: TrainConfig, kernels: tuple[str, ...], *, masked: bool, separate: bool) -> PackPlan:
    """How rows are packed without the fused blocks: on CUDA one long row that fast attention can take, on the CPU and
    under a mask several short ones, whose attention is cheaper; for families that cannot pack, a quote a row."""
    if config.device != "cuda" and "fused-layers" in kernels:
        limit = config.micro_batch_tokens or CPU_FUSED_BATCH_TOKENS
        return PackPlan(limit, 8, limit, batch_cost=CPU_BATCH_COST)
    if config.device != "cuda":
        limit = config.micro_batch_tokens or (CPU_MASKED_BATCH_TOKENS if masked else CPU_BATCH_TOKENS)
        return PackPlan(CPU_ROW_TOKENS, 8, limit, separate=separate, batch_cost=CPU_BATCH_COST)
    limit = config.micro_batch_tokens or ROW_TOKENS
    if "fused-layers" in kernels:
        return PackPlan(limit, 64, limit, bucketed=True)
    if masked:
        return PackPlan(MASKED_ROW_TOKENS, 8, limit, separate=separate, batch_cost=BATCH_COST)
    return PackPlan(ROW_TOKENS, 256 if "flex-attention" in kernels else 8, limit)


def longest_document(prepared: Prepared) -> int:
    """Tokens of the longest row that the run trains on or is measured on."""
    sides = (prepared.training, prepared.held_out, prepared.validation)
    return max(len(example.token_ids) - 1 for side in sides for example in side.examples)
