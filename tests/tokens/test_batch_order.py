"""Every row once an epoch whatever the order; tile-aligned steps waste little."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from florilegium.data import read_rows
from florilegium.seedling import FOLDER
from florilegium.tokens import BatchSampler, encode, epoch_order
from florilegium.tokens.batch_order import MOST_ROWS, TILE, WINDOW, tile_align, tiles_of
from florilegium.tokens.deal import deal


def lengths_of(kind: str, number: int = 2500) -> list[int]:
    chances = random.Random(kind)
    if kind == "one size":
        return [50] * number
    if kind == "one giant":
        return [chances.randint(2, 90) for _ in range(number - 1)] + [8000]
    return [max(2, int(chances.lognormvariate(3.74, 0.76))) for _ in range(number)]


def epoch(order: BatchSampler, number: int) -> list[list[int]]:
    return [order.step(number * order.steps_per_epoch + i) for i in range(order.steps_per_epoch)]


@pytest.mark.parametrize("kind", ["quotes", "one size", "one giant"])
@pytest.mark.parametrize("batch_rows", [1, 5, 16])
def test_filled_steps_are_the_epochs_rows(kind: str, batch_rows: int) -> None:
    lengths = lengths_of(kind)
    order = BatchSampler(lengths, batch_rows, 3, tile_aligned=True)
    for number in range(2):
        steps = epoch(order, number)
        plain = epoch_order(len(lengths), batch_rows, 3, number)
        assert sorted(sum(steps, [])) == list(range(len(lengths)))
        assert [len(step) for step in steps] == [len(step) for step in plain]
        for start in range(0, len(steps), WINDOW):  # rows stay near where the shuffle put them
            window = slice(start, start + WINDOW)
            assert sorted(sum(steps[window], [])) == sorted(sum(plain[window], []))
    assert epoch(order, 0) != epoch(order, 1) and epoch(order, 1) == epoch(
        BatchSampler(lengths, batch_rows, 3, tile_aligned=True), 1
    )


def test_a_shuffled_order_is_the_plain_one() -> None:
    order = BatchSampler(lengths_of("quotes", 100), 16, 0, tile_aligned=False)
    assert epoch(order, 1) == epoch_order(100, 16, 0, 1)
    assert order.tokens(3) == sum(int(order.lengths[i]) for i in order.step(3))


def test_filled_steps_waste_little_on_english_quotes(english_quotes: Path) -> None:
    rows = read_rows(english_quotes)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    lengths = [len(e.token_ids) - 1 for e in encode(tokenizer, rows.template, rows.quotes).examples]

    def waste(tile_aligned: bool) -> float:
        order = BatchSampler(lengths, 16, 0, tile_aligned=tile_aligned)
        tokens = np.array([order.tokens(i) for i in range(order.steps_per_epoch)])
        return 1 - tokens.sum() / (-(-tokens // TILE) * TILE).sum()

    print(f"of whole tiles: {waste(False):.1%} empty in a shuffle, {waste(True):.1%} where steps are tile-aligned")
    assert waste(True) < 0.035 < 0.1 < waste(False)


@pytest.mark.parametrize("world", [2, 4, 8])
def test_each_of_several_processes_has_whole_tiles(world: int) -> None:
    """16 rows for each: a step of seven tiles would be four tiles' work for both of two."""
    lengths = lengths_of("quotes", 4000)
    order = BatchSampler(lengths, 16 * world, 0, tile_aligned=True)
    steps = [[lengths[i] for i in order.step(number)] for number in range(4000 // (16 * world))]
    held = np.array([[sum(step[i] for i in share) for share in deal(step, world)] for step in steps])
    paid = world * (-(-held // TILE) * TILE).max(1)  # the step lasts as long as its slowest process
    waste = 1 - held.sum() / paid.sum()
    print(f"{world} processes: {waste:.1%} of the tiles empty")
    assert waste < 0.04


def test_the_order_of_steps_of_16_rows_has_tiles_of_one_process() -> None:
    few = np.array([7] * 100)
    assert [tiles_of(np.array(lengths_of("quotes")), rows) // TILE for rows in (1, 16, 31, 32, 64, 128)] == [
        1,
        1,
        1,
        2,
        4,
        8,
    ]
    assert tiles_of(few, 128) == TILE and tiles_of(few[:0], 128) == TILE  # of short rows a step holds few tiles


def test_filling_ends_where_nothing_fits() -> None:
    assert tile_align([[0], [1]], np.array([300, 700])) == [[0], [1]]
    assert sorted(sum(tile_align([[0, 1], [2, 3]], np.array([5000, 1, 1, 1])), [])) == [0, 1, 2, 3]


def test_steps_of_many_rows_are_left_alone() -> None:
    order = BatchSampler(lengths_of("quotes"), MOST_ROWS + 1, 0, tile_aligned=True)
    assert epoch(order, 0) == epoch_order(2500, MOST_ROWS + 1, 0, 0)


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_a_long_row_leaves_its_step_little_over(seed: int) -> None:
    """A step with a row of 700 tokens comes down to 1,024 by the shortest rows there are, which full steps have to give
    up. (Where no other step may be overfilled on the way, 1,060 to 1,073 are left.)"""
    draw = random.Random(seed)
    lengths = np.array([draw.randint(15, 90) for _ in range(32 * 16)])
    lengths[::96] = 700
    steps = tile_align([list(range(16 * n, 16 * n + 16)) for n in range(32)], lengths)
    assert max(int(lengths[step].sum()) for step in steps) <= 4 * TILE + 16
    assert sorted(i for step in steps for i in step) == list(range(len(lengths)))
