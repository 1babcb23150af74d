"""What some families make of the head's scores before they are logits: Phi adds a bias, Cohere and Granite scale them,
Gemma 2 caps them.

    logits = cap * tanh((hidden W^T + bias) * scale / cap)

and its derivative, d logits / d scores = scale * (1 - (logits / cap)^2), which the loss's gradient takes along."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class LogitRule:
    """The default leaves scores as they are, as most families do."""

    bias_V: torch.Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    @property
    def is_plain(self) -> bool:
        return self.bias_V is None and self.scale == 1 and self.cap is None

    def of_tokens(self, tokens: slice) -> LogitRule:
        """The rule of a slice of the vocabulary."""
        return self if self.bias_V is None else LogitRule(self.bias_V[tokens], self.scale, self.cap)

    def logits(self, scores_NV: torch.Tensor) -> torch.Tensor:
        """From what the head's matrix gives, in its dtype."""
        if self.bias_V is not None:
            scores_NV = scores_NV + self.bias_V.to(scores_NV.dtype)
        if self.scale != 1:
            scores_NV = scores_NV * self.scale
        return scores_NV if self.cap is None else self.cap * torch.tanh(scores_NV / self.cap)

    def slope(self, logits: torch.Tensor) -> torch.Tensor | float:
        """d logits / d scores, of each logit."""
        return self.scale if self.cap is None else self.scale * (1 - (logits / self.cap) ** 2)


AS_THEY_ARE = LogitRule()


def head_logits(hidden_NW: torch.Tensor, weight_VW: torch.Tensor, rule: LogitRule = AS_THEY_ARE) -> torch.Tensor:
    """The logits [N, V] in float32."""
    return rule.logits(F.linear(hidden_NW, weight_VW.to(hidden_NW.dtype)).float())
