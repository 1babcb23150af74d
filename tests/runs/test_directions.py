"""`train --direction both`: trained, kept, evaluated, asked by tags, trained further; and today's runs as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import florilegium
from florilegium.cli.main import main
from florilegium.errors import UsageError
from florilegium.runs.finish import Trained
from tests.tiny import PAGES


@pytest.fixture(scope="module")
def quotes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "quotes.jsonl"
    tags = [["sea"], ["rain", "home"], []]
    rows = [
        {"quote": f"saying {i * 37 % 101} of {['wind', 'tide', 'salt'][i % 3]}", "tags": tags[i % 3]} for i in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def trained(tiny: Path, quotes: Path, run: Path, **settings: Any) -> Trained:
    own = {"max_steps": 3, "split_by": "random", "verdict_texts": 4, **settings}
    return florilegium.train(quotes, model=str(tiny), output=str(run), **own)


@pytest.fixture(scope="module")
def both(tiny: Path, quotes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "both"
    assert len(trained(tiny, quotes, run, direction="both").verdict_rows) == 4
    return run


def test_a_run_keeps_its_direction(both: Path) -> None:
    assert "direction: both" in (both / "config.yaml").read_text()
    manifest = json.loads((both / "manifest.json").read_text())
    assert (manifest["direction"], manifest["training_rows"], manifest["held_out_rows"]) == ("both", 53, 7)
    facts = json.loads((both / "adapter" / "florilegium.json").read_text())
    assert (facts["template"], facts["direction"]) == ("{quote} ->: {tags}", "both")
    assert florilegium.load(both).template.direction == "both"
    moved = florilegium.load(both / "adapter")
    assert moved.template.direction == "both" and moved.prompt_text("Be kind.", tags=True) == "Be kind. ->:"


def test_quotes_are_asked_for_by_their_tags(both: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = florilegium.load(both).about(["sea", " rain"], 2, seed=1)
    assert result.asked and len(result.rows) == 2 and all(r.text.startswith("sea, rain :<-") for r in result.rows)
    assert all(row.quote is not None and row.quote["tags"] == ["sea", "rain"] for row in result.rows)
    assert main(["generate", "--run", str(both), "--about", "sea", "-n", "1", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["tags"] == ["sea"] and "about sea, written for these tags" in printed.err


def test_a_run_of_one_way_draws_and_chooses(tiny: Path, quotes: Path, tmp_path: Path) -> None:
    trained(tiny, quotes, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "adapter" / "florilegium.json").read_text())
    assert "direction" not in facts  # as it was before there was a choice
    assert not florilegium.load(tmp_path / "run").about(["sea"], 1, seed=1).asked


def test_tags_first_alone(tiny: Path, quotes: Path, tmp_path: Path) -> None:
    trained(tiny, quotes, tmp_path / "run", direction="tags")
    tuned = florilegium.load(tmp_path / "run")
    assert tuned.template.text == "{tags} :<- {quote}" and tuned.about(["sea"], 1, seed=1).asked
    with pytest.raises(UsageError, match="trained tags first"):
        tuned.generate("Be kind.", tags=True)
    found = florilegium.evaluate(tmp_path / "run", generations=2, general=PAGES)
    assert found["tuned"]["tags_first"]["own_tags"] is None
    # The quote part is the quote's although it stands behind; of rows without tags there is none to ask by.
    assert found["tuned"]["quote"]["tokens"] > found["tuned"]["tags_first"]["loss"]["tokens"] > 50


def test_evaluation_counts_both_ways(both: Path) -> None:
    found = florilegium.evaluate(both, generations=2, base=True, general=PAGES)
    for side in ("tuned", "base"):
        assert found[side]["written_tags"] is not None and found[side]["tags_first"]["loss"]["tokens"] > 0
    assert 0 <= found["tuned"]["tags_first"]["stop_rate"]["value"] <= 1
    page = (both / "report.html").read_text()
    assert "Quotes for held-out tags" in page and "and with its tags first" in page


def test_direction_is_kept_when_trained_further(both: Path, tiny: Path, quotes: Path, tmp_path: Path) -> None:
    for start, place in ((both, "run"), (both / "adapter", "adapter")):
        florilegium.train(quotes, start_from=str(start), output=str(tmp_path / place), max_steps=1, verdict_texts=0)
        assert florilegium.load(tmp_path / place).template.direction == "both"
    stopped = tmp_path / "stopped"
    trained(tiny, quotes, stopped, direction="both", verdict_texts=0)
    (stopped / "adapter").rename(tmp_path / "aside")
    with pytest.raises(UsageError, match="--direction cannot change when resuming"):
        florilegium.resume(stopped, direction="quote")


def test_a_pass_shows_each_row_both_ways(tiny: Path, quotes: Path, tmp_path: Path) -> None:
    one = trained(tiny, quotes, tmp_path / "one", max_steps=None, epochs=1, verdict_texts=0)
    two = trained(tiny, quotes, tmp_path / "two", max_steps=None, epochs=1, direction="both", verdict_texts=0)
    assert (one.figures["steps"], two.figures["steps"]) == (4, 6)  # 53 rows, and the 35 or so that have tags
