"""The recipe's taste, on toy states and a CPU: a probe learns what readers kept, and the filter goes by it; the attention
that shares a beginning; weights on a grid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
torch = pytest.importorskip("torch")

from tools.seedling import shards, taste  # noqa: E402
from tools.seedling.measure import on_a_grid  # noqa: E402


def states(kept_N: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """States of 40 numbers in which one direction says something, and a verdict that says little."""
    generator = torch.Generator().manual_seed(seed)
    direction_D = torch.randn(40, generator=generator)
    sign_N1 = 2 * kept_N[:, None] - 1
    states_ND = torch.randn(len(kept_N), 40, generator=generator) + 0.2 * sign_N1 * direction_D
    verdict_N1 = torch.randn(len(kept_N), 1, generator=generator) + 0.2 * sign_N1
    return torch.cat([states_ND, verdict_N1], 1)


def test_the_probe_knows_more_than_the_verdict_and_is_not_flattered() -> None:
    kept_N = (torch.arange(600) % 3 == 0).float()
    inputs_ND = states(kept_N)
    scores_N = taste.cross_validated(inputs_ND, kept_N, 0.3)
    by_probe, by_verdict = taste.ranked_right(scores_N, kept_N), taste.ranked_right(inputs_ND[:, -1], kept_N)
    assert by_probe > 0.85 > 0.7 > by_verdict
    assert taste.kept_of_the_best(scores_N, kept_N, 0.2) > 0.8
    noise_ND = torch.randn(600, 40, generator=torch.Generator().manual_seed(5))
    assert abs(taste.ranked_right(taste.cross_validated(noise_ND, kept_N, 0.3), kept_N) - 0.5) < 0.08


def test_the_probe_is_at_its_optimum() -> None:
    """Newton's method in float64 over the same loss, penalty and scale ends at the same scores."""
    kept_N = (torch.arange(300) % 3 == 0).float()
    inputs_ND = states(kept_N)
    D, strength = inputs_ND.shape[1], 0.5
    ours = taste.fit(inputs_ND, kept_N, strength)
    scaled_ND = (inputs_ND - ours.mean_D) / ours.spread_D / D**0.5
    design = torch.cat([scaled_ND, torch.ones(300, 1)], 1).double()
    penalty = torch.diag(torch.cat([torch.full((D,), strength / D), torch.zeros(1)])).double()
    solution = torch.zeros(D + 1, dtype=torch.float64)
    for _ in range(30):
        chance = torch.sigmoid(design @ solution)
        slope = design.T @ (chance - kept_N) / 300 + penalty @ solution
        curvature = design.T @ (design * (chance * (1 - chance))[:, None]) / 300 + penalty
        solution -= torch.linalg.solve(curvature, slope)
    assert torch.allclose(ours.scores(inputs_ND).double(), design @ solution, atol=0.01)


def test_the_taste_replaces_the_verdict_in_the_shards(tmp_path: Path) -> None:
    kept_N = (torch.arange(200) % 2 == 0).float()
    inputs = states(kept_N).numpy().astype(np.float16)
    (tmp_path / "shards").mkdir()
    readings = tmp_path / "readings.tsv"
    readings.write_text("".join(f"{'+' if kept else '-'}\tSaying {i}.\n" for i, kept in enumerate(kept_N.tolist())))
    known = inputs.copy()
    known[3] = np.nan  # held a token that the teacher does not keep
    np.save(tmp_path / "readings.npy", known)
    rows = [{"form": "saying", "text": f"Saying {i}.", "sense": 0.0, "likelihood": -1.0} for i in range(200)]
    rows.insert(7, {"form": "scene", "text": "It rained.", "likelihood": -1.0})
    rows.insert(0, {"form": "saying", "text": "Not judged.", "likelihood": -1.0})
    (tmp_path / "shards" / "0000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.save(tmp_path / "shards" / "0000.npy", inputs)
    taste.run(tmp_path, readings)
    found = {row["text"]: row.get("sense") for row in shards.read_shards(tmp_path / "shards")}
    assert found["It rained."] is None and found["Not judged."] is None and len(found) == 202
    senses = torch.tensor([found[f"Saying {i}."] for i in range(200)])
    assert taste.ranked_right(senses, kept_N) > 0.9


def test_what_was_read_is_marked_and_read_once() -> None:
    lines = shards.READINGS.read_text(encoding="utf-8").splitlines()
    readings = shards.read_readings(shards.READINGS)
    assert len(lines) == len(readings) >= 1000 and {line[:2] for line in lines} == {"+\t", "-\t"}
    sample = {json.loads(line)["quote"] for line in (ROOT / "src/florilegium/seedling/sayings.jsonl").open()}
    assert not sample & set(readings)


def test_a_word_that_few_sayings_use_is_not_known() -> None:
    texts = ["The sea's calm helps."] * 30_000 + ["A zither helps."]
    known = shards.known_words(texts)
    assert {"sea", "calm", "helps"} <= known and "zither" not in known
    assert known.issuperset(shards.words_of("The sea helps.")) and not known.issuperset(shards.words_of("A zither."))


def test_stored_weights_are_as_near_as_int8s_and_pack_well() -> None:
    import zlib

    torch.manual_seed(0)
    weight = torch.randn(64, 512) * torch.logspace(-2, 0, 64)[:, None]
    stored = on_a_grid(weight)
    scale = weight.abs().amax(1, keepdim=True) / 127
    int8 = (weight / scale).round() * scale
    assert torch.equal(stored, stored.half().float())
    assert (stored - weight).norm() < 1.1 * (int8 - weight).norm()
    assert len(zlib.compress(stored.half().numpy().tobytes())) < 10.5 / 16 * stored.numel() * 2


SHARED_ATTENTION = """
import torch
from tools.seedling.attention import attend_fast, attend_plain
torch.manual_seed(0)
for shared, B, H, K, L, E in ((0, 5, 12, 2, 80, 32), (37, 7, 12, 2, 120, 32), (64, 3, 4, 4, 100, 16)):
    query, key, value = torch.randn(B, H, E), torch.randn(B, K, E), torch.randn(B, K, E)
    keys, values = torch.randn(2, B, K, L, E)
    keys[:, :, :shared], values[:, :, :shared] = keys[:1, :, :shared], values[:1, :, :shared]
    position = torch.randint(shared, L, (B,))
    position[0] = shared
    sides = []
    for attend in (attend_plain, attend_fast):
        cache = keys.clone(), values.clone()
        sides.append((attend(query, key, value, *cache, position, torch.tensor([shared])), *cache))
    for ours, theirs in zip(*sides):
        assert torch.allclose(ours, theirs, atol=2e-6), (shared, (ours - theirs).abs().max())
    if shared:  # the shared part is taken from row 0
        keys[1:, :, :shared] = 0
        again = attend_fast(query, key, value, keys, values, position, torch.tensor([shared]))
        assert torch.allclose(again, sides[0][0], atol=2e-6)
print("equal")
"""


def test_attention_that_shares_a_beginning_equals_plain_attention() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    done = subprocess.run(
        [sys.executable, "-c", SHARED_ATTENTION],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "equal", done.stderr[-2000:]
