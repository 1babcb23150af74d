"""The layers of a family that is not ours, fused, as the forward pass of training takes them: by batches.

layers = FusedLayers(fast_paths.make_layer_runner(loaded, longest))
with layers.through(batch, training=True):      around forward and backward: activations may be recomputed
    hidden_BTW = layers(batch)"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from florilegium.model.kernel_protocols import Context, LayerRunner
from florilegium.tokens import Batch


@dataclass(frozen=True)
class FusedLayers:
    runner: LayerRunner

    def through(self, batch: Batch, *, training: bool) -> Context:
        """Around a forward pass and what comes back of it. An evaluation gets no seed, so the adapter drops nothing."""
        # Rows laid end to end; a token's document begins `position` tokens before it and ends `remaining` after it.
        index_T = torch.arange(batch.tokens_BT.numel(), dtype=torch.int32, device=batch.tokens_BT.device)
        start_T, end_T = index_T - batch.position_BT.flatten(), index_T + batch.remaining_BT.flatten()
        return self.runner.through(start_T, end_T, batch.number_BT.flatten(), batch.seed_1 if training else None)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """The last layer's normed output [B, T, W], inside `through`."""
        hidden_TW = self.runner(batch.tokens_BT.flatten(), batch.position_BT.flatten())
        return hidden_TW.view(*batch.tokens_BT.shape, -1)
