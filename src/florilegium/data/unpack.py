"""A file as bytes, out of its gzip or its zip, and what kind of file it is: by its first bytes, then by its ending.

An ending is what somebody typed; the first bytes are what is there. A Parquet file called `.csv`, an Excel sheet called
`.csv`, JSON lines called `.txt` are read as what they are. What is no table of texts at all is refused here, each kind
with the command that makes one of it."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import BinaryIO

from florilegium.data.raw_rows import readable
from florilegium.errors import DataError
from florilegium.storage.paths import quoted

TEXT_KINDS = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".md")
KINDS = (*TEXT_KINDS, ".parquet", ".arrow", ".xlsx")
ALIASES = {".ndjson": ".jsonl", ".jsonlines": ".jsonl", ".text": ".txt", ".markdown": ".md", ".tab": ".tsv",
           ".feather": ".arrow", ".pq": ".parquet", ".fortune": ".txt"}  # fmt: skip
PACKED = (".gz", ".zip")
MAX_WHOLE_BYTES = 256 << 20  # packed tables, UTF-16, old Mac line ends
_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_ARROW_STREAM = b"\xff\xff\xff\xff"  # and the length of a schema, which no text begins with

_CONVERT = "python -c \"import pandas; pandas.{read}.to_json('{stem}.jsonl', orient='records', lines=True)\""
# First bytes of what is not read: its name, and what to type.
_REFUSED = {
    b"BZh": ("a bzip2 file", "Unpack it: bunzip2 -k {name}"),
    b"\xfd7zXZ": ("an xz file", "Unpack it: unxz -k {name}"),
    b"\x28\xb5\x2f\xfd": ("a Zstandard file", "Unpack it: unzstd {name}"),
    b"Rar!": ("a RAR archive", "Unpack it: unrar x {name}"),
    b"7z\xbc\xaf": ("a 7z archive", "Unpack it: 7z x {name}"),
    b"SQLite format 3": (
        "an SQLite database", 'Write a table of it to CSV: sqlite3 -header -csv {name} "SELECT * FROM quotes" > \'{stem}.csv\''
    ),
    b"%PDF": ("a PDF", "Copy its text into a .txt file, a quote a line"),
    b"\xd0\xcf\x11\xe0": ("an old Excel or Word file (.xls, .doc)", "Open it and save it as .xlsx, or as CSV UTF-8"),
    b"\x89HDF": ("an HDF5 file", "Type: " + _CONVERT.replace("{read}", "read_hdf('{name}')")),
    b"\x93NUMPY": ("a NumPy array", "Write its texts to a .jsonl file, an object a line"),
    b"\x80\x02": ("a pickle, which could run code", "Write it to a .jsonl file where it was made"),
    b"\x80\x03": ("a pickle, which could run code", "Write it to a .jsonl file where it was made"),
    b"\x80\x04": ("a pickle, which could run code", "Write it to a .jsonl file where it was made"),
    b"\x80\x05": ("a pickle, which could run code", "Write it to a .jsonl file where it was made"),
}  # fmt: skip
_REFUSED_ENDINGS = {
    (".tar", ".tgz"): "Unpack it: tar xf {name}",
    (".yaml", ".yml"): "Type: python -c \"import json, yaml; json.dump(yaml.safe_load(open('{name}')), open('{stem}.json', 'w'))\"",
    (".xml", ".html", ".htm"): "Take its texts out into a .jsonl or .csv file; pandas.read_html and read_xml do that for tables",
    (".docx", ".odt", ".rtf", ".epub"): "Copy its text into a .txt file, a quote a line",
    (".ods",): "Open it and save it as .xlsx, or as CSV UTF-8",
    (".pkl", ".pickle", ".pt", ".bin"): "These could run code: write the rows to a .jsonl file where they were made",
    (".py", ".ipynb"): "Run it, and let it write a .jsonl or .csv file",
}  # fmt: skip
READ_KINDS = "a .csv, .tsv, .jsonl, .json, .parquet, .arrow, .xlsx, .txt or .md file (.gz and .zip too)"


def ending_of(name: str) -> str:
    """The ending that says what a file holds, `.gz` and `.zip` taken off: `.jsonl` of `quotes.ndjson.gz`."""
    path = PurePath(name.lower())
    ending = PurePath(path.stem).suffix if path.suffix in PACKED and PurePath(path.stem).suffix else path.suffix
    return ALIASES.get(ending, ending)


def is_data_name(name: str) -> bool:
    """Whether a file of this name is read."""
    return ending_of(name) in (*KINDS, *PACKED)


@contextmanager
def open_unpacked(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    """The bytes of a file, or of the one file that it packs, and the name under which they were packed.

    Raises: DataError when it cannot be opened or is damaged."""
    with readable(path), path.open("rb") as file:
        head = file.read(4)
        file.seek(0)
        try:
            if head.startswith(_GZIP):
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield unpacked, path.name  # type: ignore[misc]  # as good as a BinaryIO; typeshed's differs
            elif head.startswith(_ZIP):
                yield from _out_of_zip(path, file)
            else:
                yield file, path.name
        except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path.name}: byte 0: the packed file is damaged ({error})", "Pack it again, or get it again"
            ) from None
        except NotImplementedError as error:  # Deflate64, which Windows takes for large files
            raise DataError(
                f"{path.name}: packed in a way that Python does not unpack ({error})",
                f"Unpack it: unzip {quoted(path)}",
            ) from None


def _out_of_zip(path: Path, file: BinaryIO) -> Iterator[tuple[BinaryIO, str]]:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
        if "[Content_Types].xml" in names:  # a zip by its bytes, a workbook by what is in it
            file.seek(0)
            yield file, f"{path.name}.xlsx"
            return
        data = [name for name in names if is_data_name(name)]
        if len(names) != 1 and len(data) != 1:
            listed = ", ".join(names[:5]) or "nothing"
            raise DataError(
                f"{path.name}: the zip holds {len(names):,} files: {listed}", f"Unpack it: unzip {quoted(path)}"
            )
        name = data[0] if len(data) == 1 else names[0]
        if archive.getinfo(name).flag_bits & 1:
            raise DataError(f"{path.name}: the zip asks for a password", f"Unpack it: unzip {quoted(path)}")
        with archive.open(name) as unpacked:
            yield unpacked, PurePath(name).name  # type: ignore[misc]


def kind_of_file(path: Path) -> str:
    """What is in a file: one of `KINDS`. Raises: DataError for what is not read, with what to do about it."""
    with open_unpacked(path) as (file, name):
        head = file.read(1 << 16)
    kind = _by_first_bytes(path, name, head)
    if kind:
        return kind
    ending = ending_of(name)
    if ending in KINDS:
        return _as_it_looks(ending, head)
    for endings, advice in _REFUSED_ENDINGS.items():
        if ending in endings:
            raise _refused(path, f"{ending} files are not read", advice)
    if head.lstrip()[:1] in (b"[", b"{"):
        return _as_it_looks(".txt", head)
    if b"\n%\n" in head.replace(b"\r\n", b"\n"):
        return ".txt"  # a file of fortunes has no ending
    raise _refused(path, "not of a kind that can be read", f"Convert it to {READ_KINDS}, or give it that ending")


def _by_first_bytes(path: Path, name: str, head: bytes) -> str:
    if head.startswith(b"PAR1"):
        return ".parquet"
    if head.startswith(b"ARROW1") or (head.startswith(_ARROW_STREAM) and ending_of(name) == ".arrow"):
        return ".arrow"
    if name.endswith(".xlsx") and head.startswith(_ZIP):
        return ".xlsx"
    for magic, (what, advice) in _REFUSED.items():
        if head.startswith(magic):
            raise _refused(path, f"byte 0: this is {what}", advice)
    return ""


def _as_it_looks(ending: str, head: bytes) -> str:
    """JSON called `.txt` or `.csv` is JSON; an array or an object over several lines called `.jsonl` is `.json`."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if ending in (".txt", ".md", ".csv", ".tsv"):
        is_json = text.startswith((b'{"', b"[{", b'["', b"[\n", b"{\n", b"[\r\n", b"{\r\n"))
        return (
            ".json" if is_json and (ending not in (".txt", ".md") or b'":' in text or text.startswith(b"[")) else ending
        )
    return ending


def _refused(path: Path, cause: str, advice: str) -> DataError:
    inside = advice.replace("'{name}'", f"'{path}'")  # of Python's own quotation marks
    return DataError(f"{path.name}: {cause}", inside.replace("{name}", quoted(path)).replace("{stem}", path.stem))


def in_memory(file: BinaryIO, name: str) -> BinaryIO:
    """What must be read from its end (Parquet, Arrow, workbooks), where it came out of a packed file."""
    return file if isinstance(file, io.BufferedReader) else io.BytesIO(read_whole(file, name))


def read_whole(file: BinaryIO, name: str) -> bytes:
    """All that is left of a file that cannot be read line by line. Raises: DataError beyond MAX_WHOLE_BYTES: a packed
    file of some megabytes may hold a hundred times as much."""
    data = file.read(MAX_WHOLE_BYTES + 1)
    if len(data) > MAX_WHOLE_BYTES:
        fix = (
            "Unpack it, or save it as UTF-8 text with a line feed behind each row: such files are read a row at a time"
        )
        raise DataError(f"{name}: more than {MAX_WHOLE_BYTES:,} bytes that must be read at once", fix)
    return data
