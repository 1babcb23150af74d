"""What people found worth keeping, carried over to everything that the teacher wrote.

The teacher's own verdict ("is it clear, true to life and sensible?") is a poor one: asked of half a million sayings, it
likes many that say nothing. But what it thought while it gave the verdict, its last hidden state, knows more. So people
read some of its sayings (`readings.tsv`: `+` and the saying, or `-`; the rule is that of `bench.train.seedling`), and a
logistic regression on the states learns to tell the two kinds apart (a linear probe, Alain & Bengio 2016,
arXiv:1610.01644). Its strength against overfitting is chosen by five-fold cross-validation, whose figures are printed:
how many of those that it would keep did the readers keep?

    N readings   D size of a state, the teacher's verdict behind it"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from .filter import clean
from .shards import READINGS, read_readings, read_rows

FOLDS = 5
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)  # of the penalty, a reading


@dataclass(frozen=True)
class Probe:
    """`score = (x - mean_D) / spread_D @ weight_D + bias`, in nats: the log-odds that a reader keeps it."""

    mean_D: torch.Tensor
    spread_D: torch.Tensor
    weight_D: torch.Tensor
    bias: torch.Tensor

    def scores(self, inputs_ND: torch.Tensor) -> torch.Tensor:
        return (inputs_ND - self.mean_D) / self.spread_D @ self.weight_D + self.bias


def fit(inputs_ND: torch.Tensor, kept_N: torch.Tensor, strength: float) -> Probe:
    """Logistic regression with a penalty of `strength / 2 * weight²` a reading, to its optimum."""
    mean_D, spread_D = inputs_ND.mean(0), inputs_ND.std(0) + 1e-3
    scaled_ND = (inputs_ND - mean_D) / spread_D / inputs_ND.shape[1] ** 0.5
    weight_D = torch.zeros(inputs_ND.shape[1], requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight_D, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(scaled_ND @ weight_D + bias, kept_N)
        loss = loss + strength / 2 * weight_D.square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return Probe(mean_D, spread_D, weight_D.detach() / inputs_ND.shape[1] ** 0.5, bias.detach())


def cross_validated(inputs_ND: torch.Tensor, kept_N: torch.Tensor, strength: float, seed: int = 0) -> torch.Tensor:
    """`[N]`: each reading's score by a probe that has not seen it."""
    fold_N = torch.randperm(len(kept_N), generator=torch.Generator().manual_seed(seed)) % FOLDS
    scores_N = torch.empty(len(kept_N))
    for fold in range(FOLDS):
        mine = fold_N == fold
        scores_N[mine] = fit(inputs_ND[~mine], kept_N[~mine], strength).scores(inputs_ND[mine])
    return scores_N


def ranked_right(scores_N: torch.Tensor, kept_N: torch.Tensor) -> float:
    """The share of pairs, one kept and one not, whose kept one has the higher score (the area under the ROC curve)."""
    kept, dropped = scores_N[kept_N > 0], scores_N[kept_N == 0]
    return float((kept[:, None] > dropped[None, :]).float().mean())


def kept_of_the_best(scores_N: torch.Tensor, kept_N: torch.Tensor, share: float) -> float:
    """The share that readers kept of the `share` with the highest scores."""
    best = scores_N.argsort(descending=True)[: max(1, int(share * len(scores_N)))]
    return float(kept_N[best].mean())


def run_readings(work: Path, seed: int, most: int = 1200) -> None:
    """Write `to_read.tsv`: some of the first shard's sayings, drawn by chance, to be marked `+` or `-` by people."""
    first = min((work / "shards").glob("*.jsonl"))
    rows = (row for row in read_rows(first) if "sense" in row)
    texts = [text for row in rows if (text := clean("saying", row["text"])[0])]
    chosen = random.Random(seed).sample(texts, min(most, len(texts)))
    (work / "to_read.tsv").write_text("".join(f"{i}\t{text}\n" for i, text in enumerate(chosen)), encoding="utf-8")
    print(f"readings: {len(chosen):,} sayings in {work / 'to_read.tsv'}")


def run(work: Path, readings: Path = READINGS) -> None:
    """Write `shards/*.taste.npy` (float32, a score for each judged saying, in order), from which `filter` chooses.
    `readings.npy` is what the teacher thought of the readings, in order."""
    kept_N = torch.tensor(list(read_readings(readings).values()))
    inputs_ND = torch.from_numpy(np.load(work / "readings.npy").astype(np.float32))
    known_N = inputs_ND.isfinite().all(1)
    inputs_ND, kept_N = inputs_ND[known_N], kept_N[known_N]
    tried = {strength: cross_validated(inputs_ND, kept_N, strength) for strength in STRENGTHS}
    areas = {strength: ranked_right(scores_N, kept_N) for strength, scores_N in tried.items()}
    best = max(areas, key=areas.__getitem__)
    print(f"taste: {len(kept_N):,} readings, {kept_N.mean():.1%} kept; the probe ranks {areas[best]:.1%} of pairs right "
          f"(strength {best}), the teacher's verdict {ranked_right(inputs_ND[:, -1], kept_N):.1%}")  # fmt: skip
    for share in (0.5, 0.4, 0.3, 0.2):
        print(f"taste: of its best {share:.0%} readers kept {kept_of_the_best(tried[best], kept_N, share):.1%}, of the "
              f"verdict's {kept_of_the_best(inputs_ND[:, -1], kept_N, share):.1%}")  # fmt: skip
    probe = fit(inputs_ND, kept_N, best)
    for path in sorted((work / "shards").glob("*.jsonl")):
        inputs = torch.from_numpy(np.load(path.with_suffix(".npy")).astype(np.float32))
        np.save(path.with_suffix(".taste.npy"), probe.scores(inputs).numpy())
