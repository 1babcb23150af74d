"""The data doctor on the real rows, whose dirt is known, and on rows made for one finding each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from florilegium.data import examine, is_broken, mend, read_rows
from florilegium.data.data_report import Findings, Found


def test_english_quotes_known_dirt(english_quotes: Path) -> None:
    rows = read_rows(english_quotes)
    found = examine(rows)
    plain = found.to_json()
    assert json.loads(json.dumps(plain)) == plain and Findings.from_json(plain) == found
    assert found.near_duplicates.pairs == 45 and len(found.near_duplicates.shown) == 8
    assert found.no_text == Found(1, ["english_quotes.jsonl:63"])
    assert found.repair.mended == 0 and found.repair.can_be_mended == 201
    tags, authors = found.suspicious_tags, found.authors
    assert tags and authors
    source = tags.signs["about_the_source"]
    assert source.rows == 86 and "misattributed-to-einstein" in source.examples
    assert tags.signs["a_sentence"].rows == 9 and ["john-green", "johngreen"] in tags.several_spellings.examples
    assert authors.signs["ends_in_a_mark"].rows == 1405 and authors.signs["broken_encoding"].rows == 57
    assert (found.long_outliers.rows, found.long_outliers.limit) == (140, 88)


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
    tags, authors = found.suspicious_tags, found.authors
    assert tags and authors and found.tag_outliers
    assert tags.signs["about_the_source"].places == ["q.jsonl:4"]
    assert tags.signs["no_letters"].examples == ["1984"]
    assert tags.several_spellings.examples == [["Be Yourself", "be-yourself"]]
    assert found.long_outliers.places == found.tag_outliers.places == ["q.jsonl:6"]
    assert found.no_text.places == ["q.jsonl:5"]
    signs = authors.signs
    assert signs["ends_in_a_mark"].places == ["q.jsonl:4"] and signs["unknown"].places == ["q.jsonl:5"]
    assert signs["quotation_marks"].places == ["q.jsonl:6"] and authors.rows_without == 1


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
