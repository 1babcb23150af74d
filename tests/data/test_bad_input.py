"""Every kind of bad input: one line that names the file, the place in it and what to do, and nothing but our own
errors."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from florilegium.data import MAX_ROW_BYTES, read_rows
from florilegium.data.sources import READERS
from florilegium.data.unpack import KINDS
from florilegium.errors import DataError, UsageError

GOOD = '{"quote": "Be kind.", "tags": ["life"]}\n'
ROW = b'{"quote": "%s", "tags": ["life"]}\n'
BIG = b"x" * MAX_ROW_BYTES


def line(**row: object) -> bytes:
    return json.dumps(row).encode() + b"\n"


# name, bytes behind one good row, what the message says; --skip-bad-rows gets past each
SECOND_ROWS = [
    ("truncated", b'{"quote": "Be br', 'truncated JSON: Unterminated string .* line 2, column 11, in \'{"quote"'),
    ("truncated object", b'{"quote": "Be brave.",', "truncated JSON"),
    ("garbage", b"hello\n", "invalid JSON: Expecting value at line 2, column 1, in 'hello'"),
    ("two on a line", line(quote="a", tags=[]).strip() * 2, "invalid JSON: Extra data at line 2, column 27"),
    ("over several lines", b'{\n"quote": 5}', "invalid JSON.*Put each row on one line"),
    ("bad byte", ROW % b"caf\xff", r"not UTF-8: 0xff at byte 54"),
    ("surrogate bytes", ROW % b"\xed\xa0\x80", "not UTF-8: 0xed"),
    ("lone surrogate", ROW % rb"a\ud800", r"half of a surrogate pair, \\ud800"),
    ("surrogate in a tag", line(quote="a", tags=["\udc00"]), "half of a surrogate pair"),
    ("nul", ROW % rb"a\u0000b", "NUL character"),
    ("raw nul", ROW % b"a\x00b", "Invalid control character"),
    ("list", b'["a", []]\n', "the row is a list, not an object"),
    ("text", b'"a"\n', "the row is text, not an object"),
    ("null row", b"null\n", "the row is null, not an object"),
    ("missing text", line(tags=[]), "no column 'quote' in this row"),
    ("null", line(quote=None, tags=[]), "column 'quote' is null, expected text"),
    ("number", line(quote=5, tags=[]), "column 'quote' holds a number"),
    ("not a number", b'{"quote": NaN, "tags": []}\n', "column 'quote' holds a number"),
    ("bool", line(quote=True, tags=[]), "column 'quote' holds true or false"),
    ("object", line(quote={"a": 1}, tags=[]), "column 'quote' holds an object"),
    ("object tags", line(quote="a", tags={"b": 1}), "column 'tags' holds an object"),
    ("list item", line(quote="a", tags=[["b"]]), "column 'tags': item 1 is a list"),
    ("empty", line(quote="", tags=[]), "column 'quote' is empty"),
    ("blank", line(quote=" \u00a0\n", tags=[]), "column 'quote' is empty"),
    ("separator", line(quote="a ->: b", tags=[]), "column 'quote' contains the separator '->:'.*--template"),
    ("separator at the edge", line(quote="a ->:", tags=[]), "column 'quote' contains the separator"),
    ("big", ROW % BIG, "over 1,048,576 bytes"),
    ("big blank", b" " * (MAX_ROW_BYTES + 5) + b"\n", "over 1,048,576 bytes"),
    ("deep list", b"[" * 100_000 + b"\n", "nests too deep|truncated"),
    ("deep object", b'{"a":' * 100_000 + b"\n", "nests too deep|truncated"),
    ("deep value", b'{"quote": "a", "tags": [], "x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}\n", "nests too deep"),
    ("huge int", b'{"quote": ' + b"9" * 10_000 + b', "tags": []}\n', "column 'quote' holds a number"),
    ("doubled key", b'{"quote": "a", "quote": "b", "tags": []}\n', "the key 'quote' stands twice"),
]


@pytest.mark.parametrize(("bad", "says"), [row[1:] for row in SECOND_ROWS], ids=[row[0] for row in SECOND_ROWS])
def test_second_line_of_json_lines(tmp_path: Path, bad: bytes, says: str) -> None:
    path = tmp_path / "quotes.jsonl"
    path.write_bytes(GOOD.encode() + bad)
    refuse(path, f"^quotes.jsonl:2: .*{says}")
    path.write_bytes(GOOD.encode() + bad.rstrip(b"\n") + b"\n" + line(quote="Be brave.", tags="a"))
    rows = read_rows(path, skip_bad_rows=True)
    assert [quote["quote"] for quote in rows.quotes] == ["Be kind.", "Be brave."]
    assert rows.skipped[0].place == "quotes.jsonl:2" and rows.num_read == 2 + len(rows.skipped)


@pytest.mark.parametrize(("bad", "says"), [row[1:] for row in SECOND_ROWS], ids=[row[0] for row in SECOND_ROWS])
def test_second_element_of_an_array(tmp_path: Path, bad: bytes, says: str) -> None:
    path = tmp_path / "quotes.json"
    path.write_bytes(b"[" + GOOD.encode() + b"," + bad.rstrip(b"\n") + b"]")
    if not bad.strip():  # a comma before the closing bracket
        assert len(read_rows(path).quotes) == 1
        return
    with pytest.raises(DataError, match=r"quotes.json:\d+( \(row \d\))?: ") as caught:
        read_rows(path)
    assert caught.value.fix


# name, file name, bytes, what the message says; none of these can be skipped
WHOLE_FILES = [
    ("empty", "q.jsonl", b"", "q.jsonl: the file has no rows"),
    ("blank", "q.jsonl", b"\n \r\n", "q.jsonl: the file has no rows"),
    ("only a bom", "q.jsonl", b"\xef\xbb\xbf", "no rows"),
    ("empty json", "q.json", b"", "no rows"),
    ("empty array", "q.json", b" [ ] ", "no rows"),
    ("empty csv", "q.csv", b"", "no rows"),
    ("only a header", "q.csv", b"quote,tags\n", "no rows"),
    ("no utf-16", "q.jsonl", b"\xff\xfe\x00\xd8" * 9, "q.jsonl: byte 0: looks like UTF-16.*iconv"),
    ("no utf-16 of odd length", "q.csv", "quote,tags\na,b".encode("utf-16")[:-1], "looks like UTF-16"),
    ("no utf-32", "q.json", b"\x00\x00\xfe\xff" + b"\xff" * 8, "looks like UTF-32"),
    ("damaged gzip", "q.jsonl", b"\x1f\x8b\x08abc", "the packed file is damaged"),
    ("damaged zip", "q.jsonl", b"PK\x03\x04abc", "the packed file is damaged"),
    ("xz", "q.jsonl", b"\xfd7zXZabc", "this is an xz file"),
    ("zstd", "q.csv", b"\x28\xb5\x2f\xfdabc", "this is a Zstandard file"),
    ("rar", "q.csv", b"Rar!abc", "this is a RAR archive"),
    ("7z", "q.csv", b"7z\xbc\xafabc", "this is a 7z archive"),
    ("pdf", "q.txt", b"%PDF-1.4", "this is a PDF"),
    ("hdf5", "q.csv", b"\x89HDFabc", "this is an HDF5 file"),
    ("numpy", "q.jsonl", b"\x93NUMPYabc", "this is a NumPy array"),
    ("broken arrow", "q.arrow", b"ARROW1abc", "not an Arrow file, or a damaged one"),
    ("no arrow", "q.arrow", b"abc", "not an Arrow file, or a damaged one"),
    ("no workbook", "q.xlsx", b"abc", "not an Excel workbook, or a damaged one"),
    ("empty text", "q.txt", b"\n \n", "q.txt: the file has no rows"),
    ("only headings", "q.md", b"# A\n\n---\n", "q.md: the file has no rows"),
    ("empty tsv", "q.tsv", b"", "q.tsv: the file has no rows"),
    ("yaml", "q.yaml", b"- a", "q.yaml: .yaml files are not read. Type: python"),
    ("word", "q.docx", b"abc", "q.docx: .docx files are not read. Copy its text"),
    ("web page", "q.html", b"<p>a", "q.html: .html files are not read. Take its texts out"),
    ("notebook", "q.ipynb", b"{", "q.ipynb: .ipynb files are not read. Run it"),
    ("sheet", "q.ods", b"abc", "q.ods: .ods files are not read. Open it and save it as .xlsx"),
    ("bzip2", "q.jsonl", b"BZh9abc", "this is a bzip2 file. Unpack it: bunzip2 -k .*/q.jsonl"),
    ("old Excel", "q.csv", b"\xd0\xcf\x11\xe0abc", "this is an old Excel or Word file.*save it as .xlsx"),
    ("SQLite", "q.csv", b"SQLite format 3\x00", "this is an SQLite database.*sqlite3 -header -csv .*/q.csv"),
    ("pickle", "q.jsonl", b"\x80\x04abc", "this is a pickle, which could run code"),
    ("parquet inside", "q.csv", b"PAR1abc", "not a Parquet file, or a damaged one"),
    (
        "unlike",
        "q.jsonl",
        b'{"u": "a", "v": "b"}\n',
        "q.jsonl:1: no column 'quote', 'tags'; found: u, v. .*--text-column",
    ),
    ("marks alone", "q.jsonl", b'{"id": "1", "url": "https://a/b"}\n', "found: id, url"),
    ("no columns", "q.jsonl", b"{}\n", "found: none"),
    ("csv doubled", "q.csv", b"quote,tags,tags\na,b,c\n", "two columns are called 'tags'"),
    ("csv header open", "q.csv", b'"quote,tags\na,b\n', "q.csv:1: a quote opens in this row and never closes"),
    ("no parquet", "q.parquet", b"hello", "q.parquet: not a Parquet file"),
    ("empty parquet", "q.parquet", b"", "q.parquet: not a Parquet file"),
    (
        "text after the array",
        "q.json",
        b"[" + GOOD.encode() + b"]\nxyz",
        "q.json:3: byte 43: something follows the end",
    ),
    ("two arrays", "q.json", b"[" + GOOD.encode() + b"][]", "something follows the end of the array"),
]


@pytest.mark.parametrize(
    ("name", "data", "says"), [row[1:] for row in WHOLE_FILES], ids=[row[0] for row in WHOLE_FILES]
)
def test_files_with_nothing_to_use(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    refuse(tmp_path / name, says)
    refuse(tmp_path / name, ".", skip=True)


def test_arrays_say_row_and_line(tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    path.write_text('[\n  {"quote": "a", "tags": []},\n\n  {"quote": "b",\n   "tags": {}}\n]')
    refuse(path, r"^q.json:4 \(row 2\): column 'tags' holds an object")
    path.write_text('[{"quote": "a", "tags": []},\n {"quote": "b",\n  "tags" 3}]')
    refuse(path, r"^q.json:2 \(row 2\): invalid JSON: Expecting ':' delimiter at line 3, column 10")
    path.write_text('[{"quote": "a", "tags": []}, {"quote": b}]')
    refuse(path, r"^q.json:1 \(row 2\): invalid JSON: Expecting value at line 1, column 40")
    path.write_text('[{"quote": "a", "tags": []},\n')
    refuse(path, r"^q.json:2 \(row 2\): the file ends at byte 29, before the array's closing \]")
    assert len(read_rows(path, skip_bad_rows=True).quotes) == 1
    path.write_text('[{"quote": "a", "tags": []},,]')
    refuse(path, "nothing between two commas")
    # A backslash before a line feed is no JSON, and the line ends all the same.
    path.write_text('[{"quote": "a", "tags": []},\n{"quote": "a\\\nb", "tags": []},\n{"quote": "", "tags": []}]')
    assert [problem.place for problem in read_rows(path, skip_bad_rows=True).skipped] == [
        "q.json:2 (row 2)",
        "q.json:4 (row 3)",
    ]


def test_windows_1252_among_utf8_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(GOOD.encode() + ROW % b"caf\xe9 \x93now\x94")
    rows = read_rows(path)
    assert (
        rows.quotes[1]["quote"] == "café “now”"
        and "q.jsonl: 1 line is Windows-1252, not UTF-8: converted" in rows.notes
    )
    path.write_bytes(ROW % "café".encode() + ROW % b"caf\xe9")
    refuse(path, "q.jsonl:2: not UTF-8: 0xe9 at byte 51")


def test_csv_rows(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    for bad, says in [
        (b"b\n", "q.csv:3: 1 fields where the header has 2"),
        (b"b,c,d\n", "q.csv:3: 3 fields where the header has 2"),
        (b'"b,c\nd,e\n', "q.csv:3: a quote opens in this row and never closes"),
        (b'"b"x"y,c\n', "q.csv:3: invalid CSV"),
        (b"b\xff,c\n", "q.csv:3: not UTF-8: 0xff at byte 16"),
        (b" ,c\n", "q.csv:3: column 'quote' is empty"),
        (b"b\x00,c\n", "q.csv:3: column 'quote' holds a NUL"),
        (b"b ->: x,c\n", "q.csv:3: column 'quote' contains the separator"),
        (BIG + b"b,c\n", "q.csv:3: the row is over"),
        (b'"' + b"b,c\n" * (MAX_ROW_BYTES // 4 + 100), "q.csv:3: the row is over.*Close the quote"),
    ]:
        path.write_bytes(b"quote,tags\na,b\n" + bad)
        refuse(path, f"^{says}")
        assert read_rows(path, skip_bad_rows=True).quotes[0] == {"quote": "a", "tags": ["b"]}
    path.write_bytes(b"quote,tags\na,b\nx\n\nc,\n")
    assert [quote["quote"] for quote in read_rows(path, skip_bad_rows=True).quotes] == ["a", "c"]


def test_parquet_rows(tmp_path: Path) -> None:
    path = tmp_path / "q.parquet"
    for quotes, says in [
        (["a", None], "q.parquet: row 2: column 'quote' is null"),
        (["a", " "], "q.parquet: row 2: column 'quote' is empty"),
        (["a", "x" * (MAX_ROW_BYTES + 1)], "q.parquet: row 2: the row is over"),
    ]:
        pyarrow.parquet.write_table(pyarrow.table({"quote": quotes, "tags": [["b"], []]}), path)
        refuse(path, f"^{says}")
        assert read_rows(path, skip_bad_rows=True).num_read == 2
    not_utf8 = _unchecked_strings([b"a", b"caf\xe9"])
    pyarrow.parquet.write_table(pyarrow.table({"quote": not_utf8, "tags": [["b"], []]}), path)
    refuse(path, r"q.parquet: row 2: column 'quote' is not UTF-8 \(byte 3 of the value\)")
    pyarrow.parquet.write_table(pyarrow.table({"quote": [1, 2], "tags": [["b"], []]}), path)
    refuse(path, "^q.parquet: row 1: column 'quote' holds a number")
    pyarrow.parquet.write_table(pyarrow.table({"x": ["a"], "y": ["b"]}), path)
    refuse(path, r"^q.parquet: row 1: no column 'quote', 'tags'; found: x, y\. .*--text-column")


def _unchecked_strings(values: list[bytes]) -> pyarrow.Array:
    binary = pyarrow.array(values, pyarrow.binary())
    return pyarrow.Array.from_buffers(pyarrow.string(), len(binary), binary.buffers())


def test_things_that_are_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quotes.jsonl").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    refuse("qoutes.jsonl", r"^no such file: qoutes.jsonl\. Did you mean 'quotes.jsonl'\?")
    refuse(tmp_path / "zzz.csv", "^no such file: .*zzz.csv. Give a .csv")
    refuse("nowhere/quotes.jsonl", "there is no folder nowhere")
    refuse("./quotes", "no such file: quotes. Did you mean 'quotes.jsonl'")
    for name in (
        "quotes",
        "a/b/c",
        "~nobody-here/x",
        "~/no-such-file-here",
        "",
        "a/b.parquet",
        "a b/c",
        "x" * 5000,
        "a\x00b",
    ):
        if name:
            refuse(name, "no such file|not a path|cannot be read")
    (tmp_path / "notes.org").write_text("x")
    refuse("notes.org", "not of a kind that can be read")
    (tmp_path / "q.yaml").write_text("- a")
    refuse("q.yaml", "q.yaml: .yaml files are not read. Type: python")
    refuse("https://a.org/b.csv", "is an address, and nothing is fetched from one. Download it first: curl -LO")
    refuse("https://huggingface.co/datasets/a/b/tree/main", "Give the data set's name on the Hub: a/b")
    (tmp_path / "empty").mkdir()
    refuse("empty", "a folder without a data file")
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    (tmp_path / "outer" / "inner" / "q.csv").write_text("quote,tags\na,b\n")
    (tmp_path / "outer" / "a_test").mkdir()
    (tmp_path / "outer" / "a_test" / "q.csv").write_text("quote,tags\na,b\n")
    refuse("outer", "Did you mean outer/inner?")
    (tmp_path / "outer" / "x.jsonl").mkdir()
    refuse("outer/x.jsonl", "a folder without a data file")
    refuse("outer", "x.jsonl is a folder, not a file")
    os.mkfifo(tmp_path / "pipe.jsonl")
    refuse("pipe.jsonl", "neither a file nor a folder")
    (tmp_path / "gone.jsonl").symlink_to("nothing")
    refuse("gone.jsonl", "no such file")
    (tmp_path / "round.jsonl").symlink_to("round.jsonl")
    refuse("round.jsonl", "no such file|cannot be read")


@pytest.mark.parametrize("name", ["q.jsonl", "q.json", "q.csv", "q.parquet"])
@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: OSError) -> None:
    (tmp_path / name).write_text(GOOD)

    def refuses(*args: object) -> None:
        raise error

    monkeypatch.setattr(Path, "open", refuses)
    refuse(tmp_path / name, "permission denied. .*chmod|cannot be read")


def test_no_good_row_is_left(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"quote": "", "tags": []}\nxyz\n')
    refuse(tmp_path / "q.jsonl", "none of its 2 rows is good; q.jsonl:1: column 'quote' is empty", skip=True)


def test_template_with_attribute_access_is_refused() -> None:
    with pytest.raises(UsageError, match="not the name of a column"):
        read_rows("sample", "{quote.__class__} ->: {tags}")


def test_a_hostile_header_takes_no_time(tmp_path: Path) -> None:
    keys = ", ".join(f'"k{i}": 0' for i in range(60_000))
    (tmp_path / "q.jsonl").write_text(f'{{{keys}, "k59999": 1}}\n')
    refuse(tmp_path / "q.jsonl", "'k59999' stands twice")
    (tmp_path / "q.jsonl").write_text(f"{{{keys}}}\n")
    refuse(tmp_path / "q.jsonl", "no column 'quote', 'tags'; found: k0, k1, .* k19 and 59,980 more")
    (tmp_path / "q.csv").write_text(",".join(f"k{i}" for i in range(100_000)) + "\nx" + "," * 99_999)
    refuse(tmp_path / "q.csv", "no column 'quote'")


def refuse(data: Path | str, says: str, *, skip: bool = False) -> None:
    """`data` must be a DataError of one line that says `says`, and what to do."""
    with pytest.raises(DataError, match=says) as caught:
        read_rows(data, skip_bad_rows=skip)
    assert caught.value.fix and "\n" not in str(caught.value) and len(str(caught.value)) < 12_000


def test_every_kind_of_file_is_read() -> None:
    assert set(READERS) == set(KINDS)


@pytest.mark.parametrize(
    ("data", "begins"),
    [(b"BZh9abc", ["bunzip2", "-k"]), ("Die Freiheit".encode("utf-16-le") * 9 + b"\x00", ["iconv", "-f", "UTF-16"])],
)
def test_a_command_that_is_told_works_with_blanks_in_the_path(tmp_path: Path, data: bytes, begins: list[str]) -> None:
    (tmp_path / "my data").mkdir()
    path = tmp_path / "my data" / "my quotes.csv"
    path.write_bytes(data)
    with pytest.raises(DataError) as refused:
        read_rows(path)
    typed = shlex.split(str(refused.value).partition("it: ")[2])
    assert typed[: len(begins)] == begins and str(path) in typed
