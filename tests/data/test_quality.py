"""The data doctor on the real rows, whose dirt is known, and on rows made for one finding each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from florilegium.data import examine, is_broken, mend, read_rows


def test_english_quotes_known_dirt(english_quotes: Path) -> None:
    rows = read_rows(english_quotes)
    found = examine(rows)
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(found, sort_keys=True))
    assert found["near_duplicates"]["pairs"] == 45 and len(found["near_duplicates"]["shown"]) == 8
    assert found["no_text"] == {"rows": 1, "places": ["english_quotes.jsonl:63"]}
    assert found["repair"]["mended"] == 0 and found["repair"]["can_be_mended"] == 201
    tags, authors = found["suspicious_tags"], found["authors"]
    assert (
        tags["about_the_source"]["rows"] == 86 and "misattributed-to-einstein" in tags["about_the_source"]["examples"]
    )
    assert tags["a_sentence"]["rows"] == 9 and ["john-green", "johngreen"] in tags["several_spellings"]["examples"]
    assert authors["ends_in_a_mark"]["rows"] == 1405 and authors["broken_encoding"]["rows"] == 57
    assert found["long_outliers"] == {**found["long_outliers"], "rows": 140, "limit": 88}


def test_repair_changes_only_the_broken_rows_of_english_quotes(english_quotes: Path) -> None:
    plain, mended = read_rows(english_quotes), read_rows(english_quotes, fix_encoding=True)
    assert mended.repaired == 201 and len(mended.quotes) == len(plain.quotes) == 2508
    still = [place for place, quote in zip(mended.places, mended.quotes, strict=True) if is_broken(quote)]
    assert still == ["english_quotes.jsonl:1189", "english_quotes.jsonl:1726"], "bytes that were lost for good"
    for old, new in zip(plain.quotes, mended.quotes, strict=True):
        assert is_broken(old) or old == new
    assert "“Don’t walk in front of me… I may not follow" in str(mended.quotes[12]["quote"])
    assert plain.digest != mended.digest


@pytest.mark.parametrize(
    "text", ["café", "déjà vu — “naïve”", "Привет", "日本語", "😀", "Ça va… «À côté»", "It’s “done”."]
)
def test_repair_restores_mojibake(text: str) -> None:
    assert mend(text) == text
    assert mend(text.encode().decode("cp1252", "replace")) == text


def test_small_findings(tmp_path: Path) -> None:
    rows = [{"quote": f"Saying {i} is here.", "tags": ["life"], "author": "A. Nyone"} for i in range(30)]
    rows[3] |= {"tags": ["misattributed-to-her"], "author": "Somebody,"}
    rows[4] |= {"quote": "…", "tags": ["1984"], "author": "unknown"}
    rows[5] |= {"quote": "word " * 400 + "5", "tags": [f"t{i}" for i in range(12)], "author": "“Quote” Name"}
    rows[6] |= {"tags": ["Be Yourself"], "author": None}
    rows[7] |= {"tags": ["be-yourself"]}
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = examine(read_rows(path))
    assert found["suspicious_tags"]["about_the_source"]["places"] == ["q.jsonl:4"]
    assert found["suspicious_tags"]["no_letters"]["examples"] == ["1984"]
    assert found["suspicious_tags"]["several_spellings"]["examples"] == [["Be Yourself", "be-yourself"]]
    assert found["long_outliers"]["places"] == found["tag_outliers"]["places"] == ["q.jsonl:6"]
    assert found["no_text"]["places"] == ["q.jsonl:5"]
    authors = found["authors"]
    assert authors["ends_in_a_mark"]["places"] == ["q.jsonl:4"] and authors["unknown"]["places"] == ["q.jsonl:5"]
    assert authors["quotation_marks"]["places"] == ["q.jsonl:6"] and authors["rows_without"] == 1


def test_authors_come_from_every_kind_of_file(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"quote": f"Text {i}.", "tags": "a, b", "author": f"Writer {i % 3}"} for i in range(6)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "q.csv").write_text(
        "quote,tags,author\n" + "".join(f'{r["quote"]},"{r["tags"]}",{r["author"]}\n' for r in rows)
    )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "q.parquet")
    wanted = [row["author"] for row in rows]
    for name in ("q.jsonl", "q.csv", "q.parquet"):
        assert read_rows(tmp_path / name).authors == wanted, name
    assert not any(read_rows("sample").authors)
