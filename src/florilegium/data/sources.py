"""What DATA may be, and which reader takes it.

    sample                       the quotes that come with the package, whatever lies in this folder
    a path that exists           a file of any kind that `unpack.py` lists, or a folder of them (`folders.py`)
    owner/name[@revision]        a data set on the Hub

A local path always wins over the Hub. A name that looks like a path (a known ending, a leading `.`, `/` or `~`,
anything but exactly one slash) is never looked up there: a typing error in a file's name must not become a request to
somebody's server. An address is not fetched: what is trained lies on this machine, or has a name on the Hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from florilegium.data.arrow_rows import Columns, read_arrow, read_parquet
from florilegium.data.csv_rows import read_csv
from florilegium.data.folders import choose_files
from florilegium.data.hub import is_hub_id, open_hub, read_table
from florilegium.data.json_rows import read_json
from florilegium.data.raw_rows import Note, Stream, name_of, readable
from florilegium.data.split_files import Chosen
from florilegium.data.text_rows import read_markdown, read_text
from florilegium.data.unpack import READ_KINDS, is_data_name, kind_of_file
from florilegium.data.workbook_rows import read_workbook
from florilegium.errors import DataError, nearest

SAMPLE = "sample"
SAYINGS = Path(__file__).parent.parent / "seedling" / "sayings.jsonl"

Reader = Callable[[Path, Columns], Stream]
READERS: dict[str, Reader] = {
    ".jsonl": lambda path, columns: read_json(path),
    ".json": lambda path, columns: read_json(path),
    ".csv": lambda path, columns: read_csv(path),
    ".tsv": lambda path, columns: read_csv(path),
    ".txt": lambda path, columns: read_text(path),
    ".md": lambda path, columns: read_markdown(path),
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".xlsx": read_workbook,
}
_ADDRESS = re.compile(r"[a-z][a-z0-9+]{1,9}://", re.IGNORECASE)
_HUB_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/datasets/([\w.-]+/[\w.-]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """A file, or a split of a data set on the Hub: its rows, as often as they are asked for."""

    name: str
    rows: Callable[[Columns], Stream]


@dataclass(frozen=True)
class Source:
    """The parts that are trained and those that are held out already; what was decided between them."""

    parts: tuple[Part, ...]
    held_out: tuple[Part, ...] = ()
    said: str = ""


def open_source(data: str | Path, split: str | None = None) -> Source:
    """The rows of DATA, unchecked. Of a local path nothing is read before the first row is asked for.

    Raises: DataError, here or while reading, when there is nothing to read or it cannot be read as a whole."""
    if str(data) == SAMPLE:
        return Source((_part(SAYINGS),))
    _refuse_address(str(data))
    path = _expand(data)
    if _exists(path):
        return _as_source(choose_files(path, split))
    if isinstance(data, str) and not looks_like_path(data):
        found = open_hub(data, split)
        trained, held_out = (
            tuple(Part(data, partial(read_table, data, table)) for table in tables)
            for tables in (found.trained, found.held_out)
        )
        return Source(trained, held_out, found.said)
    raise _no_such_file(path)


def looks_like_path(name: str) -> bool:
    """Whether `name` can only be meant as a path, and never as a data set on the Hub."""
    return is_data_name(name) or name.startswith((".", "/", "~")) or not is_hub_id(name)


def _as_source(found: Chosen[Path]) -> Source:
    return Source(tuple(map(_part, found.trained)), tuple(map(_part, found.held_out)), found.said)


def _part(path: Path) -> Part:
    return Part(name_of(path), lambda columns: _read_file(path, columns))


def _read_file(path: Path, columns: Columns) -> Stream:
    empty = True
    for found in READERS[kind_of_file(path)](path, columns):
        empty = empty and isinstance(found, Note)
        yield found
    if empty:
        # Problems alone are told one by one before this; a file without even those has nothing in it.
        raise DataError(f"{name_of(path)}: the file has no rows", "Give a file with at least one row, or remove it")


def _refuse_address(data: str) -> None:
    page = _HUB_PAGE.match(data)
    if page:
        raise DataError(f"{data} is a page", f"Give the data set's name on the Hub: {page[1]}")
    if _ADDRESS.match(data):
        raise DataError(
            f"{data} is an address, and nothing is fetched from one", f'Download it first: curl -LO "{data}"'
        )


def _expand(data: str | Path) -> Path:
    try:
        return Path(data).expanduser()
    except RuntimeError:
        raise DataError(f"no such file: {data} (no such home folder)", "Write the path in full") from None


def _exists(path: Path) -> bool:
    try:
        with readable(path):
            return path.exists()
    except ValueError:
        raise DataError(
            f"not a path: {str(path)[:200]!r} holds a NUL character", f"Give the path of {READ_KINDS}"
        ) from None


def _names_in(folder: Path) -> list[str]:
    """Up to 2,000 names: enough to find a typing error, few enough to look at in a folder of a million files."""
    return [entry.name for entry in islice(folder.iterdir(), 2000) if not entry.name.startswith(".")]


def _meant(name: str, names: list[str]) -> str:
    """The file that was probably meant: the same name with its ending, or one that is spelled nearly the same."""
    endings = [other for other in names if Path(other).stem == Path(name).stem and is_data_name(other)]
    # Names without their endings are compared: `nothing.jsonl` and `latin1.jsonl` are alike in nothing else.
    stems = {Path(other).stem: other for other in names}
    return f"Did you mean {endings[0]!r}?" if endings else nearest(Path(name).stem, stems)


def _no_such_file(path: Path) -> DataError:
    if path.parent.is_dir():
        with readable(path.parent):
            meant = _meant(path.name, _names_in(path.parent))
        advice = meant or f"Give {READ_KINDS}, a folder of them, a Hub id (owner/name), or sample"
        return DataError(f"no such file: {path}", advice)
    return DataError(f"no such file: {path} (there is no folder {path.parent} either)", "Check the path")
