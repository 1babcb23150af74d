"""Good input of every kind, and what is counted on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from florilegium.data import Rows, examine, read_rows
from florilegium.data.sources import looks_like_path
from florilegium.errors import DataError

LIST = [
    {"quote": "Be kind.", "author": "A", "tags": ["life", "love"]},
    {"quote": "Be “brave”,\nand soon.", "author": "B", "tags": []},
]


def write(folder: Path, kind: str) -> Path:
    path = folder / f"quotes{kind}"
    if kind == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(LIST), path)
    elif kind == ".csv":
        rows = [f'"{row["quote"]}",{row["author"]},"{",".join(row["tags"])}"\r\n' for row in LIST]
        path.write_text("quote, author ,tags\r\n\r\n" + "".join(rows), newline="")
    elif kind == ".json":
        path.write_text(json.dumps(LIST, indent=2))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in LIST))
    return path


def test_every_kind_of_file(tmp_path: Path) -> None:
    read = {kind: read_rows(write(tmp_path, kind)) for kind in (".jsonl", ".json", ".csv", ".parquet")}
    wanted = [{"quote": "Be kind.", "tags": ["life", "love"]}, {"quote": "Be “brave”,\nand soon.", "tags": []}]
    assert all(rows.quotes == wanted and rows.columns == ("quote", "author", "tags") for rows in read.values())
    assert len({rows.digest for rows in read.values()}) == 1
    assert {kind: rows.places for kind, rows in read.items()} == {
        ".jsonl": ["quotes.jsonl:1", "quotes.jsonl:2"],
        ".json": ["quotes.json:2 (row 1)", "quotes.json:10 (row 2)"],
        ".csv": ["quotes.csv:3", "quotes.csv:4"],
        ".parquet": ["quotes.parquet: row 1", "quotes.parquet: row 2"],
    }
    everything = read_rows(tmp_path)
    assert everything.quotes == wanted and everything.duplicates == 6 and everything.num_read == 8
    assert everything.places == ["quotes.csv:3", "quotes.csv:4"], "files are read in the order of their names"


@pytest.mark.parametrize(
    "data",
    [
        b'\xef\xbb\xbf{"quote": "a", "tags": []}\n',
        b'{"quote": "a", "tags": []}\r\n\r\n  \n',
        b'\n\n{"tags": "", "quote": "\\n a "}',
        b' [{"quote": "a", "tags": []}]',
        b'\xef\xbb\xbf\r\n[\r\n{"quote": "a", "tags": [","]}\r\n]\r\n',
        b'{"quote": "a", "tags": [], "more": {"x": [1, NaN, null, 123456789012345678901234567890]}}',
    ],
)
def test_harmless_oddities(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "q.json").write_bytes(data)
    assert read_rows(tmp_path / "q.json").quotes == [{"quote": "a", "tags": []}]


def test_strings_with_brackets_do_not_confuse_the_array(tmp_path: Path) -> None:
    quotes = ["] } , [ {", '"', "\\", '\\"', "a\\\\", "]" * 70_000, "}{" * 40_000]
    (tmp_path / "q.json").write_text(json.dumps([{"quote": quote, "tags": [], "x": [[{}]]} for quote in quotes]))
    assert [quote["quote"] for quote in read_rows(tmp_path / "q.json").quotes] == quotes


def test_duplicates_are_exact_after_normalisation(tmp_path: Path) -> None:
    rows = [("a", ["x"]), (" a\n", "x, x"), ("a", ["y"]), ("A", ["x"])]
    (tmp_path / "q.jsonl").write_text(
        "".join(json.dumps({"quote": quote, "tags": tags}) + "\n" for quote, tags in rows)
    )
    read = read_rows(tmp_path / "q.jsonl")
    assert (len(read.quotes), read.duplicates, read.num_read) == (3, 1, 4)
    assert read.places == ["q.jsonl:1", "q.jsonl:3", "q.jsonl:4"]


def test_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(
        '{"text": null, "labels": 1}\n{"text": "a", "labels": ["b", "c"]}\n{"text": "d", "labels": "e, f"}\n'
    )
    rows = read_rows(path, "{text} => {labels}", skip_bad_rows=True)
    assert rows.template.list_columns == ("labels",)
    assert rows.quotes == [{"text": "a", "labels": ["b", "c"]}, {"text": "d", "labels": ["e", "f"]}]
    assert [problem.place for problem in rows.skipped] == ["q.jsonl:1"]
    assert read_rows(path, "{text}", skip_bad_rows=True).quotes == [{"text": "a"}, {"text": "d"}]


def test_a_folder_passes_over_what_is_no_data(tmp_path: Path) -> None:
    write(tmp_path, ".jsonl")
    (tmp_path / ".hidden.jsonl").write_text("x")
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "below").mkdir()
    assert len(read_rows(tmp_path).quotes) == 2
    (tmp_path / "sub.JSON").write_text("{")
    with pytest.raises(DataError, match=r"^sub.JSON:1: "):
        read_rows(tmp_path)


def test_data_does_not_depend_on_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that is part of a name is taken out of what is printed, and never out of the rows."""
    monkeypatch.setenv("MY_API_KEY", "Ada Exam")
    (tmp_path / "q.jsonl").write_text('{"quote": "Ada Example is kind.", "tags": [], "author": " Ada  Example Jr. "}\n')
    rows = read_rows(tmp_path / "q.jsonl")
    assert rows.authors == ["Ada Example Jr."] and rows.quotes[0]["quote"] == "Ada Example is kind."
    authors = examine(rows).authors
    assert authors and authors.most_frequent[0][0] == "***ple Jr"


