"""What a head in int8 costs: the plain side is what `evaluate` measures, and the sentence says the difference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from florilegium.evaluation.general import GENERAL, PIECE_TOKENS, read_general
from florilegium.evaluation.head_gap import HeadGap, head_gap
from florilegium.evaluation.losses import example_losses
from florilegium.fast.int8_head import int8_rows
from florilegium.model import LoadedModel, load_base
from florilegium.model.families import head_weight
from florilegium.tokens import Example, text_ids


def test_both_losses_are_those_of_their_heads(tiny: Path) -> None:
    base = load_base(str(tiny), bits=8, device=torch.device("cpu"), compute="float32")
    loaded = LoadedModel(base, base.model, ("quantized-linear",))
    found = head_gap(loaded, windows=4)
    ids = [ids[:PIECE_TOKENS] for ids in text_ids(base.tokenizer, read_general(GENERAL)) if len(ids) > 8][:4]

    def measured() -> float:
        rows = example_losses(loaded, [Example(row, [True] * len(row)) for row in ids])
        return float(sum(row.sum() for row in rows) / sum(map(len, rows)))

    assert found.tokens == sum(map(len, ids)) - 4
    assert found.loss == pytest.approx(measured(), abs=1e-4)
    head = head_weight(base.model)
    int8, scale = int8_rows(head.detach())
    hidden = base.model.transformer.word_embeddings.weight  # tied: only the head is to be rounded
    base.model.lm_head.weight = torch.nn.Parameter((int8.float() * scale[:, None]).to(head.dtype), requires_grad=False)
    assert base.model.transformer.word_embeddings.weight is hidden
    assert found.int8_loss == pytest.approx(measured(), abs=2e-3) and found.int8_loss != found.loss


def test_the_sentence() -> None:
    said = HeadGap(3.2, 3.2016, 5110).sentence()
    assert said == "head in int8: loss 3.2016 on 5,110 tokens of general text, +0.0016 (+0.05%)"
