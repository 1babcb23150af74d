"""A run that ends well says so; one that does not says what to type."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import florilegium
from florilegium.cli.parser import build_parser
from florilegium.config import TrainConfig, dump_config, make_config
from florilegium.data import Quote, Template
from florilegium.errors import ModelError, UsageError
from florilegium.generation import Generated
from florilegium.runs.start_from import inherited_settings
from florilegium.runs.verdict import filled_share, judge
from florilegium.training import RunLength, choose_epochs

TEMPLATE = Template.from_text("{quote} ->: {tags}")
SCHEDULE = RunLength(num_steps=51, steps_per_epoch=17, evaluate_every=13, save_every=13)


def texts(good: int, of: int = 20, *, finished: int | None = None, copied: int = 0) -> list[Generated]:
    ended = good if finished is None else finished
    return [
        Generated(
            "text",
            {"quote": "Be kind.", "tags": ["a"] if i < good else []} if i < good else None,
            i < ended,
            None if i >= good else i >= copied,
        )
        for i in range(of)
    ]


@pytest.mark.parametrize(
    ("rows", "works", "sentence"),
    [
        (texts(20), True, "20 of 20 have tags, 20 end cleanly, 0 copied: it works"),
        (texts(18, copied=2), True, "18 of 20 have tags, 18 end cleanly, 2 copied: it works"),
        (texts(3), False, "only 3 of 20 have tags: train longer"),
        (texts(0), False, "none of 20 have tags: train longer"),
        (texts(20, finished=14), False, "only 14 of 20 end cleanly: train longer"),
        (
            texts(20, copied=3),
            False,
            "3 of 20 copied from training: take more rows or fewer passes, or leave copies out",
        ),
    ],
)
def test_the_verdict_is_what_a_person_would_say(rows: list[Generated], works: bool, sentence: str) -> None:
    verdict = judge(rows, TEMPLATE, SCHEDULE, "runs/my quotes")
    assert (verdict.works, verdict.sentence) == (works, sentence)
    assert ("florilegium" in verdict.advice) is not works
    if "train longer" in sentence:  # 400 steps of 17 a pass are 24 passes; more than 20 repeat the rows
        assert verdict.advice == "florilegium train --from 'runs/my quotes' --epochs 20"


def test_a_run_that_changed_its_base_is_trained_anew() -> None:
    """`--from` refuses what --lora-init pissa and olora made: what is advised can be typed."""
    verdict = judge(texts(3), TEMPLATE, SCHEDULE, "runs/my quotes", config_file="runs/my quotes/config.yaml")
    assert verdict.advice == (
        "florilegium train --config 'runs/my quotes/config.yaml' --output 'runs/my quotes-longer' --epochs 20"
    )
    flags = build_parser().parse_known(shlex.split(verdict.advice)[1:])
    assert (flags.epochs, flags.output) == (20, "runs/my quotes-longer")


def of_some_without_tags(good: int, empty: int, of: int = 20) -> list[Generated]:
    """As `texts`, and of those that have no tags `empty` hold the template."""
    rows = texts(good, of, finished=of)
    return [*rows[:good], *[replace(row, quote={"quote": "Be kind.", "tags": []}) for row in rows[: -good or of][:empty]],
            *rows[good + empty :]]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "share", "works", "sentence"),
    [
        (of_some_without_tags(14, 6), 0.7, True, "14 of 20 have tags (70% of the training rows do), 20 end cleanly"),
        (of_some_without_tags(14, 6), 1.0, False, "only 14 of 20 have tags: train longer"),
        (of_some_without_tags(5, 15), 0.7, False, "only 5 of 20 have tags (70% of the training rows do): train longer"),
        (of_some_without_tags(5, 0), 0.2, False, "only 5 of 20 hold the template: train longer"),
        (of_some_without_tags(0, 20), 0.0, True, "0 of 20 have tags (0% of the training rows do), 20 end cleanly"),
        (of_some_without_tags(20, 0), 0.999, True, "20 of 20 have tags, 20 end cleanly"),
    ],
)
def test_tags_are_asked_for_as_often_as_the_rows_have_them(
    rows: list[Generated], share: float, works: bool, sentence: str
) -> None:
    verdict = judge(rows, TEMPLATE, SCHEDULE, "runs/x", share)
    assert verdict.works is works and verdict.sentence.startswith(sentence), verdict.sentence


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.7, 0.95])
def test_a_model_that_imitates_its_rows_is_seldom_told_to_train_longer(share: float) -> None:
    """20 texts are a draw: the chance that as few have tags as would be too few is below one in twenty."""
    few = sum(
        math.comb(20, good) * share**good * (1 - share) ** (20 - good)
        for good in range(21)
        if not judge(of_some_without_tags(good, 20 - good), TEMPLATE, SCHEDULE, "runs/x", share).works
    )
    assert few < 0.05


def test_the_share_is_that_of_rows_with_every_list_filled() -> None:
    rows: list[Quote] = [{"quote": "a", "tags": ["x"]}, {"quote": "b", "tags": []}]
    assert filled_share(TEMPLATE, rows) == 0.5
    assert filled_share(TEMPLATE, []) == filled_share(Template.from_text("{quote}", ()), rows) == 1.0


def test_a_template_without_lists_is_judged_by_its_form() -> None:
    rows = [Generated("t", {"quote": "a"}, True, True)] * 20
    verdict = judge(rows, Template.from_text("{quote}", ()), SCHEDULE, "runs/x")
    assert verdict.works and "20 of 20 have the template's form" in verdict.sentence


@pytest.mark.parametrize(("rows", "passes"), [(1080, 3.0), (272, 12.0), (16, 20.0), (1, 20.0), (100_000, 3.0)])
def test_few_rows_are_passed_more_often(rows: int, passes: float) -> None:
    assert choose_epochs(rows, TrainConfig(data="quotes.csv")) == passes


def test_of_the_bundled_sayings_the_steps_alone_are_enough() -> None:
    assert choose_epochs(2250, TrainConfig()) == 1.5
    assert choose_epochs(2250, TrainConfig(data="quotes.csv")) == 3.0


def test_auto_is_the_default_and_what_is_written(tiny: Path, tmp_path: Path) -> None:
    assert make_config({"epochs": "auto"}).epochs is None
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"quote": "q {i} is kind", "tags": ["a"]}}\n' for i in range(8)))
    trained = florilegium.train(
        tmp_path / "rows.jsonl", model=str(tiny), output=str(tmp_path / "run"), held_out=0.0, verdict_texts=2
    )
    assert "epochs: 20.0" in (tmp_path / "run" / "config.yaml").read_text()
    assert trained.figures["steps"] == 20
    written = json.loads((tmp_path / "run" / "manifest.json").read_text())["verdict"]
    assert written["texts"] == 2 and written["sentence"] == trained.verdict.sentence  # type: ignore[union-attr]
    assert written["sentence"] in (tmp_path / "run" / "adapter" / "README.md").read_text()
    assert written["sentence"] in (tmp_path / "run" / "report.html").read_text()


@pytest.fixture(scope="module")
def first_run(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("from")
    (folder / "rows.jsonl").write_text("".join(f'{{"quote": "q {i} is kind", "tags": ["a"]}}\n' for i in range(40)))
    (folder / "new.jsonl").write_text("".join(f'{{"quote": "n {i} is new", "tags": ["b"]}}\n' for i in range(40)))
    settings = {"model": str(tiny), "output": str(folder / "first"), "lora_rank": 4, "verdict_texts": 0, "seed": 3}
    florilegium.train(folder / "rows.jsonl", max_steps=3, **settings)  # type: ignore[arg-type]
    return folder


def test_a_run_is_trained_further(first_run: Path, tmp_path: Path) -> None:
    """Its adapter is where the new run begins, its settings are those of the new one, and nothing of it is touched."""
    before = (first_run / "first" / "adapter" / "adapter_model.safetensors").read_bytes()
    old = json.loads((first_run / "first" / "manifest.json").read_text())
    again = florilegium.train(
        start_from=str(first_run / "first"), output=str(tmp_path / "second"), max_steps=2, verdict_texts=0
    )
    assert again.figures["eval_loss_before"] == pytest.approx(old["eval_loss"], abs=1e-6)
    assert again.figures["seed"] == 3 and again.figures["data"] == old["data"]
    assert "lora_rank: 4" in (tmp_path / "second" / "config.yaml").read_text()
    assert (first_run / "first" / "adapter" / "adapter_model.safetensors").read_bytes() == before


def test_the_run_it_started_from_is_kept_by_name_and_not_needed_to_resume(
    first_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`latest` names another run tomorrow; and the run may be gone once a checkpoint has the weights."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(first_run / "first", tmp_path / "runs" / "old")
    assert inherited_settings({"start_from": "latest"})["start_from"] == str(Path("runs") / "old")
    settings = {"start_from": "latest", "output": str(tmp_path / "new"), "save_every": 1, "verdict_texts": 0}
    whole = florilegium.train(max_steps=3, **settings)  # type: ignore[arg-type]
    weights = (whole.directory / "adapter" / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(whole.directory / "adapter")
    shutil.rmtree(whole.directory / "checkpoints" / "step-00000003")
    shutil.rmtree(tmp_path / "runs")
    resumed = florilegium.resume(str(whole.directory))
    assert (resumed.directory / "adapter" / "adapter_model.safetensors").read_bytes() == weights


def test_other_rows_are_read_by_their_own_columns(first_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(first_run / "first", run)
    with (run / "config.yaml").open("a") as file:
        file.write("text_column: Zitat\n")
    assert inherited_settings({"start_from": str(run)})["text_column"] == "Zitat"
    assert "text_column" not in inherited_settings({"start_from": str(run), "data": "other.csv"})


def test_a_finished_run_with_more_passes_is_a_new_run_from_it(first_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is finished.*--from"):
        florilegium.resume(str(first_run / "first"))
    longer = florilegium.resume(str(first_run / "first"), max_steps=1, output=str(tmp_path / "longer"))
    assert longer.directory == tmp_path / "longer" and longer.figures["steps"] == 1


def test_an_adapter_alone_can_be_trained_further_on_rows(first_run: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for file in (first_run / "first" / "adapter").iterdir():
        (adapter / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UsageError, match="does not say on which rows"):
        florilegium.train(start_from=str(adapter))
    trained = florilegium.train(
        first_run / "new.jsonl", start_from=str(adapter), output=str(tmp_path / "run"), max_steps=1, verdict_texts=0
    )
    assert trained.figures["data"]["source"].endswith("new.jsonl") and trained.figures["steps"] == 1


@pytest.mark.parametrize(
    "changed", [{"lora_rank": 8}, {"bits": 4}, {"template": "{quote} | {tags}"}, {"model": "seedling"}]
)
def test_what_makes_the_adapter_cannot_change(first_run: Path, changed: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="cannot change with --from"):
        inherited_settings({"start_from": str(first_run / "first"), **changed})


def test_an_adapter_that_changed_its_base_is_refused(first_run: Path, tmp_path: Path) -> None:
    """PiSSA subtracts from the base what it puts into A and B: on another start those weights mean something else."""
    run = tmp_path / "run"
    (run / "adapter").mkdir(parents=True)
    (run / "adapter" / "adapter_config.json").write_text("{}")
    written = make_config({"model": "seedling", "bits": 16, "lora_init": "pissa"})
    (run / "config.yaml").write_text(dump_config(written))
    with pytest.raises(ModelError, match="--lora-init pissa"):
        inherited_settings({"start_from": str(run)})
