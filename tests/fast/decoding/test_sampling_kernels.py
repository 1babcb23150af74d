"""The fast decoder's sampling against the reference. Without a CUDA device Triton interprets it
(`TRITON_INTERPRET=1 pytest -m slow tests/fast/decoding`: minutes)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from florilegium.config import SamplingSettings
from florilegium.fast.decoding import sampling, sampling_kernel
from florilegium.generation.sampling import filtered_weights
from tests.fast.decoding.interpreted import CUDA, DEVICE, EOS, runs_kernels

pytestmark = runs_kernels


def sampler(
    scores: torch.Tensor, settings: SamplingSettings | list[SamplingSettings], chance: torch.Tensor, seen: torch.Tensor
) -> torch.Tensor:
    """The next token of each row of `scores` [Q, V], by the kernels."""
    Q, V = scores.shape
    each = settings if isinstance(settings, list) else [settings] * Q
    ints = {
        name: torch.zeros(Q, dtype=torch.int32, device=DEVICE)
        for name in ("next_token", "length", "written", "limit", "done")
    }
    params = torch.tensor([[s.temperature, s.top_p, float(s.top_k), s.repetition_penalty] for s in each], device=DEVICE)
    uniforms = torch.zeros(Q, 2, device=DEVICE)
    uniforms[:, 1] = chance
    state = SimpleNamespace(**ints, sampling_params=params, uniforms=uniforms, seen=seen.to(torch.uint8))
    out, slot = torch.zeros(Q, dtype=torch.int32, device=DEVICE), torch.arange(Q, dtype=torch.int32, device=DEVICE)
    needs = sampling.Needs(
        any(s.top_k for s in each), any(s.top_p < 1 for s in each), any(s.repetition_penalty != 1 for s in each)
    )
    sampling.sample(scores, slot, slot, state, sampling.Workspace.make(Q, DEVICE), out, EOS, needs)
    return out.long()


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(temperature=0.7, top_p=0.9),
        SamplingSettings(temperature=1.3, top_p=1.0),
        SamplingSettings(temperature=0.8, top_p=0.6, top_k=5, repetition_penalty=1.5),
        SamplingSettings(temperature=1.0, top_p=1.0, top_k=7),
        SamplingSettings(temperature=0.0, repetition_penalty=2.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("sharpness", [0.1, 3.0])
def test_tokens_are_sampled_as_the_reference_samples_them(settings: SamplingSettings, sharpness: float) -> None:
    """The same scores and uniform numbers: the same tokens, but for numbers within rounding of a border; and every share is as
    it should be."""
    torch.manual_seed(1)
    Q, V = (4096, 5000) if CUDA else (6, 300)
    scores = (torch.randn(1, V, device=DEVICE) * sharpness).repeat(Q, 1)
    seen = (torch.rand(1, V, device=DEVICE) < 0.3).repeat(Q, 1)
    chance = (torch.arange(Q, device=DEVICE) + 0.5) / Q
    drawn = sampler(scores, settings, chance, seen)
    p = settings.repetition_penalty
    penalised = torch.where(seen, torch.where(scores > 0, scores / p, scores * p), scores)[:1]
    if settings.temperature == 0:
        assert (drawn == penalised.argmax(-1)).all()
        return
    wanted = filtered_weights(penalised, settings)[0].double()
    wanted /= wanted.sum()
    running = wanted.cumsum(0)
    expected = torch.searchsorted(running, chance.double(), right=True)
    assert (drawn == expected).float().mean() > 0.995 if CUDA else (drawn == expected).all()
    assert (wanted[drawn] > 0).all()
    seen_share = torch.bincount(drawn, minlength=V).double() / Q
    assert (seen_share.cumsum(0) - running).abs().max() < 2.5 / Q + 1e-4


@pytest.mark.slow
def test_a_token_does_not_depend_on_what_its_neighbours_ask_for() -> None:
    """A row that is not cut, alone and in a step that searches for others' thresholds."""
    torch.manual_seed(4)
    Q, V = (2048, 5000) if CUDA else (4, 300)
    scores = torch.randn(1, V, device=DEVICE) * 2
    # Each chance lies on the border of two tokens, where sums that are made in another order would choose the other
    # one.
    chance, none = (
        scores[0].double().softmax(0).cumsum(0)[:Q].float(),
        torch.zeros(Q, V, dtype=torch.bool, device=DEVICE),
    )
    scores = scores.repeat(Q, 1)
    free, cut = SamplingSettings(temperature=1.0, top_p=1.0), SamplingSettings(temperature=1.0, top_p=0.5, top_k=9)
    chance[::2] = torch.rand(len(chance[::2]), device=DEVICE)
    alone = sampler(scores, free, chance, none)
    mixed = sampler(scores.repeat(2, 1), [free] * Q + [cut] * Q, chance.repeat(2), none.repeat(2, 1))
    assert torch.equal(mixed[:Q], alone)
    assert torch.equal(mixed[Q:], sampler(scores, cut, chance, none))


@pytest.mark.slow
def test_scores_of_nan_or_infinity_are_said() -> None:
    scores = torch.randn(3, 300, device=DEVICE)
    scores[1, 17] = float("nan")
    scores[2, 5] = float("inf")
    none = torch.zeros_like(scores, dtype=torch.bool)
    drawn = sampler(scores, SamplingSettings(temperature=0.7), torch.full((3,), 0.5, device=DEVICE), none)
    assert drawn[0] >= 0 and drawn[1] == drawn[2] == sampling_kernel.BROKEN