def test_an_unprintable_file_name_is_printable_in_places(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff\x1b[31m\n.jsonl"))
    path.write_text('{"quote": "a", "tags": []}\n')
    assert all(place.isprintable() for place in read_rows(path).places)


def test_the_sample() -> None:
    rows = read_rows("sample")
    assert rows.source == "sample" and rows.skipped == [] and rows.columns == ("quote", "tags")


def test_english_quotes_as_it_is(english_quotes: Path) -> None:
    rows = read_rows(english_quotes)
    assert (rows.num_read, len(rows.quotes), rows.duplicates, rows.skipped) == (2508, 2508, 0, [])
    assert rows.columns == ("quote", "author", "tags")
    raw = [json.loads(line) for line in english_quotes.read_text(encoding="utf-8").splitlines()]
    for quote, row in zip(rows.quotes, raw, strict=True):
        assert quote == {"quote": row["quote"].strip(), "tags": row["tags"]}
        assert rows.template.parse(rows.template.render(quote)) == quote


# --- the Hub: never asked here; a stand-in answers in its place


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`hub.answer` is what load_dataset gives, or the error that it raises; `hub.asked` what it was asked."""
    stand_in = SimpleNamespace(answer=None, asked=[])

    def load_dataset(name: str, **options: object) -> object:
        stand_in.asked.append((name, options))
        if isinstance(stand_in.answer, Exception):
            raise stand_in.answer
        return stand_in.answer

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return stand_in


class TableOfTheHub:
    """As much of `datasets.Dataset` as we use."""

    def __init__(self, table: pyarrow.Table) -> None:
        self.table, self.column_names = table, table.column_names

    def select_columns(self, names: list[str]) -> TableOfTheHub:
        return TableOfTheHub(self.table.select(names))

    def with_format(self, kind: str) -> TableOfTheHub:
        assert kind == "arrow"
        return self

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, rows: slice) -> pyarrow.Table:
        return self.table[rows]


def test_a_hub_id(hub: SimpleNamespace) -> None:
    hub.answer = TableOfTheHub(pyarrow.Table.from_pylist(LIST * 200))
    rows: Rows = read_rows("Abirate/english_quotes@v1.0", split="test")
    assert hub.asked == [("Abirate/english_quotes", {"split": "test", "revision": "v1.0"})]
    assert rows.quotes[0] == {"quote": "Be kind.", "tags": ["life", "love"]} and rows.duplicates == 398
    assert rows.places[1] == "Abirate/english_quotes@v1.0: row 2"
    hub.answer = TableOfTheHub(pyarrow.Table.from_pylist([{"quote": None, "tags": []}]))
    with pytest.raises(DataError, match="^owner/name: row 1: column 'quote' is null"):
        read_rows("owner/name")
    hub.answer = TableOfTheHub(pyarrow.Table.from_pylist([{"text": "a", "label": 1}]))
    assert read_rows("owner/name").quotes == [{"quote": "a", "tags": ["1"]}]
    hub.answer = {
        name: TableOfTheHub(pyarrow.Table.from_pylist([{"quote": name, "tags": []}])) for name in ("test", "train")
    }
    rows = read_rows("owner/name")
    assert ([q["quote"] for q in rows.quotes], rows.held_out_from) == (["train", "test"], 1)
    hub.answer = TableOfTheHub(pyarrow.Table.from_pylist([{"x": "a", "y": 1}]))
    with pytest.raises(DataError, match="^owner/name: row 1: no column 'quote', 'tags'; found: x, y"):
        read_rows("owner/name")


def answered(status: int) -> Exception:
    """What the Hub's client raises of an HTTP status."""
    error = RuntimeError(f"{status} for url")
    error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    return error


def refused(kind: type[RepositoryNotFoundError], words: str) -> Exception:
    """As `datasets` raises it: one of its own, from the Hub's, which answers 401 to either."""
    error, cause = DatasetNotFoundError(words), kind.__new__(kind)
    cause.response = SimpleNamespace(status_code=401)  # type: ignore[assignment]
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (ConnectionError("Couldn't reach 'a/b' on the Hub"), "Check the network"),
        (DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub"), "Check the name"),
        (answered(404), "Check the name"),
        (answered(401), "Accept the terms"),
        (ValueError("Unknown split \"train\". Should be one of ['test']."), "choose one of those listed"),
        (refused(GatedRepoError, "'a/b' is a gated dataset\nmore"), "Accept the terms"),
        (refused(RepositoryNotFoundError, "Dataset 'a/b' cannot be accessed"), "Check the name"),
        (TimeoutError("The read operation timed out"), "Check the network"),
        (RuntimeError(""), "Download its files"),
    ],
)
def test_what_the_hub_may_answer(hub: SimpleNamespace, error: Exception, fix: str) -> None:
    hub.answer = error
    with pytest.raises(DataError, match="^a/b: cannot load it from the Hub") as caught:
        read_rows("a/b")
    assert fix in caught.value.fix


def test_offline_says_so(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.answer = ConnectionError("offline")
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set: unset it"):
        read_rows("a/b")


def test_the_real_library_offline(tmp_path: Path) -> None:
    """What `datasets` itself raises without a network becomes one line, too."""
    code = "from florilegium.data import read_rows; read_rows('owner/no-such-data-set')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert "florilegium.errors.DataError: owner/no-such-data-set: cannot load it from the Hub" in done.stderr
    assert "HF_HUB_OFFLINE is set" in done.stderr


def test_a_local_path_wins_and_a_path_is_never_asked_for(
    hub: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    write(tmp_path / "owner" / "name", ".jsonl")
    assert len(read_rows("owner/name").quotes) == 2
    for name in (
        "a/b.jsonl",
        "./a/b",
        "/a/b",
        "~/b",
        "quotes",
        "a/b/c",
        "a/b.JSON",
        "a b/c",
        "../a",
        "a/.b",
        "a/b@",
    ):
        assert looks_like_path(name)
        with pytest.raises(DataError, match="^no such file"):
            read_rows(name)
    with pytest.raises(DataError, match="^no such file"):
        read_rows(Path("a/b"))
    assert hub.asked == []
    assert not looks_like_path("a/b") and not looks_like_path("Abirate/english_quotes@refs/convert")


def test_the_room_opens_without_heavy_imports() -> None:
    code = "import sys, florilegium.data; print([n for n in ('torch', 'datasets', 'pyarrow', 'numpy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
