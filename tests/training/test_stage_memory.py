"""Into how many micro-batches a pipeline of fused blocks cuts a step, and what each stage plans to keep of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from florilegium.config import TrainConfig
from florilegium.errors import ResourceError
from florilegium.model import ForwardOptions, Stage, attach_adapter, fast_paths, load_base
from florilegium.model.base import Base
from florilegium.model.families.bloom import block_sizes
from florilegium.model.loaded import LoadedModel
from florilegium.model.memory_plan import GIB, InFlight, ModelShape, fill_memory, peak_bytes, plan_memory
from florilegium.model.stage_plan import split
from florilegium.tokens import Batch, Example, PackPlan
from florilegium.training import Distributed, Trainer, make_lr_scheduler, make_optimizer, step
from florilegium.training.micro_batches import MicroBatchCost
from florilegium.training.pipeline import Pipeline
from florilegium.training.stage_memory import StepTokens, fill_stage, in_flight, micro_batch_lengths, plan_stage

HEAD_7B1 = 250880 / (12 * 4096)
STAGES = split(30, [1.0] * 30, HEAD_7B1, 2)
INT8_BLOCK = int(12 * 4096**2 + 4 * 9 * 4096)
TOKENS = StepTokens([8192] * 8, 200, 8192)
COST = MicroBatchCost.fused(4096, reads_int8=True)


def shape_of(stage: Stage) -> ModelShape:
    base = len(stage) * INT8_BLOCK + 2 * 250_880 * 4096
    vocabulary = 250_880 if stage.has_head else 0
    adapter = 262_144 * len(stage)
    return ModelShape(base, len(stage), 4096, vocabulary, adapter, block_sizes(4096, 32), reads_int8=True)


def test_a_micro_batch_is_not_smaller_than_its_launches_take() -> None:
    assert (COST.tokens, COST.least) == (180, 1660)
    assert COST.count(8192, 2, 8192) == 4  # 1660 tokens each and more
    assert COST.count(65536, 2, 65536) == 19  # the shortest, as the plain blocks find it
    assert COST.count(65536, 2, 2048) == 32
    assert COST.count(1000, 2, 8192) == 1
    assert MicroBatchCost.fused(14336, reads_int8=True).count(8192, 2, 8192) == 7
    assert (
        MicroBatchCost.plain("cuda").count(8192, 2, 8192)
        == 4
        == MicroBatchCost.fused(4096, reads_int8=False).count(8192, 2, 8192)
    )


@pytest.mark.parametrize("step", [100, 1000, 5000, 8192, 30000])
@pytest.mark.parametrize("world", [2, 3, 8])
def test_no_other_number_of_micro_batches_is_much_shorter(step: int, world: int) -> None:
    """By the time that the story counts: (M + S - 1) passes, each as long as its tokens or as Python takes."""

    def seconds(count: int) -> float:
        return (count + world - 1) * max(step / count + COST.tokens, COST.least)

    chosen = COST.count(step, world, 1 << 30)
    assert seconds(chosen) <= 1.15 * min(seconds(count) for count in range(1, 200))


def test_the_plan_says_the_lengths_that_the_steps_have() -> None:
    rows = [Example([4] * 101, [True] * 101)] * 80
    pipeline = Pipeline(Distributed(0, 2, 0, torch.device("cuda")), STAGES, COST)
    batches = pipeline.micro_batches(rows, PackPlan(8192, 64, 8192, bucketed=True))
    lengths = micro_batch_lengths(StepTokens([8000], 100, 8192), 2, COST)
    assert {batch.tokens_BT.numel() for batch in batches} == set(lengths) and len(batches) == 4


def test_the_first_stage_counts_the_activations_of_two_micro_batches() -> None:
    for rank, alive in ((0, 2), (1, 1)):
        shape = in_flight(shape_of(STAGES[rank]), STAGES, rank, TOKENS, COST)
        assert shape.in_flight == InFlight(alive, 4 * 2048, 1, 1660)
        alone, full = replace(shape, in_flight=None), len(STAGES[rank])
        kept = full * shape.block.kept
        more = peak_bytes(shape, 2048, full, full, 0) - peak_bytes(alone, 2048, full, full, 0)
        # the streams to and from the neighbour, and the copies of A and B of another pass, are little beside
        assert (alive - 1) * 2048 * kept <= more <= (alive - 1) * 2048 * kept + 2048 * 16 * 4096 + 10 * 2**20
    whole_step = in_flight(shape_of(STAGES[0]), STAGES, 0, replace(TOKENS, steps=[1000]), COST)
    assert whole_step.in_flight is not None and whole_step.in_flight.tokens(1024) == 1024  # there is no second


def test_a_middle_stage_has_two_neighbours_and_no_logits() -> None:
    three = split(30, [1.0] * 30, HEAD_7B1, 3)
    shapes = [in_flight(shape_of(stage), three, rank, TOKENS, COST) for rank, stage in enumerate(three)]
    flights = [shape.in_flight for shape in shapes]
    assert [(f.micro_batches, f.neighbours) for f in flights if f] == [(3, 1), (2, 2), (1, 1)]
    assert shapes[1].vocab_size == 0 < shapes[2].vocab_size


def test_more_room_is_put_to_use_and_too_little_is_said() -> None:
    plans = [fill_stage(shape_of(STAGES[0]), STAGES, 0, TOKENS, "auto", int(n * GIB), COST)[0] for n in (7, 9, 24, 80)]
    assert plans[0].full < plans[1].full < plans[2].full == len(STAGES[0]) and plans[3].copies == len(STAGES[0])
    for plan, room in zip(plans, (7, 9, 24, 80), strict=True):
        assert plan.peak <= room * GIB
    with pytest.raises(ResourceError, match="even the most economical plan"):
        fill_stage(shape_of(STAGES[0]), STAGES, 0, TOKENS, "auto", 4 * GIB, COST)


def test_one_process_plans_as_before() -> None:
    shape = replace(shape_of(Stage(0, 30, 30)), in_flight=None)
    assert plan_memory(shape, [1024], 80 * GIB, "auto") == plan_memory(
        replace(shape, in_flight=InFlight(1, 1024, 0)), [1024], 80 * GIB, "auto"
    )


@dataclass(frozen=True)
class Beside(Distributed):
    """A process whose neighbour has room for `fewer` tokens, and no Hopper GPU."""

    fewer: int = 0

    def smallest(self, number: int) -> int:
        return min(number, self.fewer if number > 1 else 0)

    def each(self, number: int) -> list[int]:
        return [number, number + 1]


def test_all_stages_cut_the_micro_batches_of_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = shape_of(STAGES[0])
    monkeypatch.setattr(fast_paths, "supports_int8_matmul", lambda loaded: True)
    monkeypatch.setattr("florilegium.training.stage_memory.model_shape", lambda *given, **named: shape)
    base = base_of_width(4096)
    loaded = LoadedModel(base, base.model)
    found = plan_stage(loaded, STAGES, TOKENS, "auto", 0, 24 * GIB, Beside(0, 2, fewer=1024))
    assert found.memory.tokens == 1024 and found.cost == MicroBatchCost.fused(4096, reads_int8=False)
    flight = in_flight(shape, STAGES, 0, TOKENS, found.cost)
    assert found.memory == fill_memory(flight, 1024, 24 * GIB, "auto")
    assert found.peaks == (found.memory.peak, found.memory.peak + 1)


def base_of_width(width: int) -> Base:
    from transformers import BloomConfig, BloomForCausalLM

    with torch.device("meta"):
        model = BloomForCausalLM(BloomConfig(vocab_size=8, hidden_size=width, n_head=32, n_layer=1))
    return Base(model, None, "outline", 8, torch.device("cpu"), torch.bfloat16, "", "")  # type: ignore[arg-type]


def test_a_micro_batch_has_the_same_chances_in_all_stages(tiny: Path) -> None:
    """And others in the next step: a block drops the same numbers wherever it lies."""
    seeds: dict[tuple[int, int], list[int]] = {}
    for rank, number in ((0, 1), (1, 1), (0, 2)):
        given = TrainConfig(model=str(tiny), bits=32)
        base = load_base(str(tiny), bits=32, device=torch.device("cpu"), stage=Stage(rank, rank + 1, 2))
        loaded = LoadedModel(base, attach_adapter(base, given))
        pipeline = Seen(Distributed(rank, 2), split(2, [1.0] * 2, 0.0, 2))
        optimizer = make_optimizer(loaded.model, given, 1e-4)
        schedule = make_lr_scheduler(optimizer, given, 4)
        trainer = Trainer(loaded, given, ForwardOptions(), PackPlan(), optimizer, schedule)
        torch.manual_seed(rank)  # what a stage draws for itself is another stage's not
        batches = pipeline.micro_batches([Example([4] * 9, [True] * 9)] * 4, PackPlan(16, 8, 16))
        step._gradients_of_stage(trainer, pipeline, batches, 1, number)
        seeds[rank, number] = [int(batch.seed_1) for batch in pipeline.seen]
    assert seeds[0, 1] == seeds[1, 1] and len(seeds[0, 1]) > 1
    assert len(set(seeds[0, 1])) == 1 and len(set(seeds[0, 1] + seeds[0, 2])) == 2


@dataclass(frozen=True)
class Seen(Pipeline):
    """A pipeline that nothing is sent through: it keeps the batches that it was to take."""

    seen: list[Batch] = field(default_factory=list)

    def gradients(self, loaded: LoadedModel, batches: Sequence[Batch], *given: object) -> torch.Tensor:  # type: ignore[override]
        self.seen.extend(batches)
        return torch.zeros(())
