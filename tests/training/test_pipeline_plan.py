"""Which blocks each process of a pipeline holds, when there is one, and what it refuses. Whole runs are in
tests/torture/test_pipeline.py."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from florilegium.config import SamplingSettings, TrainConfig, make_config
from florilegium.data import Template
from florilegium.errors import ResourceError, UsageError
from florilegium.generation import generate_texts
from florilegium.model import LoadedModel, Stage, attach_adapter, load_base
from florilegium.model.stage_plan import plan_stages, split
from florilegium.training.pipeline_plan import check_adapter, describe_stages, keeps_activations

HEAD_7B1 = 250880 / (12 * 4096)  # what the head computes, in blocks


def names(stages: tuple[Stage, ...]) -> list[str]:
    return [str(stage) for stage in stages]


def test_the_head_counts_as_the_blocks_that_it_takes_as_long_as() -> None:
    assert names(split(30, [1.0] * 30, HEAD_7B1, 2)) == ["1-18", "19-30"]
    assert names(split(30, [1.0] * 30, 0.0, 2)) == ["1-15", "16-30"]
    assert names(split(4, [1.0] * 4, 100.0, 4)) == ["1", "2", "3", "4"]  # nobody is left without one


@pytest.mark.parametrize("world", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("head", [0.0, 1.5, 40.0])
def test_every_block_lies_on_one_stage_and_no_cut_is_better(world: int, head: float) -> None:
    stages = split(24, [1.0] * 24, head, world)
    assert [number for stage in stages for number in range(stage.first, stage.last)] == list(range(24))
    assert stages[0].has_embedding and stages[-1].has_head and all(len(stage) for stage in stages)
    longest = max(len(stage) + (head if stage.has_head else 0) for stage in stages)
    # a stage is at least one block longer than the mean only where the head alone is
    assert longest < (24 + head) / world + 1 or longest == pytest.approx(1 + head)


SHAPES = {"7b1": (4096, 32, 30), "176b": (14336, 112, 70)}  # width, heads, blocks
GIB = 2**30


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with BLOOM's config.json of this size, and no weights: the plan reads none."""

    def folder(size: str) -> Path:
        from transformers import BloomConfig

        width, heads, layers = SHAPES[size]
        path = tmp_path_factory.mktemp(size)
        BloomConfig(vocab_size=250880, hidden_size=width, n_head=heads, n_layer=layers).save_pretrained(path)
        return path

    return folder


def config(model: Path, **settings: object) -> TrainConfig:
    return TrainConfig(model=str(model), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "bits", "world", "card", "stages"),
    [
        ("7b1", 8, 2, 24, []),
        ("7b1", 8, 2, 8, ["1-18", "19-30"]),
        ("7b1", 8, 2, 6.6, ["1-15", "16-30"]),  # the first would not fit with more
        ("7b1", 4, 2, 8, []),
        ("7b1", 8, 4, 8, ["1-18", "19-30"]),  # twice: two copies of the base
        ("7b1", 8, 4, 5.5, ["1-9", "10-18", "19-27", "28-30"]),
        ("176b", 8, 2, 141, ["1-36", "37-70"]),
        ("176b", 8, 2, 80, None),
        ("176b", 8, 8, 141, ["1-36", "37-70"]),
        ("176b", 8, 8, 80, ["1-18", "19-36", "37-54", "55-70"]),
        ("176b", 4, 2, 80, ["1-36", "37-70"]),
    ],
)
def test_auto_is_a_pipeline_where_the_base_is_larger_than_a_card(
    shape: Callable[[str], Path], size: str, bits: int, world: int, card: float, stages: list[str] | None
) -> None:
    asked = config(shape(size), bits=bits)
    if stages is None:
        with pytest.raises(ResourceError, match="does not fit on 2 cards"):
            plan_stages(asked, world, int(0.92 * card * GIB))
        return
    assert names(plan_stages(asked, world, int(0.92 * card * GIB))) == stages


def test_one_process_and_a_cpu_have_no_pipeline_unless_it_is_asked_for(tiny: Path) -> None:
    assert plan_stages(config(tiny, parallel="pipeline"), 1, 0) == ()
    assert plan_stages(config(tiny), 2, 0) == plan_stages(config(tiny, parallel="data"), 2, 1) == ()
    assert names(plan_stages(config(tiny, parallel="pipeline"), 2, 0)) == ["1", "2"]


def test_a_pipeline_has_as_many_stages_as_are_asked_for(tiny: Path) -> None:
    for settings in ({"parallel": "pipeline", "pipeline_stages": 2}, {"pipeline_stages": 2}):
        room = 0 if "parallel" in settings else 1  # a card that is too small for the whole base
        with contextlib.nullcontext() if not room else pytest.raises(ResourceError, match="does not fit on 2 cards"):
            assert names(plan_stages(config(tiny, **settings), 4, room)) == ["1", "2"]
    for asked, world in ((2, 3), (1, 4), (8, 4)):
        with pytest.raises(UsageError, match=f"--pipeline-stages is {asked}, and {world} processes do not"):
            plan_stages(config(tiny, parallel="pipeline", pipeline_stages=asked), world, 0)
    with pytest.raises(UsageError, match="--parallel is data"):
        make_config({"model": str(tiny), "parallel": "data", "pipeline_stages": 2})


