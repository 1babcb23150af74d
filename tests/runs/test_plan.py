"""How a run is executed: what 'auto' cannot take is left out of the config too, what was named is refused, and all of it
is decided before the folder exists."""

from __future__ import annotations

import shutil
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from florilegium import fast
from florilegium.config import make_config, read_run_config
from florilegium.errors import UsageError
from florilegium.fast.host_blocks import HostBlocks
from florilegium.generation.engine import decodes_fast
from florilegium.model import LoadedModel, attach_adapter, count_parameters, fast_paths
from florilegium.model.families.bloom import bloom_model
from florilegium.model.memory_plan import MemoryPlan
from florilegium.runs import plan as planning
from florilegium.runs.plan import plan_execution
from florilegium.runs.plan_text import describe_kernels, say_plan
from florilegium.runs.prepare import Prepared, prepare
from florilegium.runs.recorder import NullView
from florilegium.runs.resume import resume
from florilegium.runs.setup import install_kernels, make_ready
from florilegium.runs.train import train
from florilegium.tokens import pack
from florilegium.training import Distributed, batch_sampler
from tests.tiny import save_tiny

ALL = ("fused-blocks", "flex-attention", "quantized-linear", "chunked-loss", "fast-decode")


def prepared_for_block(tiny: Path, asked: str, **settings: Any) -> Prepared:
    """As on a CUDA machine, where fused blocks are chosen before the model is known; here nothing can run them."""
    prepared = prepare(
        make_config({"model": str(tiny), "device": "cpu", "kernels": "chunked-loss"} | settings), NullView()
    )
    return replace(prepared, kernels=("fused-blocks", "chunked-loss"), requested_kernels=asked)


def with_adapter(prepared: Prepared) -> LoadedModel:
    return LoadedModel(prepared.base, attach_adapter(prepared.base, prepared.config))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine where fused blocks cannot run")
def test_auto_leaves_a_kernel_out_of_the_config_too(tiny: Path) -> None:
    prepared = prepared_for_block(tiny, "auto")
    plan = plan_execution(prepared, with_adapter(prepared))
    assert plan.memory is None and plan.lengths == ()
    assert plan.kernels == ("chunked-loss",) and plan.config.kernels == "chunked-loss"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine where fused blocks cannot run")
def test_a_named_kernel_that_cannot_run_is_refused(tiny: Path) -> None:
    prepared = prepared_for_block(tiny, "fused-blocks,chunked-loss")
    with pytest.raises(UsageError, match="'fused-blocks' is not supported here"):
        plan_execution(prepared, with_adapter(prepared))


