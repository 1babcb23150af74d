"""The forecast: a plan fits its budget, and more budget is put to use in the order of gain."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from florilegium.errors import ResourceError
from florilegium.model.families.bloom import block_sizes
from florilegium.model.memory_plan import GIB, TILE_PARTS, ModelShape, peak_bytes, plan_memory, without_blocks
from florilegium.model.offload import offloading_helps
from florilegium.tokens import PackPlan

BLOOM_7B1 = ModelShape(
    base_bytes=int(7.54 * GIB),
    num_layers=30,
    width=4096,
    vocab_size=250_880,
    adapter_parameters=7_864_320,
    block=block_sizes(4096, 32),
)
# (full, middle, copies), tokens, and the peak that an H100 showed (bench/train/steps.py, bench/train/gpu.py), in GiB.
MEASURED = [
    ((30, 30, 0), 1088, 10.95), ((30, 30, 29), 1088, 21.84), ((0, 21, 0), 2048, 9.17), ((30, 30, 30), 8192, 38.6),
    ((30, 30, 28), 1152, 21.59), ((30, 30, 29), 1152, 21.97), ((30, 30, 30), 1024, 21.86),
]  # fmt: skip
# The same where weights are read as they are stored.
MEASURED_INT8 = [
    ((30, 30, 0), 768, 9.91), ((30, 30, 0), 1024, 10.63), ((30, 30, 0), 1152, 10.84), ((30, 30, 0), 2048, 12.99),
    ((30, 30, 0), 8192, 27.37), ((0, 30, 0), 2048, 9.2), ((0, 30, 0), 8192, 13.24), ((0, 20, 0), 2048, 9.08), ((30, 30, 29), 1152, 21.71),
]  # fmt: skip


EVERYWHERE = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
# With LoRA on every linear, on an H200.
MEASURED_ALL_LINEAR = [
    ((30, 30, 30), 1024, 23.15), ((30, 30, 30), 8192, 46.47), ((30, 30, 0), 1024, 11.80), ((30, 30, 0), 8192, 35.10),
    ((25, 30, 0), 1024, 11.33), ((25, 30, 0), 8192, 32.62), ((0, 30, 0), 2048, 9.44),
]  # fmt: skip


def steps() -> list[int]:
    generator = random.Random(0)
    return [64 * round(min(1900, max(400, generator.gauss(900, 250))) / 64) for _ in range(157)]


@pytest.mark.parametrize(
    "reads_int8,plan,tokens,gib",
    [*((False, *measured) for measured in MEASURED), *((True, *measured) for measured in MEASURED_INT8)],
)
def test_it_says_what_was_measured(reads_int8: bool, plan: tuple[int, int, int], tokens: int, gib: float) -> None:
    forecast = peak_bytes(replace(BLOOM_7B1, reads_int8=reads_int8), tokens, *plan) / GIB
    assert gib - 0.02 < forecast < 1.02 * gib  # a limit that was asked for must hold


@pytest.mark.parametrize("plan,tokens,gib", MEASURED_ALL_LINEAR)
def test_it_says_what_was_measured_with_lora_on_every_linear(
    plan: tuple[int, int, int], tokens: int, gib: float
) -> None:
    """Four times the adapter: its gradients are counted, of which not all are there at the peak."""
    sizes = block_sizes(4096, 32, EVERYWHERE)
    shape = replace(BLOOM_7B1, reads_int8=True, block=sizes, adapter_parameters=31_457_280)
    assert gib - 0.02 < peak_bytes(shape, tokens, *plan) / GIB < 1.05 * gib and shape.lora_rank == 16


def test_bf16_copy_includes_lora_columns() -> None:
    """As `quantized_linear.py` lays them: 64 columns of 2 bytes for a rank up to 64."""
    without = replace(BLOOM_7B1, adapter_parameters=0)
    ranks = [replace(BLOOM_7B1, adapter_parameters=4 * 4096 * 30 * rank) for rank in (1, 16, 64, 65)]
    assert [shape.copy_bytes - without.copy_bytes for shape in ranks] == [
        3 * 4096 * columns * 2 for columns in (64, 64, 64, 128)
    ]


def test_parts_of_tiles_have_their_room_beside_copies_too() -> None:
    """GELU's products read codes as they are stored even where every block has a copy."""
    assert (
        peak_bytes(replace(BLOOM_7B1, reads_int8=True), 1024, 30, 30, 30) - peak_bytes(BLOOM_7B1, 1024, 30, 30, 30)
        == TILE_PARTS
    )


