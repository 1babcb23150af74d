"""`report A B`: what two or more runs have in common, which figures may be set against each other, and which is better."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from florilegium.cli.main import main
from florilegium.cli.tables import print_comparison
from florilegium.errors import UsageError
from florilegium.evaluation.table import lookup
from florilegium.report import compare_runs, comparison_page, read_run
from florilegium.report.compare import metric_rows
from tests.report.made_up import write_run


def test_two_runs(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", loss=3.4)
    text = (b / "config.yaml").read_text()
    (b / "config.yaml").write_text(text.replace("lora_rank: 16", "lora_rank: 4"))
    found = compare_runs(read_run(a), read_run(b))
    assert found.settings == {"lora_rank": [16, 4]} and found.same_rows
    assert (
        found.metrics["eval_loss"] == [3.6, 3.4] and lookup(found.metrics["written_tags.micro_f1"][0], "value") == 0.5
    )
    page = comparison_page(read_run(a), read_run(b))
    assert page.count("<svg") == 4 and "held out A" in page and "rank" in page and "different rows" not in page
    other = write_run(tmp_path / "c", lambda what: f"other {what}")
    assert not compare_runs(read_run(a), read_run(other)).same_rows
    assert "different rows" in comparison_page(read_run(a), read_run(other))


def test_metrics_on_different_rows_are_not_compared(tmp_path: Path) -> None:
    """A loss on other rows is neither better nor lower; memory is memory."""
    folders = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", loss=3.4),
        write_run(tmp_path / "c", lambda what: f"other {what}", loss=3.2),
    ]
    for number, folder in enumerate(folders):
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "peak_memory_bytes": (9 - number) << 30}))

    def bold_and_deltas(*some: Path) -> dict[str, tuple[bool, bool]]:
        rows = metric_rows(compare_runs(*map(read_run, some)))
        return {r.name: (any(c.is_best for c in r.cells), any(c.delta for c in r.cells)) for r in rows}

    same, other = bold_and_deltas(*folders[:2]), bold_and_deltas(*folders[1:])
    # None of these has an interval: that another run would differ as much cannot be excluded.
    assert same["held-out loss"] == (False, True) and other["held-out loss"] == (False, False)
    assert same["peak memory"] == other["peak memory"] == (False, True)


def changed(folder: Path, file: str, **values: object) -> Path:
    """A run with other values in its manifest.json or config.yaml; `base__digest` is `digest` in `base`."""
    path = folder / file
    found = yaml.safe_load(path.read_text())
    for name, value in values.items():
        *places, last = name.split("__")
        place = found
        for one in places:
            place = place[one]
        place[last] = value
    path.write_text(json.dumps(found))
    return folder


@pytest.mark.parametrize(
    ("file", "name", "value", "said"),
    [
        ("config.yaml", "seed", 1, "--seed"),
        ("config.yaml", "held_out", 0.2, "--held-out"),
        ("config.yaml", "split_by", "random", "--split-by"),
        ("config.yaml", "validation", 0.5, "--validation"),
        ("config.yaml", "held_out_file", "test.csv", "--held-out-file"),
        ("config.yaml", "split", "train", "--split"),
        ("config.yaml", "loss_on", "tags", "--loss-on"),
        ("config.yaml", "template", "{quote} | {tags}", "--template"),
        ("config.yaml", "direction", "both", "--direction"),
        ("manifest.json", "base__tokenizer_digest", "another", "the tokenizer"),
    ],
)
def test_losses_of_other_rows_or_tokens_are_not_set_against_each_other(
    tmp_path: Path, file: str, name: str, value: object, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The digest is that of all rows: it does not say which of them were held out, nor what was counted."""
    one, other = write_run(tmp_path / "a"), changed(write_run(tmp_path / "b", loss=2.302), file, **{name: value})
    better = {"value": 0.2, "low": 0.15, "high": 0.25}
    path = other / "evaluation.json"
    found = json.loads(path.read_text())
    found["tuned"]["loss"] = found["tuned"]["perplexity"] = found["tuned"]["bits_per_byte"] = better
    path.write_text(json.dumps(found))
    comparison = compare_runs(read_run(one), read_run(other))
    assert comparison.same_rows and comparison.differs == (said,)
    cells = {row.name: row.cells for row in metric_rows(comparison)}
    for metric in ("held-out loss", "loss of all tokens, constants too", "perplexity of all tokens"):
        assert not any(cell.is_best or cell.delta for cell in cells[metric]), metric
    assert [cell.is_best for cell in cells["bits per byte, all tokens"]] == [False, True]
    sentence = f"Losses per token cannot be compared: the runs differ in {said}, "
    assert sentence in comparison_page(read_run(one), read_run(other))
    print_comparison(comparison)
    assert said in " ".join(capsys.readouterr().out.split())