def test_a_resumed_run_leaves_out_what_was_chosen_for_it(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """config.yaml names the kernels that were chosen, on a larger card perhaps; only what is named now is refused."""
    run, quotes = tmp_path / "run", tmp_path / "quotes.jsonl"
    quotes.write_text("".join(f'{{"quote": "Be kind to sea number {i}.", "tags": ["sea"]}}\n' for i in range(24)))
    settings = {"model": str(tiny), "max_steps": 2, "batch_size": 4, "verdict_texts": 0, "device": "cpu"}
    train(quotes, output=str(run), kernels="chunked-loss", **settings)
    shutil.rmtree(run / "adapter")  # as one that was stopped
    monkeypatch.setattr(fast_paths, "OF_THE_MODEL", ("chunked-loss",))
    monkeypatch.setattr(fast_paths, "unsupported", lambda *_: "the card is too small")
    with pytest.raises(UsageError, match="'chunked-loss' is not supported here: the card is too small"):
        resume(run, kernels="chunked-loss")
    assert resume(run).figures["fast"] == [] and read_run_config(run / "config.yaml")["kernels"] == "off"


@pytest.mark.parametrize(
    ("heads", "head_dim", "taken"), [(4, 8, False), (4, 15, False), (4, 16, True), (1, 264, False)]
)
def test_flex_attention_is_chosen_by_the_size_of_heads(tmp_path: Path, heads: int, head_dim: int, taken: bool) -> None:
    """torch would refuse a head of 8 columns on a GPU while it compiles the first step."""
    model = save_tiny(tmp_path / "bloom", heads=heads, head_dim=head_dim)
    names = ("flex-attention", "chunked-loss")
    prepared = replace(prepared_for_block(model, "auto"), kernels=names)
    assert plan_execution(prepared, with_adapter(prepared)).kernels == (names if taken else names[1:])
    named = replace(prepared_for_block(model, ",".join(names)), kernels=names)
    if taken:
        assert plan_execution(named, with_adapter(named)).kernels == names
    else:
        with pytest.raises(
            UsageError, match=f"'flex-attention' is not supported here: the model's heads have {head_dim} columns"
        ):
            plan_execution(named, with_adapter(named))


def test_nothing_changes_what_was_planned(tiny: Path) -> None:
    ready = make_ready(prepare(make_config({"model": str(tiny), "device": "cpu"}), NullView()))
    with pytest.raises(FrozenInstanceError):
        ready.plan.kernels = ()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        ready.prepared.config = ready.plan.config  # type: ignore[misc]


def test_a_folder_that_is_taken_is_refused_before_a_row_is_read(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    lines: list[str] = []

    class Lines(NullView):
        def say(self, line: str) -> None:
            lines.append(line)

    with pytest.raises(UsageError, match="is already there"):
        train("no-such-file.jsonl", view=Lines(), output=str(tmp_path / "taken"))
    assert lines == [] and [p.name for p in (tmp_path / "taken").iterdir()] == ["notes.txt"]


def test_a_seed_that_torch_cannot_take_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="below 2\\^63"):
        make_config({"seed": 2**63})


@pytest.mark.parametrize(("copies", "said"), [(0, True), (1, True), (2, False)])
def test_the_first_lines_say_how_int8_is_read(
    tiny: Path, copies: int, said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless every block has a copy. And the lengths whose kernels are compiled ahead."""
    prepared = prepared_for_block(tiny, "auto", max_steps=4)
    loaded = with_adapter(prepared)
    monkeypatch.setattr(fast_paths, "unsupported", lambda *given: "")
    made: list[tuple[MemoryPlan, list[int]]] = []
    monkeypatch.setattr(fast_paths, "make_block_stack", lambda loaded, *given: made.append(given) or "the stack")
    monkeypatch.setattr(fast_paths, "describe_int8_path", lambda loaded: "int8 matmul without dequantisation")
    monkeypatch.setattr(planning, "_plan_memory", lambda *given: MemoryPlan(2, 2, copies, 768, 2**30))
    plan = plan_execution(prepared, loaded)
    assert install_kernels(loaded, plan).block_stack == "the stack"
    lines: list[str] = []

    class Lines(NullView):
        def say(self, line: str) -> None:
            lines.append(line.strip())

    say_plan(Lines(), prepared, plan, count_parameters(loaded.model), tiny)
    assert ("int8 matmul without dequantisation" in lines) is said
    memory, lengths = made[0]
    assert (memory.full, memory.middle, memory.copies) == (2, 2, copies)
    assert "kernels  packed sequences; fused-blocks, chunked-loss" in lines
    # Of the evaluation before the first step, then of the run's four steps; none twice, and none that would be taken in
    # pieces.
    order = batch_sampler(prepared.training.examples, plan.config)
    steps = [planning.BLOCK_ROWS.round_up(order.tokens(number)) for number in range(4)]
    sides = [prepared.held_out.examples, prepared.validation.examples]
    parts = [side[first : first + 64] for side in sides for first in range(0, len(side), 64)]
    looks = [batch.tokens_BT.numel() for part in parts for batch in pack(part, plan.packing)]
    assert min(steps) <= 768 < max(steps)
    assert lengths == list(dict.fromkeys([*looks, *(tokens for tokens in steps if tokens <= 768)]))


@pytest.mark.parametrize("stay", [0, 1])
def test_writing_is_fast_where_all_blocks_came_back_to_the_card(
    tiny: Path, stay: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in host memory until it is known how many have room on the card."""
    prepared = prepared_for_block(tiny, "auto", max_steps=2)
    prepared = replace(prepared, kernels=(*prepared.kernels, "fast-decode"))
    loaded = with_adapter(prepared)
    host = HostBlocks(torch.device("cpu"))
    for number, block in enumerate(bloom_model(loaded.model).h):
        host.take(number, "dense", block.self_attention.dense)  # type: ignore[arg-type,union-attr]
        host._hooks[number] = block.register_forward_pre_hook(lambda *_: None)  # that of its first linear
    prepared.base.host = host
    for name in ("block_stack_unsupported", "decoder_unsupported"):
        monkeypatch.setattr(fast, name, lambda *given: "")
    monkeypatch.setattr(fast_paths, "make_block_stack", lambda loaded, *given: "the stack")
    monkeypatch.setattr(planning, "_plan_memory", lambda *given: MemoryPlan(0, 2, 0, 768, 2**30, stay))
    assert "host memory" in fast_paths.unsupported("fast-decode", loaded)
    plan = plan_execution(prepared, loaded)
    assert ("fast-decode" in plan.kernels) is ("fast-decode" in plan.config.kernels) is (stay == 0)
    install_kernels(loaded, plan)
    assert len(host) == stay and decodes_fast(replace(loaded, kernels=ALL)) is (stay == 0)
    if stay:
        named = replace(prepared, requested_kernels="fused-blocks,fast-decode")
        with pytest.raises(
            UsageError, match="'fast-decode' is not supported here: weights of its blocks lie in host memory"
        ):
            plan_execution(named, loaded)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "no fast kernels"),
        (("flex-attention", "chunked-loss"), "flex-attention, chunked-loss"),
        (("fused-blocks", "chunked-loss"), "fused-blocks, chunked-loss"),
        (ALL, "fused-blocks, chunked-loss, fast-decode"),
    ],
)
def test_the_first_lines_name_what_runs(names: tuple[str, ...], said: str) -> None:
    assert describe_kernels(names) == said


def test_what_one_process_cannot_take_none_takes() -> None:
    """The order of a step's rows goes by it, and they share the rows; stages speak of the residual stream in one dtype.
    A card may be older than its neighbour."""

    class Others:
        def __init__(self, *without: str) -> None:
            self.answers = iter(name not in without for name in planning.RECORDED)

        def smallest(self, number: int) -> int:
            return min(number, int(next(self.answers)))

    kernels = ("fused-layers", "quantized-linear", "chunked-loss")
    assert planning._agreed(kernels, cast(Distributed, Others())) == kernels
    assert planning._agreed(kernels, cast(Distributed, Others("fused-layers"))) == kernels[1:]