@pytest.mark.parametrize("reads_int8", [False, True])
@pytest.mark.parametrize("memory", ["auto", "fast", "lean"])
@pytest.mark.parametrize("gib", [8.8, 9.5, 11.5, 16, 22, 79])
def test_a_plan_fits_its_budget(memory: str, gib: float, reads_int8: bool) -> None:
    shape = replace(BLOOM_7B1, reads_int8=reads_int8)
    plan = plan_memory(shape, steps(), int(gib * GIB), memory)
    assert plan.peak <= gib * GIB and plan.peak == peak_bytes(shape, plan.tokens, plan.full, plan.middle, plan.copies)
    assert 0 <= plan.full <= plan.middle <= 30 and (plan.copies == 0 or plan.full == 30)
    assert memory == "auto" or plan.copies == 0
    assert memory != "lean" or plan.full == 0


@pytest.mark.parametrize("reads_int8", [False, True])
def test_more_room_is_used(reads_int8: bool) -> None:
    shape = replace(BLOOM_7B1, reads_int8=reads_int8)
    plans = [plan_memory(shape, steps(), int(gib * GIB), "auto") for gib in (9, 10, 13, 17, 22, 40)]
    kept = [(plan.full, plan.copies) for plan in plans]
    assert kept == sorted(kept) and plans[0].full < 30 and plans[-1].copies == 30


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ResourceError, match=r"most economical plan needs 8.1 GiB, and 7.0 GiB is available"):
        plan_memory(BLOOM_7B1, [8192] * 9, 7 * GIB, "auto")
    assert plan_memory(BLOOM_7B1, [8192] * 9, int(8.15 * GIB), "auto").peak < 8.15 * GIB


@pytest.mark.parametrize("longest", [960, 2048, 8448])
@pytest.mark.parametrize("gib", [8.4, 9.5, 22])
def test_a_row_is_never_cut_and_the_plan_knows(longest: int, gib: float) -> None:
    """What is packed is as the plan says, with a row as long as any."""
    try:
        plan = plan_memory(BLOOM_7B1, [longest, 2304, 700], int(gib * GIB), "auto", longest)
    except ResourceError:
        assert peak_bytes(BLOOM_7B1, longest, 0, 0, 0) > 0.98 * gib * GIB
        return
    assert PackPlan(plan.tokens, 64, plan.tokens, bucketed=True).round_up(longest) <= plan.tokens
    assert PackPlan(plan.tokens, 64, plan.tokens, bucketed=True).round_up(plan.tokens) == plan.tokens


def test_a_few_long_steps_do_not_cost_the_others_their_copies() -> None:
    """english_quotes by 16 rows, within a 24 GB card: memory for 1,024 tokens at once, and a copy for every block."""
    plan = plan_memory(BLOOM_7B1, [768] * 106 + [1024] * 46 + [1088] * 2 + [1152] * 2, 22 * GIB, "auto", 896)
    assert (plan.full, plan.copies, plan.tokens) == (30, 30, 1024) and plan.peak < 22 * GIB


def test_blocks_in_host_memory_come_back_as_room_allows() -> None:
    """bloom-7b1 in int8 on 4 to 9 GB: two blocks' weights are always here, and each that fits beside them."""
    shape = without_blocks(replace(BLOOM_7B1, reads_int8=True), 8)
    block = 12 * 4096**2
    assert shape.host_block == block and shape.base_bytes == BLOOM_7B1.base_bytes - 28 * block
    plans = [plan_memory(shape, steps(), int(gib * GIB), "offload") for gib in (4, 5, 6, 7, 9)]
    stay = [plan.offloaded for plan in plans]
    assert stay == sorted(stay, reverse=True) and 0 < stay[0] <= 30 and stay[-1] < 10
    for plan, gib in zip(plans, (4, 5, 6, 7, 9), strict=True):
        assert plan.peak <= gib * GIB and plan.full == plan.copies == 0
        assert plan.peak == peak_bytes(shape, plan.tokens, 0, plan.middle, 0, plan.offloaded)
    with pytest.raises(ResourceError):
        plan_memory(shape, steps(), 2 * GIB, "offload")


@pytest.mark.parametrize(
    ("room", "host", "helps"),
    [(24, 64, False), (8, 64, True), (5, 64, True), (2, 64, False), (5, 4, False), (5, None, True)],
)
def test_it_is_chosen_where_nothing_else_fits(room: int, host: int | None, helps: bool) -> None:
    found = offloading_helps(BLOOM_7B1, 8, room * GIB, None if host is None else host * GIB, 256)
    assert found is helps