@pytest.mark.parametrize(
    ("settings", "world", "cause"),
    [
        ({}, 3, "has 2 blocks, and there are 3 processes"),
        ({"dora": True}, 2, "does not work with --dora"),
        ({"lora_init": "pissa"}, 2, "does not work with --lora-init pissa"),
        ({"optimizer": "adamw-8bit"}, 2, "whose state is not gathered"),
    ],
)
def test_what_a_pipeline_cannot_do_is_refused(tiny: Path, settings: dict[str, object], world: int, cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        plan_stages(config(tiny, bits=32, parallel="pipeline", **settings), world, 0)


def test_another_family_is_refused_or_left_to_data(tmp_path: Path) -> None:
    from transformers import GPT2Config

    GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=2).save_pretrained(tmp_path)
    assert plan_stages(config(tmp_path), 2, 1 << 20) == ()
    with pytest.raises(ResourceError, match="of all families only BLOOM is spread over several. Use --bits 4"):
        plan_stages(config(tmp_path), 2, 1 << 10)
    with pytest.raises(UsageError, match="is for BLOOM"):
        plan_stages(config(tmp_path, parallel="pipeline"), 2, 0)


def test_a_stage_without_lora_is_refused(tiny: Path) -> None:
    asked = config(tiny, bits=32, target_modules="h.1.mlp.dense_4h_to_h", lora_dropout=0.0)
    base = load_base(str(tiny), bits=32, device=torch.device("cpu"), stage=Stage(0, 1, 2))
    loaded = LoadedModel(base, attach_adapter(base, asked))
    with pytest.raises(UsageError, match="blocks 1 have no LoRA,"):
        check_adapter(loaded, (Stage(0, 1, 2), Stage(1, 2, 2)))
    check_adapter(loaded, ())


@pytest.mark.parametrize("bits", [8, *(pytest.param(bits, marks=pytest.mark.slow) for bits in (32, 16, 4))])
@pytest.mark.parametrize("first", [0, 1])
def test_a_stage_has_the_bits_of_the_whole_base_and_nothing_else(tiny: Path, bits: int, first: int) -> None:
    stage = Stage(first, first + 1, 2)
    whole, part = (load_base(str(tiny), bits=bits, device=torch.device("cpu"), stage=s) for s in (None, stage))
    held = {name for name, tensor in part.model.named_parameters() if not tensor.is_meta}
    assert {name for name in held if ".h." in name} == {
        name for name, _ in whole.model.named_parameters() if f".h.{first}." in name
    }
    assert "transformer.word_embeddings.weight" in held  # the last stage has the head, which is tied
    theirs = whole.model.state_dict()
    for name, tensor in part.model.state_dict().items():
        if not tensor.is_meta:
            assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name
    middle = load_base(str(tiny), bits=bits, device=torch.device("cpu"), stage=Stage(1, 2, 3))
    assert middle.model.get_input_embeddings().weight.is_meta and middle.model.get_output_embeddings().weight.is_meta


def test_a_stage_writes_no_texts_and_says_what_does(tiny: Path) -> None:
    base = load_base(str(tiny), bits=32, device=torch.device("cpu"), stage=Stage(0, 1, 2))
    loaded = LoadedModel(base, attach_adapter(base, config(tiny, bits=32)))
    with pytest.raises(ResourceError, match="blocks 1 of .* alone, and cannot write texts. Load the adapter in one"):
        generate_texts(loaded, Template.from_text(), ["Be"], SamplingSettings(max_new_tokens=1))


def test_activations_are_kept_where_they_fit(tiny: Path) -> None:
    stages = plan_stages(config(tiny, parallel="pipeline"), 2, 0)
    for settings, room, kept in (
        ({}, 0, True),
        ({}, 1 << 30, True),
        ({}, 1 << 10, False),
        ({"memory": "lean"}, 0, False),
    ):
        assert keeps_activations(config(tiny, **settings), stages, 32, 1000, room) is kept
    assert keeps_activations(config(tiny, memory="fast"), stages, 32, 1000, 1)


def test_the_first_lines_say_which_process_has_what() -> None:
    said = describe_stages(split(6, [1.0] * 6, 0.0, 3))
    assert said.endswith("0: blocks 1-2 and the embedding; 1: blocks 3-4; 2: blocks 5-6 and the head")
    said = describe_stages(split(6, [1.0] * 6, 0.0, 2), 2)
    assert said.endswith("0 and 2: blocks 1-3 and the embedding; 1 and 3: blocks 4-6 and the head")
