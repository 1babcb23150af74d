"""CSV with blank lines, rows of empty cells and titles above its header: the header is the header, no row is lost, and a
message names the line that an editor shows."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from florilegium.data import read_rows
from florilegium.errors import DataError

SIGNS = {"q.csv": ",", "semicolons.csv": ";", "q.tsv": "\t"}
ENDS = list(itertools.product(("", "\ufeff"), ("\n", "\r\n")))
NOTHING = {
    "blank": "\n\n\n",
    "white space": "  \n\t\n \n",
    "no-break space": "\u00a0\n\u00a0\n",
    "form feed": "\x0c\n\n",
    "empty cells": "{sign}{sign}{sign}\n{sign}\n",
    "quoted empty cells": '""{sign}" "\n"" {sign}""\n',
    "another sign's empty cells": ";;;\n,,,\n|||\n\t\t\n",
}
TITLES = {
    "a title": ("My quotes\n", 1),
    "a comment, a title": ("# by hand{sign} 2020\n\nMy quotes{sign}\n", 2),
    "a title of two lines": ('"My quotes\nof 2020"{sign}\n', 1),
    "a title with a line separator": ("My\u2028quotes\x0bof 2020\n", 1),
}


def write(path: Path, above: str, names: str, mark: str, end: str) -> int:
    """The line of the row whose text is empty; each row has a quote and a tag."""
    sign = SIGNS[path.name]
    rows = [names, "Be kind.,life", "Be brave.,hope", ",empty", "Be still.,life"]
    text = above.replace("{sign}", sign) + "".join(row.replace(",", sign) + "\n" for row in rows)
    path.write_bytes((mark + text.replace("\n", end)).encode())
    return text.count("\n") - 1


@pytest.mark.parametrize("name", SIGNS)
@pytest.mark.parametrize("nothing", NOTHING)
def test_lines_of_nothing_above_the_header(tmp_path: Path, nothing: str, name: str) -> None:
    path = tmp_path / name
    for mark, end in ENDS:
        line = write(path, NOTHING[nothing], "first,second", mark, end)
        rows = read_rows(path, text_column="first", tags_column="second", skip_bad_rows=True)
        assert [row["quote"] for row in rows.quotes] == ["Be kind.", "Be brave.", "Be still."]
        assert rows.columns == ("first", "second") and [bad.place for bad in rows.skipped] == [f"{name}:{line}"]
        with pytest.raises(DataError, match=f"^{name}:{line}: column 'first' is empty"):
            read_rows(path, text_column="first", tags_column="second")


@pytest.mark.parametrize("name", SIGNS)
@pytest.mark.parametrize("title", TITLES)
def test_lines_of_nothing_around_titles(tmp_path: Path, title: str, name: str) -> None:
    path = tmp_path / name
    (words, count) = TITLES[title]
    for (before, behind), (mark, end) in itertools.product(itertools.product(NOTHING.values(), repeat=2), ENDS):
        line = write(path, before + words + behind, "quote,tags", mark, end)
        rows = read_rows(path, skip_bad_rows=True)
        assert [row["quote"] for row in rows.quotes] == ["Be kind.", "Be brave.", "Be still."]
        assert rows.columns == ("quote", "tags") and [bad.place for bad in rows.skipped] == [f"{name}:{line}"]
        lines = "1 line" if count == 1 else f"{count} lines"
        assert f"{name}: skipped {lines} above the header" in rows.notes


def test_a_header_of_excels_may_stand_below_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text("\n  \nsep=|\n\n||\nfirst|second\na, b; c|x\n|y\n")
    rows = read_rows(path, text_column="first", tags_column="second", skip_bad_rows=True)
    assert rows.columns == ("first", "second") and rows.places == ["q.csv:7"]
    assert [bad.place for bad in rows.skipped] == ["q.csv:8"]


@pytest.mark.parametrize("count", [2, 100_000])  # the dialect is told from 256 KiB
def test_a_file_of_empty_cells_alone_has_no_rows(tmp_path: Path, count: int) -> None:
    (tmp_path / "q.csv").write_text(",,,\n" * count)
    with pytest.raises(DataError, match="^q.csv: the file has no rows"):
        read_rows(tmp_path / "q.csv")
