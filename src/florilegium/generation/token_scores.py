"""What the model thinks of tokens that are there already: the log-probability of each, and the most likely at its place.

    (scored,) = token_scores(loaded, [token_ids], top=5)
    scored.logprobs[i]     of token i + 1, given those before it; the first has nothing before it
    scored.top[i]          the `top` most likely tokens at that place, the most likely first

One forward pass reads a whole text, so this is the same for every engine and whatever else is being written, and it is what
`florilegium evaluate` calls loss, with the sign turned. Probabilities are the model's own: before temperature, top-k, top-p
and penalties."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from florilegium.model import LoadedModel, hidden_states
from florilegium.model.families import head_weight
from florilegium.reference import head_logits
from florilegium.tokens import NO_TARGET, Batch, Example, PackPlan, pack

BATCH_TOKENS = 2048
HEAD_ROWS = 64  # positions whose scores over the whole vocabulary are held at once


@dataclass(frozen=True)
class TokenScores:
    """`watched[i]` are the log-probabilities of the tokens that were asked for by name, at the place of token i + 1."""

    logprobs: list[float]
    top: list[list[tuple[int, float]]]
    watched: list[list[float]]


@torch.inference_mode()
def token_scores(
    loaded: LoadedModel,
    texts: Sequence[Sequence[int]],
    *,
    top: int = 0,
    watch: Sequence[int] = (),
    adapter: bool = True,
) -> list[TokenScores]:
    """The scores of each text's tokens but the first. Texts have two tokens or more."""
    order = sorted(range(len(texts)), key=lambda i: (-len(texts[i]), i))
    examples = [Example(list(texts[i]), [True] * len(texts[i])) for i in order]
    found: list[TokenScores] = []
    with loaded.evaluating(), contextlib.nullcontext() if adapter else loaded.adapter_off():
        for batch in pack(examples, PackPlan(batch_tokens=BATCH_TOKENS, separate=True)):
            found += _of_batch(loaded, batch.to(loaded.base.device), top, watch)
    return [scored for _, scored in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]


def _of_batch(loaded: LoadedModel, batch: Batch, top: int, watch: Sequence[int]) -> list[TokenScores]:
    there_BT = batch.targets_BT != NO_TARGET
    hidden_NW, targets_N = hidden_states(loaded, batch)[there_BT], batch.targets_BT[there_BT]
    rows: list[tuple[float, list[tuple[int, float]], list[float]]] = []
    rule = loaded.logit_rule
    for start in range(0, len(targets_N), HEAD_ROWS):
        part = slice(start, start + HEAD_ROWS)
        logprob_NV = head_logits(hidden_NW[part], head_weight(loaded.model), rule).log_softmax(-1)
        rows += _of_places(logprob_NV, targets_N[part], top, watch)
    out, place = [], 0
    for count in there_BT.sum(-1).tolist():
        own = rows[place : place + count]
        place += count
        if count:
            out.append(TokenScores([one[0] for one in own], [one[1] for one in own], [one[2] for one in own]))
    return out


def _of_places(
    logprob_NV: torch.Tensor, targets_N: torch.Tensor, top: int, watch: Sequence[int]
) -> list[tuple[float, list[tuple[int, float]], list[float]]]:
    """For each place its token's log-probability, the most likely tokens with theirs, and those of `watch`."""
    own_N = logprob_NV.gather(1, targets_N[:, None])[:, 0].tolist()
    best = logprob_NV.topk(min(top, logprob_NV.shape[1]))
    named = [
        list(zip(ids, values, strict=True))
        for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    watched = logprob_NV[:, torch.tensor(list(watch), dtype=torch.int64, device=logprob_NV.device)].tolist()
    return list(zip(own_N, named, watched, strict=True))