def test_what_two_runs_of_one_split_lost_is_compared(tmp_path: Path) -> None:
    comparison = compare_runs(read_run(write_run(tmp_path / "a")), read_run(write_run(tmp_path / "b", loss=3.4)))
    assert comparison.differs == () and not comparison.warning
    cells = {row.name: row.cells for row in metric_rows(comparison)}["held-out loss"]
    assert cells[1].delta == "-0.200" and not any(cell.is_best for cell in cells), (
        "one figure each, without an interval"
    )


def test_several_runs_have_a_colour_each_and_differences_from_the_first(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, loss=loss) for name, loss in (("a", 3.6), ("b", 3.4), ("c", 3.9))]
    (runs[2] / "evaluation.json").unlink()
    records = [read_run(run) for run in runs]
    rows = {row.name: row for row in metric_rows(compare_runs(*records))}
    losses = rows["held-out loss"].cells
    assert [cell.text for cell in losses] == ["3.600", "3.400", "3.900"]
    assert [cell.delta for cell in losses] == ["", "-0.200", "+0.300"] and not any(c.is_best for c in losses)
    f1 = rows["micro F1"].cells  # the same figures twice, with intervals: neither is better
    assert f1[1].delta == f1[2].text == f1[2].delta == "" and not any(cell.is_best for cell in f1)
    page = comparison_page(*records)
    assert page.count("<svg") == 4 and f"Not evaluated yet: <code>florilegium evaluate {runs[2]}" in page
    assert page.count('class="key line-2 dashed">training C') == 1 and 'class="key line-2">held out C' in page
    assert page.count("<blockquote>") % 3 == 0 and page.count("<blockquote>") > 0
    with pytest.raises(UsageError, match="at most 8"):
        compare_runs(*records * 3)


def test_what_looks_alike_is_no_difference_and_what_one_run_has_is_left_out(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in "ab"]
    (runs[1] / "evaluation.json").unlink()
    manifest = json.loads((runs[1] / "manifest.json").read_text())
    memory = manifest["peak_memory_bytes"] - 1000  # of 900 MiB
    (runs[1] / "manifest.json").write_text(json.dumps({**manifest, "peak_memory_bytes": memory}))
    comparison = compare_runs(*map(read_run, runs))
    rows = {row.name: row.cells for row in metric_rows(comparison)}
    assert [(cell.text, cell.delta, cell.is_best) for cell in rows["peak memory"]] == [("0.88 GiB", "", False)] * 2
    assert "micro F1" not in rows and "held-out loss" in rows and comparison.not_evaluated == (str(runs[1]),)


def test_a_comparison_is_never_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        write_run(tmp_path / name)
    with open(tmp_path / "b" / "config.yaml", "a") as config:
        config.write("max_steps: 3\n")
    assert main(["report", "a", "b"]) == main(["report", "a", "b", "c"]) == 0
    assert (tmp_path / "comparison.html").read_text().count('<th scope="col">C') == 0
    assert '<th scope="col">C' in (tmp_path / "comparison-2.html").read_text()
    printed = capsys.readouterr().out
    assert (
        "held-out loss" in printed and printed.endswith("comparison-2.html\n") and re.search("max_steps +– +3", printed)
    )
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)) or True)
    assert main(["report", "a", "b", "--open"]) == main(["report", "a", "--open", "--json"]) == 0
    pages = [tmp_path / "comparison-3.html", tmp_path / "a" / "report.html"]
    assert opened == [page.resolve().as_uri() for page in pages] and '"opened": true' in capsys.readouterr().out
    assert main(["report", "a", "b", "--output", "comparison.html"]) == 2
    assert "is there already" in capsys.readouterr().err
