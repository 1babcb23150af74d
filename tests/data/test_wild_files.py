"""A table of files as people have them: each kind written by code, and what it must be read as, or why it is refused.

`FLORILEGIUM_WILD_FILES` names a folder of more such files, made by hand and by other people's programs; what must be read
of each stands in `wild_files.md`, whose lines `READ` and `REFUSED` here hold by kind where that folder is missing."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from florilegium.data import Rows, make_split, read_rows
from florilegium.errors import DataError, UsageError

NOUNS = [
    "lamp",
    "river",
    "bread",
    "stone",
    "window",
    "garden",
    "letter",
    "bridge",
    "winter",
    "needle",
    "harbor",
    "candle",
]
TAGS = [["home"], ["time", "sea"], ["work", "rest"], ["hope", "work"], [], ["rest", "time"]]
QUOTES = [
    f"A {a} waits for the {b} and keeps a {c}."
    for a, b, c in zip(NOUNS, NOUNS[5:] + NOUNS[:5], NOUNS[3:] + NOUNS[:3], strict=True)
]
ROWS: list[dict[str, Any]] = [
    {"quote": quote, "author": f"Ada Example {'ABC'[n % 3]}", "tags": TAGS[n % 6]} for n, quote in enumerate(QUOTES)
]
WITH_TAGS = [f"{row['quote']} ->: {', '.join(row['tags'])}".rstrip() for row in ROWS]
ALONE = QUOTES
Table = list[dict[str, Any]]


def jsonl(rows: list[Any], end: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode()


def table(rows: Table, sign: str = ",", end: str = "\n", header: bool = True, **how: Any) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=sign, lineterminator=end, **how)
    if header:
        writer.writerow(rows[0])
    for row in rows:
        writer.writerow([", ".join(value) if isinstance(value, list) else value for value in row.values()])
    return text.getvalue().encode()


def renamed(**names: str) -> Table:
    """The rows with other names for their columns."""
    return [{names[name]: value for name, value in row.items() if name in names} for row in ROWS]


def tagged(write: Callable[[list[str]], Any], name: str = "tags") -> Table:
    return [{"quote": row["quote"], name: write(row["tags"])} for row in ROWS]


def parquet(rows: Table, **more: Any) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, **more), file)
    return file.getvalue()


def arrow(rows: Table, stream: bool = False) -> bytes:
    file, data = io.BytesIO(), pyarrow.Table.from_pylist(rows)
    with (pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file)(file, data.schema) as writer:
        writer.write_table(data)
    return file.getvalue()


def zipped(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "."), data)
    return file.getvalue()


def workbook(rows: Table) -> bytes:
    openpyxl = pytest.importorskip("openpyxl")
    book, file = openpyxl.Workbook(), io.BytesIO()
    book.active.append(list(rows[0]))
    for row in rows:
        book.active.append([", ".join(value) if isinstance(value, list) else value for value in row.values()])
    book.save(file)
    return file.getvalue()


def database() -> bytes:
    base = sqlite3.connect(":memory:")
    base.execute("create table quotes (quote text)")
    return base.serialize()


TEXTS = table([{"text": row["quote"]} for row in ROWS])
PRINTED = "['home', \"it's\"]"
# name of the file, its bytes, the texts that are trained
READ: list[tuple[str, Callable[[], bytes], list[str]]] = [
    # forms
    ("a.jsonl", lambda: jsonl(ROWS), WITH_TAGS),
    ("a.ndjson", lambda: jsonl(ROWS), WITH_TAGS),
    ("a.jsonlines", lambda: jsonl(ROWS, "\r\n"), WITH_TAGS),
    ("lines.json", lambda: jsonl(ROWS), WITH_TAGS),
    ("lines.txt", lambda: jsonl(ROWS), WITH_TAGS),
    ("array.json", lambda: json.dumps(ROWS, indent=1).encode(), WITH_TAGS),
    ("array.jsonl", lambda: json.dumps(ROWS, indent=1).encode(), WITH_TAGS),
    ("array_in_one_line.jsonl", lambda: json.dumps(ROWS).encode(), WITH_TAGS),
    ("trailing_comma.json", lambda: json.dumps(ROWS).encode()[:-1] + b",\n]", WITH_TAGS),
    ("under_a_key.json", lambda: json.dumps({"version": 1, "data": ROWS}, indent=1).encode(), WITH_TAGS),
    ("under_two_keys.json", lambda: json.dumps({"version": 1, "page": {"results": ROWS}}).encode(), WITH_TAGS),
    ("keyed.json", lambda: json.dumps({f"q{n}": row for n, row in enumerate(ROWS)}, indent=1).encode(), WITH_TAGS),
    ("columns.json", lambda: json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}).encode(), WITH_TAGS),
    ("pandas.json", lambda: json.dumps({k: {str(n): row[k] for n, row in enumerate(ROWS)} for k in ROWS[0]}).encode(), WITH_TAGS),
    ("pandas_split.json", lambda: json.dumps({"columns": [*ROWS[0]], "index": [], "data": [[*row.values()] for row in ROWS]}).encode(), WITH_TAGS),
    ("concatenated.json", lambda: "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(), WITH_TAGS),
    ("texts.json", lambda: json.dumps(QUOTES).encode(), ALONE),
    ("pairs.json", lambda: json.dumps([[row["quote"], row["tags"]] for row in ROWS]).encode(), WITH_TAGS),
    ("a.parquet", lambda: parquet(ROWS), WITH_TAGS),
    ("parquet.csv", lambda: parquet(ROWS), WITH_TAGS),
    ("a.arrow", lambda: arrow(ROWS), WITH_TAGS),
    ("stream.arrow", lambda: arrow(ROWS, stream=True), WITH_TAGS),
    ("a.xlsx", lambda: workbook(ROWS), WITH_TAGS),
    ("workbook.csv", lambda: workbook(ROWS), WITH_TAGS),
    ("a.jsonl.gz", lambda: gzip.compress(jsonl(ROWS)), WITH_TAGS),
    ("a.csv.gz", lambda: gzip.compress(table(ROWS)), WITH_TAGS),
    ("a.parquet.gz", lambda: gzip.compress(parquet(ROWS)), WITH_TAGS),
    ("gzip_in.jsonl", lambda: gzip.compress(jsonl(ROWS)), WITH_TAGS),
    ("a.zip", lambda: zipped(quotes__csv=table(ROWS)), WITH_TAGS),
    ("with_a_readme.zip", lambda: zipped(quotes__jsonl=jsonl(ROWS), LICENSE=b"x"), WITH_TAGS),
    # CSV
    ("a.csv", lambda: table(ROWS), WITH_TAGS),
    ("a.tsv", lambda: table(ROWS, "\t"), WITH_TAGS),
    ("tabs.csv", lambda: table(ROWS, "\t"), WITH_TAGS),
    ("semicolons.csv", lambda: table(ROWS, ";"), WITH_TAGS),
    ("bars.csv", lambda: table(ROWS, "|"), WITH_TAGS),
    ("colons.csv", lambda: table(ROWS, ":"), WITH_TAGS),
    ("excel.csv", lambda: b"sep=;\r\n" + table(ROWS, ";", "\r\n"), WITH_TAGS),
    ("blank_after_comma.csv", lambda: table(ROWS, quoting=csv.QUOTE_ALL).replace(b'","', b'", "'), WITH_TAGS),
    ("old_mac.csv", lambda: table(ROWS, end="\r"), WITH_TAGS),
    ("crcrlf.csv", lambda: table(ROWS, end="\r\r\n"), WITH_TAGS),
    ("bom.csv", lambda: b"\xef\xbb\xbf" + table(ROWS), WITH_TAGS),
    ("utf16.csv", lambda: table(ROWS, "\t").decode().encode("utf-16"), WITH_TAGS),
    ("utf16_without_mark.csv", lambda: table(ROWS).decode().encode("utf-16-le"), WITH_TAGS),
    ("utf32.jsonl", lambda: jsonl(ROWS).decode().encode("utf-32"), WITH_TAGS),
    ("windows.csv", lambda: table(ROWS).replace(b"A ", b"\x93A\x94 "), [text.replace("A ", "“A” ", 1) for text in WITH_TAGS]),
    ("no_header.csv", lambda: table(ROWS, header=False), WITH_TAGS),
    ("no_header.tsv", lambda: table(ROWS, "\t", header=False), WITH_TAGS),
    ("no_header_of_one_column.csv", lambda: "\n".join(f'"{quote}"' for quote in QUOTES).encode(), ALONE),
    ("one_column.csv", lambda: TEXTS, ALONE),
    ("one_column_of_commas.csv", lambda: b"text\n" + "\n".join(f"{q[:6]}, {q[6:]}" for q in QUOTES).encode(), [f"{q[:6]}, {q[6:]}" for q in QUOTES]),
    ("quotes_that_mean_nothing.csv", lambda: b"quote,tags\n" + "".join(f'"A" {q[2:-1]},home\n' for q in QUOTES).encode(), [f'"A" {q[2:-1]} ->: home' for q in QUOTES]),
    ("backslashes.csv", lambda: b"quote,tags\n" + "".join(f'"\\"{q}\\"","home"\n' for q in QUOTES).encode(), [f'"{q}" ->: home' for q in QUOTES]),
    # columns
    ("capitals.csv", lambda: table(renamed(quote="Quote", author="Author", tags="Tags")), WITH_TAGS),
    ("category.csv", lambda: table(renamed(quote="text", author="author", tags="Category")), WITH_TAGS),
    ("blanks.parquet", lambda: parquet(renamed(quote="Quote Text", tags="tag-list")), WITH_TAGS),
    ("other_names.csv", lambda: table([{"nr": n, "flavour": f"f{n}", **row} for n, row in enumerate(renamed(quote="idézet", tags="címkék"))]), WITH_TAGS),
    ("two_languages.csv", lambda: table([{"quote_en": row["quote"], "quote_de": row["quote"][::-1], "tags": row["tags"]} for row in ROWS]), WITH_TAGS),
    ("german.csv", lambda: table(renamed(author="Autor", quote="Zitat", tags="Schlagwörter")), WITH_TAGS),
    ("french.csv", lambda: table(renamed(author="Auteur", quote="Citation", tags="Catégories")), WITH_TAGS),
    ("russian.json", lambda: json.dumps(renamed(quote="цитата", tags="теги")).encode(), WITH_TAGS),
    ("chinese.jsonl", lambda: jsonl(renamed(quote="名言", tags="标签")), WITH_TAGS),
    ("marks_first.jsonl", lambda: jsonl([{"id": n, "uuid": f"{n:032x}", "url": f"https://a.org/{n}", "date": "2020-01-01", **row} for n, row in enumerate(renamed(quote="body", tags="topics"))]), WITH_TAGS),
    ("unknown_names.jsonl", lambda: jsonl([{"_id": f"{n:024x}", **row} for n, row in enumerate(renamed(quote="aa", author="bb", tags="cc"))]), WITH_TAGS),
    ("author_first.csv", lambda: table(renamed(author="author", quote="text")), ALONE),
    ("text_alone.jsonl", lambda: jsonl(renamed(quote="text")), ALONE),
    ("index.csv", lambda: table([{"": n, **row} for n, row in enumerate(ROWS)]), WITH_TAGS),
    ("headlines.csv", lambda: table([{"headline": q, "category": "news", "date": "2020-01-01"} for q in QUOTES]), [f"{q} ->: news" for q in QUOTES]),
    ("alpaca.json", lambda: json.dumps([{"instruction": q, "input": "", "output": "Yes."} for q in QUOTES]).encode(), [f"{q} ->: Yes." for q in QUOTES]),
    ("alpaca_with_input.json", lambda: json.dumps([{"instruction": q, "input": "so", "output": "Yes."} for q in QUOTES]).encode(), [f"### Instruction:\n{q}\n\n### Input:\nso\n\n### Response:\nYes." for q in QUOTES]),
    ("prompts.jsonl", lambda: jsonl([{"prompt": q, "completion": " Yes."} for q in QUOTES]), [f"{q} ->: Yes." for q in QUOTES]),
    ("questions.csv", lambda: table([{"question": q, "answer": "Yes."} for q in QUOTES]), [f"{q} ->: Yes." for q in QUOTES]),
    ("squad.jsonl", lambda: jsonl([{"context": "It was so.", "question": q, "answers": {"text": ["so"], "answer_start": [7]}} for q in QUOTES]), [f"It was so.\n\nQuestion: {q}\nAnswer: so" for q in QUOTES]),
    ("messages.jsonl", lambda: jsonl([{"messages": [{"role": "system", "content": "Be."}, {"role": "user", "content": q}, {"role": "assistant", "content": "Yes."}]} for q in QUOTES]), [f"{q} ->: Yes." for q in QUOTES]),
    ("sharegpt.json", lambda: json.dumps([{"id": "1", "conversations": [{"from": "human", "value": "No?"}, {"from": "gpt", "value": "No."}, {"from": "human", "value": q}, {"from": "gpt", "value": "Yes."}]} for q in QUOTES]).encode(), [f"{q} ->: Yes." for q in QUOTES]),
    # lists
    ("python.csv", lambda: table(tagged(repr, "Tags")), WITH_TAGS),
    ("json_in_cells.csv", lambda: table(tagged(json.dumps, "categories")), WITH_TAGS),
    ("numpy.csv", lambda: table(tagged(lambda tags: "[" + " ".join(map(repr, tags)) + "]")), WITH_TAGS),
    ("postgres.csv", lambda: table(tagged(lambda tags: "{" + ",".join(tags) + "}", "labels")), WITH_TAGS),
    ("bare_brackets.csv", lambda: table(tagged(lambda tags: "[" + ", ".join(tags) + "]")), WITH_TAGS),
    ("printed.jsonl", lambda: jsonl(tagged(repr, "keywords")), WITH_TAGS),
    ("hashes.csv", lambda: table(tagged(lambda tags: " ".join("#" + tag for tag in tags))), WITH_TAGS),
    ("hash_list.jsonl", lambda: jsonl(tagged(lambda tags: ["#" + tag for tag in tags])), WITH_TAGS),
    ("bars_in_cells.csv", lambda: table(tagged("|".join)), WITH_TAGS),
    ("semicolons_in_cells.csv", lambda: table(tagged("; ".join, "genre")), WITH_TAGS),
    ("slashes.csv", lambda: table(tagged("/".join)), WITH_TAGS),
    ("full_width.jsonl", lambda: jsonl(tagged("，".join)), WITH_TAGS),
    ("ideographic.parquet", lambda: parquet(tagged("、".join)), WITH_TAGS),
    ("arabic.csv", lambda: table(tagged("، ".join)), WITH_TAGS),
    ("apostrophes.csv", lambda: table([{"quote": q, "tags": PRINTED} for q in QUOTES]), [f"{q} ->: home, it's" for q in QUOTES]),
    ("objects.jsonl", lambda: jsonl(tagged(lambda tags: [{"id": 1, "name": tag} for tag in tags])), WITH_TAGS),
    ("comma_in_item.jsonl", lambda: jsonl(tagged(lambda tags: ["Example, Ada", *tags])), [text.replace("->:", "->: Example, Ada,").rstrip(",") for text in WITH_TAGS]),
    ("null_tags.jsonl", lambda: jsonl(tagged(lambda tags: tags or None)), WITH_TAGS),
    ("missing_tags.jsonl", lambda: jsonl([{k: v for k, v in row.items() if v} for row in ROWS]), WITH_TAGS),
    ("nan_tags.json", lambda: json.dumps(tagged(lambda tags: tags or float("nan"))).encode(), WITH_TAGS),
    ("numbers.jsonl", lambda: jsonl([{"text": q, "label": n % 2} for n, q in enumerate(QUOTES)]), [f"{q} ->: {n % 2}" for n, q in enumerate(QUOTES)]),
    ("booleans.jsonl", lambda: jsonl([{"text": q, "label": n % 2 > 0} for n, q in enumerate(QUOTES)]), [f"{q} ->: {'true' if n % 2 else 'false'}" for n, q in enumerate(QUOTES)]),
    ("floats.parquet", lambda: parquet([{"text": q, "label": float(n % 2)} for n, q in enumerate(QUOTES)]), [f"{q} ->: {n % 2}" for n, q in enumerate(QUOTES)]),
    ("poems.json", lambda: json.dumps([{"title": f"Song {n}", "lines": [q, "", "No.", "No."]} for n, q in enumerate(QUOTES)]).encode(), [f"{q}\n\nNo.\nNo." for q in QUOTES]),
    ("talks.jsonl", lambda: jsonl([{"dialog": [q, "No, never.", q], "topic": "home"} for q in QUOTES]), [f"{q}\nNo, never.\n{q} ->: home" for q in QUOTES]),
    # plain text
    ("lines_of.txt", lambda: "\n".join(QUOTES).encode(), ALONE),
    ("with_author.txt", lambda: "\n".join(f"{row['quote']} - {row['author']}" for row in ROWS).encode(), ALONE),
    ("with_dashes.txt", lambda: "\n\n".join(f"“{row['quote']}” — {row['author']}" for row in ROWS).encode(), [f"“{q}”" for q in QUOTES]),
    ("fortunes", lambda: "\n%\n".join(f"{row['quote']}\n\t\t-- {row['author']}" for row in ROWS).encode(), ALONE),
    ("verses.txt", lambda: "\n\n".join(f"{q[:-1]},\nand so we go home," for q in QUOTES).encode(), [f"{q[:-1]},\nand so we go home," for q in QUOTES]),
    ("list.md", lambda: ("# Sayings\n\n" + "".join(f"- {row['quote']} *{row['author']}*\n" for row in ROWS)).encode(), ALONE),
]  # fmt: skip
# name, bytes, what is said
REFUSED = [
    ("a.db", database, "SQLite database.*sqlite3 -header -csv a.db"),
    ("a.yaml", lambda: b"- quote: a\n", ".yaml files are not read. Type: python -c"),
    ("two.zip", lambda: zipped(a__csv=b"quote\n", b__csv=b"quote\n"), "the zip holds 2 files.*unzip"),
    ("marks.csv", lambda: b"id,url\n1,https://a.org\n", "no column 'quote', 'tags'; found: id, url. Say which"),
    ("empty.csv", lambda: b"", "the file has no rows"),
    ("header.csv", lambda: b"quote,tags\n", "the file has no rows"),
    (
        "no_answers.jsonl",
        lambda: jsonl([{"messages": [{"role": "user", "content": "Hi"}]}]),
        "no turn of a user that is answered",
    ),
    ("all_bad.csv", lambda: b"quote,tags\n" + b"a,b,c,d\n" * 9, "all_bad.csv:2: 4 fields where the header has 2"),
    ("xls.csv", lambda: b"\xd0\xcf\x11\xe0\xa1", "an old Excel or Word file"),
    ("cut.jsonl.gz", lambda: gzip.compress(jsonl(ROWS) * 50)[:-90], "the packed file is damaged"),
]


def trained(rows: Rows) -> list[str]:
    return [rows.template.render(quote) for quote in rows.quotes]


@pytest.mark.parametrize(("name", "data", "texts"), READ, ids=[row[0] for row in READ])
def test_a_file_is_read_as_its_owner_means_it(
    tmp_path: Path, name: str, data: Callable[[], bytes], texts: list[str]
) -> None:
    (tmp_path / name).write_bytes(data())
    rows = read_rows(tmp_path / name)
    assert trained(rows) == texts
    assert rows.skipped == [] and rows.num_read == len(texts) and rows.notes


@pytest.mark.parametrize(("name", "data", "says"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_is_refused_says_why_and_what_to_type(
    tmp_path: Path, name: str, data: Callable[[], bytes], says: str
) -> None:
    (tmp_path / name).write_bytes(data())
    with pytest.raises(DataError, match=says) as caught:
        read_rows(tmp_path / name)
    assert name in str(caught.value) and caught.value.fix and "\n" not in str(caught.value)


def test_authors_are_found(tmp_path: Path) -> None:
    for name in ("with_author.txt", "fortunes", "list.md", "german.csv", "a.jsonl"):
        data = next(row[1] for row in READ if row[0] == name)
        (tmp_path / name).write_bytes(data())
        assert read_rows(tmp_path / name).authors == [row["author"] for row in ROWS], name


def test_a_class_label_is_read_by_its_name(tmp_path: Path) -> None:
    features = {"info": {"features": {"label": {"names": ["sad", "glad"], "_type": "ClassLabel"}}}}
    data = pyarrow.Table.from_pylist([{"text": q, "label": n % 2} for n, q in enumerate(QUOTES)])
    data = data.replace_schema_metadata({"huggingface": json.dumps(features)})
    pyarrow.parquet.write_table(data, tmp_path / "q.parquet")
    assert trained(read_rows(tmp_path / "q.parquet"))[:2] == [f"{QUOTES[0]} ->: sad", f"{QUOTES[1]} ->: glad"]


def test_the_user_wins(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_bytes(
        table([{"text": "x y z", "Long One": row["quote"], "mood": "a/b"} for row in ROWS])
    )
    rows = read_rows(tmp_path / "q.csv", text_column="long-one", tags_column="Mood", tags_separator="/")
    assert trained(rows)[0] == f"{QUOTES[0]} ->: a, b"
    assert trained(read_rows(tmp_path / "q.csv", "{Long One} = {mood}"))[0] == f"{QUOTES[0]} = a/b"
    with pytest.raises(DataError, match="no column 'nothing'; found: text, Long One, mood. Type --text-column"):
        read_rows(tmp_path / "q.csv", text_column="nothing")
    with pytest.raises(DataError, match=r"no column 'quotation'; found: .*Type --template \"\{text\}"):
        read_rows(tmp_path / "q.csv", "{quotation} by {mood}")
    with pytest.raises(UsageError):
        read_rows(tmp_path / "q.csv", "{Long.One}")


SAID = {
    "semicolons.csv": "semicolons.csv: columns are separated by semicolons",
    "no_header.csv": "no_header.csv: no header, the first row is one of the rows; columns are called 'column 1' to 'column 3'",
    "windows.csv": "windows.csv: 12 lines are Windows-1252, not UTF-8: converted",
    "bars_in_cells.csv": "the text is 'quote', the tags 'tags' (split at '|')",
    "semicolons_in_cells.csv": "the text is 'quote', the tags 'genre' (split at ';')",
    "full_width.jsonl": "the text is 'quote', the tags 'tags' (split at '，')",
    "null_tags.jsonl": "2 of 12 rows have no tags",
    "comma_in_item.jsonl": "12 rows with a comma in a tag: it becomes two tags, since commas part them",
    "two_languages.csv": "the text is 'quote_en', the tags 'tags'; 'quote_de' could be the text, too (--text-column NAME)",
    "text_alone.jsonl": "the text is 'text'; no column of tags, so the text alone is trained (--tags-column names one)",
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_what_was_taken_for_what_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(next(row[1] for row in READ if row[0] == name)())
    assert SAID[name] in read_rows(tmp_path / name).notes


def test_several_columns_could_be_tags(tmp_path: Path) -> None:
    rows = [{"text": q, "category": f"a{n % 3}", "topic": f"b{n % 4}", "mood": "c"} for n, q in enumerate(QUOTES)]
    (tmp_path / "q.csv").write_bytes(table(rows))
    (said,) = read_rows(tmp_path / "q.csv").notes
    assert said.endswith("the tags 'category'; 'topic', 'mood' could be tags, too (--tags-column NAME)")
    chosen = read_rows(tmp_path / "q.csv", tags_column="topic")
    assert trained(chosen)[1] == f"{QUOTES[1]} ->: b1" and "could be" not in chosen.notes[0]


def test_files_with_other_columns_say_which(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(table(renamed(quote="quote", tags="tags")))
    (tmp_path / "b.csv").write_bytes(table([{"text": q.upper(), "label": "home"} for q in QUOTES]))
    assert "b.csv: the text is 'text', the tags 'label'" in read_rows(tmp_path).notes


def test_a_typed_line_break_is_told(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_bytes(table(ROWS))
    (said,) = (note for note in read_rows(tmp_path / "q.csv", r"{quote} ->:\n{tags}").notes if "line break" in note)
    assert said.endswith(r"""for a line break type it in quotes as $'...\n...'""")
    assert not any("line break" in note for note in read_rows(tmp_path / "q.csv", "{quote} ->:\n{tags}").notes)


def test_of_files_of_which_none_is_good_the_causes_are_counted(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"quote": ""}\n' * 3 + "{\n" * 2 + '{"quote": "\\u0000"}\n')
    with pytest.raises(DataError, match=r"none of its 6 rows is good; .*:1: .* is empty; 3 .*, 2 .*, 1 ") as caught:
        read_rows(tmp_path / "q.jsonl", skip_bad_rows=True)
    assert caught.value.fix


def test_saved_data_sets_are_read(tmp_path: Path) -> None:
    def save(folder: Path, rows: Table) -> None:
        folder.mkdir(parents=True)
        (folder / "data-00000-of-00001.arrow").write_bytes(arrow(rows, stream=True))
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
        (folder / "dataset_info.json").write_text("{}")

    save(tmp_path / "one", ROWS)
    assert trained(read_rows(tmp_path / "one")) == WITH_TAGS
    save(tmp_path / "both" / "train", ROWS[:8])
    save(tmp_path / "both" / "test", ROWS[8:])
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    found = read_rows(tmp_path / "both")
    assert trained(found) == WITH_TAGS and found.held_out_from == 8


def test_a_held_out_file_takes_its_near_copies_out_of_training(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(table(ROWS))
    held: Table = [
        {"text": QUOTES[2].upper(), "labels": ["x"]},
        {"text": QUOTES[5].replace("waits for", "looks for"), "labels": ["y"]},
        {"text": "Nothing like it was ever said here.", "labels": []},
    ]
    (tmp_path / "mine.jsonl").write_bytes(jsonl(held))
    rows = read_rows(tmp_path / "train.csv", held_out_file=tmp_path / "mine.jsonl")
    split = make_split(rows.quotes, 0.1, 0, held_out_from=rows.held_out_from)
    assert split.held_out == [12, 13, 14] and split.set_aside == [2, 5] and len(split.training) == 10
    assert rows.quotes[12] == {"quote": QUOTES[2].upper(), "tags": ["x"]}


def test_an_unclosed_quotation_mark_is_one_bad_row(tmp_path: Path) -> None:
    lines = table(ROWS).decode().split("\n")
    lines[4] = '"' + lines[4]
    (tmp_path / "q.csv").write_text("\n".join(lines))
    rows = read_rows(tmp_path / "q.csv", skip_bad_rows=True)
    assert trained(rows) == WITH_TAGS[:3] + WITH_TAGS[4:] and [p.place for p in rows.skipped] == ["q.csv:5"]


WILD = os.environ.get("FLORILEGIUM_WILD_FILES", "")
TABLE = Path(__file__).with_name("wild_files.md")
HEAD = """| file | rows | held out | the first, as trained | what is said |
|---|---|---|---|---|
"""


def wild_line(path: Path) -> str:
    """A file's line in the table: what is read of it, or why it is refused."""
    try:
        rows = read_rows(path, skip_bad_rows=True)
    except DataError as error:
        assert error.fix and "\n" not in str(error)
        return f"| {path.name} | refused | | | {str(error).replace(str(path), path.name)} |\n".replace("  ", " ")
    assert rows.notes and all(text.strip() for text in trained(rows))
    held_out = "" if rows.held_out_from is None else f"{len(rows.quotes) - rows.held_out_from}"
    bad = [f"{len(rows.skipped)} bad: {rows.skipped[0].place}: {rows.skipped[0].cause}"] if rows.skipped else []
    repeated = [f"{rows.duplicates} duplicates"] if rows.duplicates else []
    said = "; ".join([*rows.notes, *bad, *repeated]).replace("|", "\\|")
    first = json.dumps(trained(rows)[0], ensure_ascii=False).replace("|", "\\|")
    return f"| {path.name} | {len(rows.quotes)} | {held_out} | `{first}` | {said} |\n"


@pytest.mark.skipif(not WILD, reason="FLORILEGIUM_WILD_FILES names no folder")
def test_every_wild_file_is_read_as_the_table_says() -> None:
    """`FLORILEGIUM_WRITE_TABLE=1` writes the table: read each line with the eyes of the file's owner before it is kept."""
    lines = HEAD + "".join(wild_line(path) for path in sorted(Path(WILD).iterdir()))
    if os.environ.get("FLORILEGIUM_WRITE_TABLE"):
        TABLE.write_text(lines, encoding="utf-8")
    assert lines.splitlines() == TABLE.read_text(encoding="utf-8").splitlines()
