"""Packed rows for a family that is not ours: whether Transformers' own forward pass keeps the documents of a row apart,
tried on the model itself before a run begins.

Each document of a row gets positions that begin at 0. From these most families make the block-diagonal mask themselves
(`create_causal_mask`, which SDPA, eager and flex attention share), windows and layers of two kinds included; some take a
mask that is handed in; a state space model mixes all that came before. No list of names knows which, and the next
release of Transformers changes it. So two short documents go through the model alone and in one row:

    packing = find_packing(loaded)      Packing("positions"), Packing("mask"), or Packing("", why not)

Only what gave the same hidden states is used; everything else trains on padded rows, and the run says why."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from florilegium.errors import reason_of
from florilegium.model import fast_paths
from florilegium.model.families.base import inner_model
from florilegium.model.families.other import DocumentMask, embedding_weight, packed_hidden_states, padded_hidden_states
from florilegium.model.fused_layers import FusedLayers
from florilegium.tokens import Batch, Example, PackPlan, pack

if TYPE_CHECKING:
    from florilegium.model.loaded import LoadedModel

# Documents of a tried row. The first is the longer one: what leaks from it is most of what the second would read.
SIZES = (13, 9)
# A leak or a wrong position changes a hidden state by about its own size; rounding in 16 bits by some hundredths.
LIMITS = {torch.float32: 1e-3, torch.bfloat16: 0.15}
MASKED_BY_HAND = ("sliding_window", "window_size", "layer_types")  # what a mask that is handed in would pass over


@dataclass(frozen=True)
class Packing:
    """How documents of one row are told apart; an empty `mask` means that they cannot be, for the `reason`."""

    mask: DocumentMask
    reason: str = ""


@torch.no_grad()
def find_packing(loaded: LoadedModel) -> Packing:
    """The first way that gives this model's hidden states of each document alone. Draws nothing and changes nothing."""
    config = inner_model(loaded.model).config.get_text_config()
    if getattr(config, "attention_chunk_size", None):
        return Packing("", "it uses chunked attention")
    by_hand = not any(getattr(config, name, None) for name in MASKED_BY_HAND)
    ways: tuple[DocumentMask, ...] = ("positions", "mask") if by_hand else ("positions",)
    with _our_products(loaded), loaded.evaluating():
        batch, alone = _tried_rows(loaded)
        try:
            alone_TW = torch.cat([padded_hidden_states(loaded.model, one).flatten(0, 1)[: _size(one)] for one in alone])
        except Exception:  # whatever this is, the first evaluation will meet it, and say so
            return Packing("", "it could not be tried")
        errors = {way: _difference(loaded, batch, way, alone_TW) for way in ways}
    limit = LIMITS[loaded.base.compute_dtype]
    found = next((way for way, error in errors.items() if error < limit), None)
    return (
        Packing(found) if found else Packing("", "packed documents would attend to each other or get wrong positions")
    )


@torch.no_grad()
def fused_layers_unsupported(loaded: LoadedModel) -> str:
    """Why the fused layers do not give this model's hidden states of each of two documents in a row, or an empty
    string. Every module is then what it was."""
    with _our_products(loaded), loaded.evaluating():
        return _layers_beside_the_models_own(loaded)


@contextlib.contextmanager
def _our_products(loaded: LoadedModel) -> Iterator[None]:
    """Inside, quantised linears multiply as the run will have them, by the weights as we dequantise them: bitsandbytes' own
    int8 forward rounds activations as well, and over thirty layers that is more than a wrong position would be."""
    fast_paths.install_kernels(loaded.model, ("quantized-linear",))
    try:
        yield
    finally:
        fast_paths.install_kernels(loaded.model, loaded.kernels)


def _layers_beside_the_models_own(loaded: LoadedModel) -> str:
    batch, alone = _tried_rows(loaded, multiple=64)
    alone_TW = torch.cat([padded_hidden_states(loaded.model, one).flatten(0, 1)[: _size(one)] for one in alone])
    try:  # what is recognised is called too, and any module may look like what it is not
        layers = FusedLayers(fast_paths.make_layer_runner(loaded, max(SIZES)))
    except Exception as found:
        return f"its layers cannot be told ({reason_of(found)})"
    try:
        with layers.through(batch, training=False):
            fused_TW = layers(batch).flatten(0, 1)[: len(alone_TW)]
            # the adapter draws nothing without a seed; what the family draws, torch would draw otherwise when
            # activations are recomputed
            loaded.model.train()
            training_TW = layers(batch).flatten(0, 1)[: len(alone_TW)]
    except Exception as found:  # a family's own attention raises what it likes
        return f"its layers do not take packed rows ({reason_of(found)})"
    finally:
        layers.runner.remove()
    limit = LIMITS[loaded.base.compute_dtype]
    if _relative(training_TW, fused_TW) > limit / 4:  # some kernels add up in another order each time
        return "it draws random numbers when it trains (dropout), and fused layers do not"
    return "" if _relative(fused_TW, alone_TW) < limit else "its own layers compute something else"


def _tried_rows(loaded: LoadedModel, multiple: int = 8) -> tuple[Batch, list[Batch]]:
    """Two documents in one row that also has padding, and each in its own."""
    vocabulary = len(embedding_weight(loaded.model))
    examples = []
    for number, size in enumerate(SIZES):
        ids = [(37 * (i + 1) + 101 * number) % (vocabulary - 1) for i in range(size + 1)]
        examples.append(Example(ids, [True] * len(ids)))
    rows = PackPlan(row_tokens=sum(SIZES), multiple=multiple)
    (batch,) = pack(examples, rows)
    alone = [one for example in examples for one in pack([example], rows)]
    device = loaded.base.device
    return batch.to(device), [one.to(device) for one in alone]


def _size(batch: Batch) -> int:
    return int((batch.document_BT >= 0).sum())


def _difference(loaded: LoadedModel, batch: Batch, way: DocumentMask, alone_TW: torch.Tensor) -> float:
    """The largest relative distance of a packed token's hidden state from its own alone; infinity where the model does
    not take such a row."""
    try:
        packed_TW = packed_hidden_states(loaded.model, batch, way).flatten(0, 1)[: len(alone_TW)]
    except Exception:  # a family raises what it likes at a mask or positions that it does not know: then it is padded
        return math.inf
    return _relative(packed_TW, alone_TW)


def _relative(packed_TW: torch.Tensor, alone_TW: torch.Tensor) -> float:
    """The largest relative distance of a token's hidden states; infinity where one is no number."""
    error_T = (packed_TW - alone_TW).float().norm(dim=-1) / alone_TW.float().norm(dim=-1).clamp(min=1e-6)
    error = float(error_T.max())
    return error if math.isfinite(error) else math.inf
