"""What a head read in int8 costs: the loss of general text by it and by the head as it is, from the same hidden states."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from florilegium.evaluation.general import GENERAL, PIECE_TOKENS, read_general
from florilegium.evaluation.losses import OPTIONS
from florilegium.model import LoadedModel, fast_paths
from florilegium.model.packed_forward import hidden_states
from florilegium.tokens import NO_TARGET, Example, PackPlan, pack, text_ids

WINDOWS = 32  # some 5,000 tokens of the text that comes with the program: a second on a GPU


@dataclass(frozen=True)
class HeadGap:
    """Nats a token by the head as it is, and by the one in int8."""

    loss: float
    int8_loss: float
    tokens: int

    def sentence(self) -> str:
        change = self.int8_loss - self.loss
        share = change / self.loss
        return f"head in int8: loss {self.int8_loss:.4f} on {self.tokens:,} tokens of general text, {change:+.4f} ({share:+.2%})"


@torch.no_grad()
def head_gap(loaded: LoadedModel, windows: int = WINDOWS) -> HeadGap:
    """Of a model of a family that packs."""
    pieces = [ids[:PIECE_TOKENS] for ids in text_ids(loaded.base.tokenizer, read_general(GENERAL)) if len(ids) > 8]
    examples = [Example(ids, [True] * len(ids)) for ids in pieces[:windows]]
    sums, tokens = [0.0, 0.0], 0
    with loaded.evaluating():
        for given in pack(examples, PackPlan(batch_tokens=4096, separate=True)):
            batch = given.to(loaded.base.device)
            targets = batch.targets_BT.flatten()
            wanted = targets != NO_TARGET
            hidden = hidden_states(loaded, batch, OPTIONS).flatten(0, 1)[wanted]
            both = fast_paths.losses_of_both_heads(loaded, hidden, targets[wanted])
            sums = [total + float(losses.double().sum()) for total, losses in zip(sums, both, strict=True)]
            tokens += int(wanted.sum())
    return HeadGap(sums[0] / tokens, sums[1] / tokens, tokens)
