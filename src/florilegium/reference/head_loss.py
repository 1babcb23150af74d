"""Cross entropy under the language-model head, all logits at once: what `fast/head_loss.py` does in chunks."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def cross_entropy_losses(hidden_NW: torch.Tensor, weight_VW: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """The negative log-likelihood of each target, float32 [N], of hidden states [N, W] under a head [V, W]."""
    return F.cross_entropy(hidden_NW.float() @ weight_VW.float().T, targets_N, reduction="none")
