"""Data parallel on 1 to 1,024 cards, before anybody has rented them: the rows dealt as a run deals them, the seconds of
a step from what one card was measured to take, the sums of the gradients by the bytes that they are and the link's rate.

    python -m bench.scale.gpus [--quotes FILE] [--cards 1 2 8 64 1024] [--rate GB_S]

A step of N cards lasts as long as its slowest card and the sum of the gradients:

    max over cards of (fixed + tokens * per_token) * jitter
        + 2 (N - 1) * latency + 2 (N - 1) / N * bytes / rate

which is a ring all-reduce without overlap, the worst of the ways that NCCL has. `fixed` and `per_token` go through two
measured points of bloom-7b1 in int8 on one H200 (docs/benchmarks.md, 2026-11-29): 16 quotes a step 21,593 tokens/s,
8,192 positions 22,112. Nothing here ran on several cards: that is `bench.scale.measured`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.common.checkpoint import QUOTES, train_tokenizer

FEW, MANY = 16, 8192  # quotes, positions: what a card takes in the two measured steps
FEW_RATE, MANY_RATE = 21_593, 22_112  # tokens/s of those steps
PARAMETERS = 7_864_320  # LoRA r=16 on query_key_value of bloom-7b1
TILE = 64  # the fused blocks take lengths that are multiples of it
STEPS = 50
JITTER = 0.01  # standard deviation of a card's own step time, as a share; cards of one name differ by as much
# One unexpected stop in 50,000 hours of a GPU: 419 in 54 days of 16,384 (The Llama 3 Herd of Models, arXiv 2407.21783).
HOURS_BETWEEN_STOPS = 50_000
RESTART_SECONDS, SAVE_EVERY_SECONDS = 120, 300


@dataclass(frozen=True)
class Link:
    """Between cards: GB/s that a ring all-reduce gets of it, and seconds a hop."""

    name: str
    rate: float
    latency: float


# Rates that an all-reduce of tens of megabytes is commonly seen to reach; put your own with --rate.
LINKS = (Link("NVLink", 200, 10e-6), Link("PCIe 4", 15, 20e-6), Link("100 Gbit", 10, 30e-6), Link("10 Gbit", 1, 60e-6))


@dataclass(frozen=True)
class Outcome:
    """A step of `cards`, averaged over STEPS: efficiency is tokens/s over `cards` times those of one card."""

    cards: int
    link: str
    tokens_per_card: int
    step_ms: float
    dealt: float  # tokens of the fullest card over the mean
    summing_ms: float
    efficiency: float


def step_cost(mean_tokens: float) -> tuple[float, float]:
    """Seconds of a step that do not depend on its tokens, and seconds a token: the line through the two points."""
    few = FEW * mean_tokens
    slope = (MANY / MANY_RATE - few / FEW_RATE) / (MANY - few)
    return max(0.0, few / FEW_RATE - slope * few), slope


def quote_lengths(quotes: Path) -> list[int]:
    """Positions of each row, by a tokenizer trained on them."""
    from transformers import AutoTokenizer

    from florilegium.data import read_rows
    from florilegium.tokens import encode

    with tempfile.TemporaryDirectory() as folder:
        train_tokenizer(Path(folder), quotes)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = read_rows(quotes)
    return [len(example.token_ids) - 1 for example in encode(tokenizer, rows.template, rows.quotes).examples]


def summing_seconds(cards: int, link: Link) -> float:
    """A ring all-reduce of the adapter's gradients in float32."""
    if cards == 1:
        return 0.0
    return 2 * (cards - 1) * link.latency + 2 * (cards - 1) / cards * PARAMETERS * 4 / (link.rate * 1e9)


def steps_of(lengths: Sequence[int], rows_per_card: int, cards: int) -> tuple[float, float, float]:
    """Tokens and seconds of STEPS steps, sums of gradients apart, and how far the fullest card is above the mean. Rows
    are drawn from `lengths` and dealt as a run deals them."""
    from florilegium.tokens.deal import deal

    chance = np.random.default_rng(0)
    fixed, per_token = step_cost(float(np.mean(lengths)))
    tokens, seconds, fullest = 0.0, 0.0, 0.0
    for _ in range(STEPS):
        drawn = chance.choice(lengths, rows_per_card * cards).tolist()
        held = np.array([sum(drawn[i] for i in share) for share in deal(drawn, cards)])
        each = fixed + -(-held // TILE) * TILE * per_token
        seconds += (each * (1 + JITTER * np.abs(chance.standard_normal(cards)))).max()
        tokens += held.sum()
        fullest += held.max() / held.mean() / STEPS
    return tokens, seconds, fullest


def simulate(lengths: Sequence[int], rows_per_card: int, cards: Sequence[int], links: Sequence[Link]) -> list[Outcome]:
    """An Outcome for each number of cards and each link."""
    tokens, seconds, _ = steps_of(lengths, rows_per_card, 1)
    alone = tokens / seconds
    found = []
    for count in cards:
        tokens, seconds, fullest = steps_of(lengths, rows_per_card, count)
        for link in links:
            summing = summing_seconds(count, link)
            rate = tokens / (seconds + STEPS * summing)
            found.append(
                Outcome(
                    cards=count,
                    link=link.name,
                    tokens_per_card=round(tokens / STEPS / count),
                    step_ms=round(1e3 * seconds / STEPS + 1e3 * summing, 2),
                    dealt=round(fullest, 4),
                    summing_ms=round(1e3 * summing, 3),
                    efficiency=round(rate / count / alone, 4),
                )
            )
    return found


def stops_a_day(cards: int) -> tuple[float, float]:
    """Unexpected stops a day, and the share of the day that they cost: half of what lies between two saves is done
    again, and the run starts anew."""
    stops = 24 * cards / HOURS_BETWEEN_STOPS
    return stops, stops * (RESTART_SECONDS + SAVE_EVERY_SECONDS / 2) / 86_400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quotes", type=Path, default=QUOTES)
    parser.add_argument("--cards", type=int, nargs="+", default=[1, 2, 8, 64, 1024])
    parser.add_argument("--rate", type=float, help="GB/s of your own link, in place of the table's")
    chosen = parser.parse_args()
    links = [Link("yours", chosen.rate, 30e-6)] if chosen.rate else list(LINKS)
    lengths = quote_lengths(chosen.quotes)
    for rows in (FEW, round(MANY / float(np.mean(lengths)))):
        for outcome in simulate(lengths, rows, chosen.cards, links):
            print(json.dumps({"rows_per_card": rows, **asdict(outcome)}))
    for cards in chosen.cards:
        stops, lost = stops_a_day(cards)
        print(json.dumps({"cards": cards, "stops_a_day": round(stops, 4), "share_lost": round(lost, 6)}))


if __name__ == "__main__":
    main()
