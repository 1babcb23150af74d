"""The numbers of `describe`, counted by hand on a few rows and by other means on the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from florilegium.data import describe, is_broken, read_rows
from florilegium.data.data_report import Found, Lengths, Statistics


def test_a_few_rows(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    tags = [["a", "b"], ["a"], [], ["c"]]
    texts = ["One two three.", "Four", "“", "donâ€™t"]
    rows = [json.dumps({"quote": text, "tags": own}) for text, own in zip(texts, tags, strict=True)]
    path.write_text("\n".join([*rows, rows[0], '{"quote": 1, "tags": []}', "{", "x", '{"quote": 1, "tags": []}']))
    seen = describe(read_rows(path, skip_bad_rows=True))
    plain = seen.to_json()
    assert json.loads(json.dumps(plain)) == plain and Statistics.from_json(plain) == seen
    assert (seen.num_rows, seen.num_read, seen.duplicates) == (4, 9, 1)
    assert plain["skipped"] == {
        "rows": 4,
        "causes": {"column 'quote' holds a number, expected text": 2, "invalid JSON": 2},
        "places": ["q.jsonl:6", "q.jsonl:7", "q.jsonl:8", "q.jsonl:9"],
    }
    assert plain["words"] == {"min": 1, "median": 1, "p90": 3, "p99": 3, "max": 3}
    assert plain["characters"] == {"min": 1, "median": 4, "p90": 14, "p99": 14, "max": 14}
    assert plain["tags"] == {
        "column": "tags",
        "distinct": 3,
        "once": 2,
        "rows_without": 1,
        "most_frequent": [["a", 2], ["b", 1], ["c", 1]],
    }
    assert plain["broken_encoding"] == {"rows": 1, "places": ["q.jsonl:4"]}
    assert plain["very_short"] == {"rows": 1, "places": ["q.jsonl:3"]}


def test_a_template_without_a_list(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"quote": "a b", "author": "c"}\n')
    seen = describe(read_rows(tmp_path / "q.jsonl", "{quote} -- {author}"))
    assert seen.tags is None and seen.list_columns == []


@pytest.mark.parametrize(
    "text",
    [
        "café",
        "déjà vu — “naïve”",
        "Ça va… «À côté»",
        "Привет",
        "أحلام",
        "日本語",
        "😀👩‍👩‍👧",
        "Ελλάδα”",
        "Łódź",
        "naïve\u200b",
    ],
)
def test_mojibake_is_found_and_good_text_is_not(text: str) -> None:
    assert not is_broken({"quote": text, "tags": []})
    bent = text.encode().decode("cp1252", "replace")
    assert is_broken({"quote": bent, "tags": []}) and is_broken({"quote": "a", "tags": [bent]})


@pytest.mark.parametrize("text", ["« Le café\u00a0»", "“LIBERTÉ”", "SEÑOR", "¿QUÉ…?", "ÂME", "São", "NÃO", "“É”", "Ø»"])
def test_accents_beside_quotation_marks_are_no_mojibake(text: str) -> None:
    assert not is_broken({"quote": text, "tags": []})


def test_english_quotes_in_numbers(english_quotes: Path) -> None:
    rows = read_rows(english_quotes)
    seen = describe(rows)
    assert (seen.num_rows, seen.duplicates, seen.skipped.rows) == (2508, 0, 0)
    assert seen.words == Lengths(min=1, median=18, p90=57, p99=201, max=746)
    assert seen.tags and (seen.tags.distinct, seen.tags.once, seen.tags.rows_without) == (2161, 1385, 9)
    assert seen.tags.most_frequent[0] == ("love", 327)
    assert seen.very_short == Found(1, ["english_quotes.jsonl:63"])
    # 198 rows hold one of the three best-known marks; the whole rule finds three more, Arabic and a lone fraction.
    assert seen.broken_encoding.rows == 201
    texts = [json.dumps(quote, ensure_ascii=False) for quote in rows.quotes]
    marked = [any(mark in text for mark in ("â€", "Ã", "\ufffd")) for text in texts]
    assert sum(marked) == 198 and all(is_broken(quote) for quote, yes in zip(rows.quotes, marked, strict=True) if yes)
