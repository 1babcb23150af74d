"""Cross entropy under the language-model head, all logits at once: what `fast/head_loss.py` does in chunks."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from florilegium.reference.logits import AS_THEY_ARE, LogitRule


def cross_entropy_losses(
    hidden_NW: torch.Tensor, weight_VW: torch.Tensor, targets_N: torch.Tensor, rule: LogitRule = AS_THEY_ARE
) -> torch.Tensor:
    """The negative log-likelihood of each target, float32 [N], of hidden states [N, W] under a head [V, W]."""
    logits_NV = rule.logits(hidden_NW.float() @ weight_VW.float().T)
    return F.cross_entropy(logits_NV, targets_N, reduction="none")
