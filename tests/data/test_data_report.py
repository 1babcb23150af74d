"""data.json, written and read again; and that of the run that 556613a made, which lacks what came later."""

from __future__ import annotations

import json
from pathlib import Path

from florilegium.data import finding_sentences, make_split, read_rows, report_on
from florilegium.data.data_report import DataReport

OLD = Path(__file__).parent.parent / "runs" / "run_of_556613a" / "data.json"


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    rows = [{"quote": f"Saying {i} is here.", "tags": ["life", "a|b"], "author": f"Writer {i % 3},"} for i in range(30)]
    rows[4] |= {"quote": "donâ€™t <b>go</b>", "tags": ["unknown"]}
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    found = read_rows(tmp_path / "q.jsonl", skip_bad_rows=True)
    report = report_on(found, make_split(found.quotes, 0.1), 0.1, 0, "near-duplicates")
    assert report.findings.suspicious_tags and report.findings.authors and len(report.skipped_rows) == 1
    plain = report.to_json()
    assert json.loads(json.dumps(plain)) == plain and DataReport.from_json(plain) == report
    assert list(plain)[:3] == ["notes", "source", "digest"] and list(plain)[-1] == "findings"


def test_rows_without_tags_and_authors_too(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("One line of it.\nAnother line.\nAnd a third one.\n")
    rows = read_rows(tmp_path / "q.txt", "{quote}")
    report = report_on(rows, make_split(rows.quotes, 0.1), 0.1, 0, "random")
    assert report.tags is None and report.findings.authors is None and report.findings.suspicious_tags is None
    assert DataReport.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_that_of_an_earlier_version_is_read() -> None:
    report = DataReport.from_json(json.loads(OLD.read_text()))
    assert (report.training_rows, report.held_out_rows, report.validation_rows) == (16, 2, 0)
    assert report.notes == report.skipped_rows == [] and report.findings.dirt == {}
    assert report.findings.suspicious_tags and report.findings.suspicious_tags.several_in_one is None
    assert ("near duplicates", "9 pairs in 9 clusters, 18 rows") in finding_sentences(report.findings)
