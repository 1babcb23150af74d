"""`evaluate` on a short run of the seedling: every figure of the report, on disk too, and the mistakes people make."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import florilegium
from florilegium.cli.main import main
from florilegium.cli.tables import print_evaluation
from florilegium.data import read_rows
from florilegium.errors import DataError, ModelError, UsageError
from florilegium.evaluation import NoveltyIndex
from florilegium.evaluation.headline import NO_TAGS, headline
from florilegium.evaluation.table import LINES, lookup, table
from florilegium.runs import known_tags
from florilegium.runs.evaluate import evaluate, read_eval_data
from florilegium.seedling import FOLDER as SEEDLING
from tests.tiny import PAGES

DOCS = Path(__file__).parents[2] / "docs" / "how-to"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "short"
    florilegium.train(
        "sample",
        model="seedling",
        max_steps=30,
        batch_rows=8,
        learning_rate=4e-3,
        evaluate_every=30,
        held_out=0.05,
        verdict_texts=0,
        output=str(folder),
    )
    return folder


@pytest.fixture(scope="module")
def report(run: Path) -> dict[str, Any]:
    return evaluate(run, base=True, generations=12, general=PAGES)


def test_every_line_of_the_table_has_both_sides(report: dict[str, Any]) -> None:
    for line in (line for lines in LINES.values() for line in lines):
        if line.path.startswith("known_tags."):  # only when they are asked for
            assert lookup(report["tuned"], line.path) is None
            continue
        if line.path.startswith("tags_first."):  # of runs that were trained so: test_directions.py
            assert lookup(report["tuned"], line.path) is None
            continue
        for side in ("base", "tuned"):
            figure = lookup(report[side], line.path)
            if side == "base" and ("relevance" in line.path or line.path.endswith("unseen")):
                continue  # the untuned model may write no tags at all
            assert figure is not None, (side, line.path)
            if isinstance(figure, dict):
                assert figure["low"] <= figure["value"] <= figure["high"], line.path
    groups = table(report)
    assert len(groups) == 4 and all(cells.tuned for lines in groups.values() for cells in lines)


def test_tuning_shows(report: dict[str, Any]) -> None:
    base, tuned = report["base"], report["tuned"]
    assert (
        tuned["loss"]["high"] < base["loss"]["low"] and tuned["tags"]["loss"]["value"] < base["tags"]["loss"]["value"]
    )
    assert tuned["form"]["format_rate"]["value"] > base["form"]["format_rate"]["value"]
    controls = report["controls"]
    assert (
        controls["copies_instrument"]["planted_found"] == 1.0 and controls["copies_instrument"]["shuffled_found"] == 0.0
    )
    assert (
        controls["held_out"]["relevance"]["wins"]["value"]
        > 0.6
        > controls["held_out"]["relevance"]["shuffled"]["wins"]["value"]
    )
    assert report["forgetting"]["before"]["loss"]["value"] != report["forgetting"]["after"]["loss"]["value"]
    assert report["leaks"] == 0 and report["general"] == "pages.txt"


def test_baselines_stand_beside_the_tags(report: dict[str, Any]) -> None:
    """What the paired sentence says is what the table shows, and what reads the text beats what does not by far."""
    controls, comparison = report["controls"], report["baseline_comparison"]
    named = {"frequent_tags": controls["frequent_tags"], **controls["baselines"]}
    f1 = {key: scores["micro_f1"]["value"] for key, scores in named.items()}
    assert min(f1["naive_bayes"], f1["nearest_rows"]) > f1["frequent_tags"] + 0.4
    tuned = report["tuned"]["written_tags"]
    assert comparison["best"] == max(f1, key=lambda key: f1[key])
    for metric in ("micro_f1", "precision_at_1", "precision_at_3"):
        change = tuned[metric]["value"] - named[comparison["best"]][metric]["value"]
        assert comparison[metric]["value"] == pytest.approx(change), metric
    assert named[comparison["best"]]["name"] in comparison["sentence"]
    own = controls["own_tags"]
    assert tuned["precision_at_3_ceiling"] == own["precision_at_3"] < 1 and own["unseen"]["value"] < 0.1
    by_rows = report["tuned"]["relevance_by_rows"]
    assert by_rows["wins"]["low"] > by_rows["shuffled"]["wins"]["high"]
    assert controls["held_out"]["relevance_by_rows"]["wins"]["value"] > 0.8
    assert controls["retrieved"]["copies"]["copied"]["value"] == 1.0, "a row that was looked up is a copy"


def test_held_out_loss_is_the_one_that_training_saw(run: Path, report: dict[str, Any]) -> None:
    trained = json.loads((run / "manifest.json").read_text())
    assert report["held_out_rows"] == trained["held_out_rows"] - trained["validation_rows"]
    assert 0 < report["validation_rows"] == trained["validation_rows"]
    assert (
        f"the {report['held_out_rows']} test rows reported here played no part in it" in report["selection"]["sentence"]
    )
    # Training computes in bfloat16 where the processor does.
    assert report["tuned"]["loss"]["value"] == pytest.approx(trained["eval_loss"], abs=0.01)
    assert report["base"]["loss"]["value"] == pytest.approx(trained["eval_loss_before"], abs=0.01)
    assert json.loads((run / "evaluation.json").read_text()) == json.loads(json.dumps(report))


def test_rows_are_a_limit_of_validation_rows_too(run: Path) -> None:
    whole, some = read_eval_data(run), read_eval_data(run, most_rows=20)
    assert len(some.held_out) <= 20 < len(whole.held_out) and len(some.validation) <= 20 < len(whole.validation)
    assert [row for row in whole.validation if row in some.validation] == some.validation


def test_figures_that_cannot_be_saved_are_shown(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "evaluation.json").unlink(missing_ok=True)
    (copy / "evaluation.json").mkdir()  # no file can take its place, whoever asks
    arguments = ["evaluate", str(copy), "--rows", "2", "--generations", "1", "--general", str(PAGES), "--json"]
    assert main(arguments) == 5
    printed, told = capsys.readouterr()
    assert json.loads(printed)["held_out_rows"] == 2
    assert "cannot write" in told and "copy the run" in told and "--output" not in told and "resume" not in told


@pytest.mark.slow  # 80 tags of 132 rows; tests/generation/test_tag_scores.py holds the scores
def test_known_tags_are_ranked_when_asked(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    asked, tags_of = [], known_tags.known_tags_of
    monkeypatch.setattr(known_tags, "known_tags_of", lambda *given: asked.append(given) or tags_of(*given))
    found = evaluate(copy, rows=6, generations=1, general=PAGES, known_tags=True)
    assert len(asked) <= 12, "6 held-out and 6 validation rows"
    ranked = found["tuned"]["known_tags"]
    assert ranked["tags"] > 40 and ranked["threshold_chosen_on"] == "validation rows"
    assert ranked["written"]["unseen"]["value"] == ranked["written"]["repeated"]["value"] == 0.0
    assert 0 < ranked["average_precision"]["value"] < 1 and ranked["at_threshold"]["tags_a_row"]["value"] >= 1
    for scores in found["controls"]["baselines"].values():
        assert 0.3 < scores["known_tags"]["average_precision"]["value"] <= 1


def test_fewer_rows_and_the_same_seed(run: Path, report: dict[str, Any], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    found = evaluate(copy, rows=10, generations=12, general=PAGES)
    assert found["base"] is None and found["held_out_rows"] <= 10
    assert found["tuned"]["form"] == report["tuned"]["form"]
    assert found["tuned"]["copies"] == report["tuned"]["copies"]


def test_the_screen(
    report: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    print_evaluation(report, full=True)
    shown = " ".join(capsys.readouterr().out.split())  # a cell may be broken anywhere
    for word in (
        "micro F1",
        "most frequent tags",
        "naive Bayes",
        report["baseline_comparison"]["sentence"],
        "distinct-2",
        "100% of 200 planted copies found, 0% of shuffled",
        "General text",
    ):
        assert word in shown
    print_evaluation({**report, "base": None}, full=True)
    assert "before " in capsys.readouterr().out, "what was forgotten needs both sides, asked or not"


@pytest.mark.parametrize("width", [60, 80, 104])
@pytest.mark.parametrize("has_base", [True, False])
def test_no_label_is_broken_and_no_line_too_long(
    report: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    has_base: bool,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_evaluation(report if has_base else {**report, "base": None}, full=True)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    labels = [cells.line.name for cells in sum(table(report).values(), [])]
    shown = [line[2:].split("   ")[0].strip() for line in lines if line.startswith("  ") and line[2:3].strip()]
    assert len(labels) > 30 and all(any(line.startswith(label) for line in shown) for label in labels)
    assert [line.split("  ")[0] for line in lines if line[:1].strip()][:2] == ["Words", "Tags"], (
        "what it comes to stands first"
    )


@pytest.mark.parametrize("width", [60, 100])
def test_without_full_the_screen_holds_what_matters(
    report: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_evaluation(report, full=False)
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= width
    assert [line.split("  ")[0] for line in lines if line[:1].strip()][:2] == ["Words", "Tags"]
    folded = " ".join(shown.split())
    assert report["baseline_comparison"]["sentence"] in folded and "report.html, or here with --full" in folded
    assert "distinct-2" not in shown and "Selection" not in shown


def test_the_headline_holds_the_tables_figures(report: dict[str, Any]) -> None:
    found = dict(headline(report))
    assert found["Words"].startswith(
        f"held-out loss per token {report['tuned']['parts']['words']['loss']['value']:.3f} "
    )
    best = max(
        (report["controls"]["baselines"][name]["micro_f1"]["value"], name) for name in ("naive_bayes", "nearest_rows")
    )
    assert f"{best[0]:.3f}" in found["Tags"] and "(base " in found["Form"] and "General text" in found
    without = {**report, "tuned": {**report["tuned"], "written_tags": None}}
    assert dict(headline(without))["Tags"] == NO_TAGS


def test_mistakes(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    rows = read_rows("sample").quotes
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_eval_data(moved, str(tmp_path / "rows.jsonl")).held_out == read_eval_data(run).held_out
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    with pytest.raises(DataError, match="--data"):
        read_eval_data(moved, str(tmp_path / "rows.jsonl"))
    with pytest.raises(UsageError, match="below 1"):
        evaluate(run, generations=0)
    with pytest.raises(ModelError, match="not a run"):
        evaluate(moved / "adapter")
    config = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(config.replace("held_out: 0.05", "held_out: 0.0"))
    with pytest.raises(DataError, match="has no held-out rows"):
        read_eval_data(moved)


def test_the_recipe_for_lm_eval_writes_the_held_out_rows(run: Path, tmp_path: Path) -> None:
    """What docs/how-to/lm-eval.md relies on: its snippet, its task file, and an adapter that PEFT loads on the base's
    folder."""
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "lm-eval.md").read_text(), re.S)
    done = subprocess.run([sys.executable, "-c", code, str(run)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "held_out.jsonl").read_text().splitlines()
    assert len(lines) == len(read_eval_data(run).held_out) and all(
        " ->: " in json.loads(line)["text"] for line in lines
    )
    task = yaml.safe_load((DOCS / "lm_eval" / "florilegium_held_out.yaml").read_text())
    assert task["dataset_kwargs"]["data_files"][task["test_split"]] == "held_out.jsonl"
    assert "--tasks " + task["task"] in (DOCS / "lm-eval.md").read_text()


@pytest.mark.slow
def test_lm_eval_itself(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'lm-eval[hf]'")
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "lm-eval.md").read_text(), re.S)
    subprocess.run([sys.executable, "-c", code, str(run)], cwd=tmp_path, check=True)
    bits = []
    for adapter in ("", f",peft={run}/adapter"):
        command = [
            sys.executable,
            "-m",
            "lm_eval",
            "--model",
            "hf",
            "--model_args",
            f"pretrained={SEEDLING}{adapter},dtype=float32",
        ]
        command += ["--include_path", str(DOCS / "lm_eval"), "--tasks", "florilegium_held_out", "--device", "cpu"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        bits += [float(x) for x in re.findall(r"bits_per_byte\s*\|[^|]*\|\s*([\d.]+)", done.stdout)]
    assert len(bits) == 2 and bits[1] < bits[0] - 0.2


def test_novel_only_redraws_copies_and_leaves_out_what_goes_on_copying(run: Path) -> None:
    tuned = florilegium.load(run)
    first = tuned.generate("The sea", n=6, seed=3, max_new_tokens=40)
    parsed = [row for row in first if row.quote]
    assert parsed
    tuned.novelty = NoveltyIndex.from_texts([str(row.quote["quote"]) for row in parsed if row.quote])
    assert not any(row.novel for row in tuned.generate("The sea", n=6, seed=3, max_new_tokens=40))
    new = tuned.generate("The sea", n=6, seed=3, max_new_tokens=40, novel_only=True)
    assert new and all(row.novel for row in new) and not {row.text for row in new} & {row.text for row in parsed}
    assert new == tuned.generate("The sea", n=6, seed=3, max_new_tokens=40, novel_only=True)
    with pytest.raises(UsageError, match="temperature 0"):
        tuned.generate("The sea", novel_only=True, temperature=0.0)
    tuned.novelty = None
    with pytest.raises(UsageError, match="training n-gram index"):
        tuned.generate("The sea", novel_only=True)
