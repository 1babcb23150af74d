"""What DATA may be, and which reader takes it.

    sample                       the sayings that come with the package, whatever lies in this folder
    a path that exists           a .jsonl, .json, .csv or .parquet file, or a folder of them (not its subfolders)
    owner/name[@revision]        a data set on the Hub

A local path always wins over the Hub. A name that looks like a path (a known ending, a leading `.`, `/` or `~`,
anything but exactly one slash) is never looked up there: a typing error in a file's name must not become a request to
somebody's server."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

from florilegium.data.hub import is_hub_id, read_hub
from florilegium.data.json_rows import read_json, read_jsonl
from florilegium.data.raw_rows import Stream, name_of, readable
from florilegium.data.tables import read_csv, read_parquet
from florilegium.errors import DataError, nearest

SAMPLE = "sample"
# a column that is read where it is there, whether or not the template trains it: splits may go by author
AUTHOR = "author"
SAYINGS = Path(__file__).parent.parent / "seedling" / "sayings.jsonl"

Reader = Callable[[Path, tuple[str, ...]], Stream]
READERS: dict[str, Reader] = {
    ".jsonl": lambda path, columns: read_jsonl(path),
    ".json": lambda path, columns: read_json(path),
    ".csv": read_csv,
    ".parquet": lambda path, columns: read_parquet(path, columns, also=(AUTHOR,)),
}
_KINDS = "a .jsonl, .json, .csv or .parquet file"


def open_source(data: str | Path, columns: tuple[str, ...], split: str) -> Stream:
    """The rows of DATA, unchecked. Nothing is opened before the first one is asked for.

    Raises: DataError, here or while reading, when there is nothing to read or it cannot be read as a whole.
    """
    if str(data) == SAMPLE:
        return _read_files([SAYINGS], columns)
    path = _expand(data)
    if _exists(path):
        return _read_files(_files_in(path) if path.is_dir() else [_known_file(path)], columns)
    if isinstance(data, str) and not looks_like_path(data):
        return read_hub(data, split, columns, also=(AUTHOR,))
    raise _no_such_file(path)


def looks_like_path(name: str) -> bool:
    """Whether `name` can only be meant as a path, and never as a data set on the Hub."""
    return Path(name).suffix.lower() in READERS or name.startswith((".", "/", "~")) or not is_hub_id(name)


def _read_files(paths: list[Path], columns: tuple[str, ...]) -> Stream:
    for path in paths:
        empty = True
        for found in READERS[path.suffix.lower()](path, columns):
            empty = False
            yield found
        if empty:
            raise DataError(f"{name_of(path)}: the file has no rows", "Give a file with at least one row, or remove it")


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
            f"not a path: {str(path)[:200]!r} holds a NUL character", f"Give the path of {_KINDS}"
        ) from None


def _known_file(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path} is neither a file nor a folder", f"Give {_KINDS}")
    if path.suffix.lower() not in READERS:
        raise DataError(f"{path} is not of a kind that can be read", f"Convert it to {_KINDS}, or give it that ending")
    return path


def _files_in(folder: Path) -> list[Path]:
    with readable(folder):
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    known = [entry for entry in entries if entry.suffix.lower() in READERS]
    wrong = next((entry for entry in known if entry.is_dir()), None)
    if wrong:
        raise DataError(f"{wrong} is a folder, not a file", "Rename it, or give it as DATA itself")
    files = [entry for entry in known if entry.is_file()]
    if not files:
        below = next((entry for entry in entries if entry.is_dir() and any(_data_in(entry))), None)
        meant = f"Did you mean {below}?" if below else f"Put {_KINDS} into it"
        raise DataError(f"{folder} is a folder without a data file", meant)
    return files


def _data_in(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if entry.suffix.lower() in READERS]
    except OSError:
        return []


def _names_in(folder: Path) -> list[str]:
    """Up to 2,000 names: enough to find a typing error, few enough to look at in a folder of a million files."""
    return [entry.name for entry in islice(folder.iterdir(), 2000) if not entry.name.startswith(".")]


def _meant(name: str, names: list[str]) -> str:
    """The file that was probably meant: the same name with its ending, or one that is spelled nearly the same."""
    endings = [other for other in names if Path(other).stem == Path(name).stem and Path(other).suffix in READERS]
    return f"Did you mean {endings[0]!r}?" if endings else nearest(name, names)


def _no_such_file(path: Path) -> DataError:
    if path.parent.is_dir():
        with readable(path.parent):
            meant = _meant(path.name, _names_in(path.parent))
        advice = meant or f"Give {_KINDS}, a folder of them, a Hub id (owner/name), or sample"
        return DataError(f"no such file: {path}", advice)
    return DataError(f"no such file: {path} (there is no folder {path.parent} either)", "Check the path")
