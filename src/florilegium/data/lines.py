"""Text files, one physical line at a time, without ever holding more of a line than a row may have.

Everything here is bytes with a line number and a byte offset: only so can a message name the byte that is not UTF-8.
UTF-16 and UTF-32 are converted as a whole, old Mac line ends (a lone CR) likewise; a UTF-8 byte order mark is dropped.
A line that is not UTF-8 is taken for Windows-1252, as Excel saves it, while no line before it held UTF-8 beyond ASCII:
a file is in one encoding or the other, and a bad byte among good UTF-8 is a bad row. So is a line that as Windows-1252
is no text of any language: Cyrillic, Greek, Polish or old Mac text must not be trained as `Ëàìïà` and `¿ó³ta`."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from florilegium.data.quote import SKIP
from florilegium.data.raw_rows import Note, Problem
from florilegium.data.unpack import open_unpacked, read_whole
from florilegium.errors import DataError
from florilegium.storage.paths import quoted

MAX_ROW_BYTES = 1 << 20
OVER_LIMIT = f"the row is over {MAX_ROW_BYTES:,} bytes"

_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
# Three bytes that are built as UTF-8 (a surrogate, a cut sequence) are not Windows-1252; nor are bytes that it lacks.
_NOT_WINDOWS = re.compile(rb"[\xe0-\xef][\x80-\xbf]{2}|[\x00-\x08\x81\x8d\x8f\x90\x9d\xfe\xff]")
# What text in Windows-1252 has not, but other encodings read as if they were it: runs of accented letters (Cyrillic,
# Greek, Hebrew) or of anything that is not ASCII (Chinese, Korean), signs amid letters (Polish, Big5), a capital behind
# a small letter (old Mac), the Nordic ø beside letters of the south (Czech).
_RUNS = re.compile(r"[À-ÖØ-öø-ÿ]{4,}|[^\x00-\x7f]{6,}")
_NO_LANGUAGE = re.compile(
    r"[^\W\d_][¹³¿¯¼¾£¥¦¬¤¢¨][a-zà-öø-ÿ]|[a-zà-öø-ÿ][ŽŠŒŸÀ-ÖØ-Þ](?![A-ZÀ-ÖØ-Þ])|[øØ].*[ìùšžò]|[ìùšžò].*[øØ]"
)
_LIKELY_ENCODINGS = "windows-1251 (Cyrillic), windows-1250 (Central Europe), macintosh, shift_jis, gb18030"


class Piece(NamedTuple):  # a frozen dataclass takes three times as long to make, and each row is one
    """Bytes of a file and where they begin (line and column from 1, offset from 0); `data` is None where they were too
    many."""

    data: bytes | None
    line: int
    offset: int
    column: int = 1


@contextmanager
def open_text(path: Path) -> Iterator[tuple[BinaryIO, list[Note]]]:
    """`path` unpacked, in UTF-8 and behind its byte order mark, and what had to be converted.

    Raises: DataError when it cannot be opened, or looks like UTF-16 or UTF-32 and is none."""
    with open_unpacked(path) as (file, _):
        head = file.read(1 << 16)
        wide = _wide_encoding(head[:1024])
        if wide:
            text, note = _converted(path, file, head, wide)
            yield io.BytesIO(text), [note]
        elif _has_old_mac_ends(head):
            data = (head + read_whole(file, path.name)).removeprefix(_BOM)
            yield io.BytesIO(data.replace(b"\r", b"\n")), [Note(f"{path.name}: old Mac line ends, converted")]
        else:
            file.seek(len(_BOM) if head.startswith(_BOM) else 0)
            yield file, []


def _has_old_mac_ends(head: bytes) -> bool:
    """Lines that end in a CR alone. In JSON a CR is white space like any other, but for one between two objects."""
    if b"\n" in head or b"\r" not in head.rstrip(b"\r"):
        return False
    return not head.lstrip().startswith((b"{", b"[")) or b"}\r{" in head


def _wide_encoding(head: bytes) -> str:
    """UTF-16 or UTF-32 by the byte order mark, else by the NULs: ASCII is half or three quarters NULs there."""
    for mark, name in _WIDE_BOMS.items():
        if head.startswith(mark):
            return name
    if head.count(0) * 5 <= len(head):
        return ""
    if b"\x00\x00\x00" in head[:8]:
        return "UTF-32-BE" if head.startswith(b"\x00\x00") else "UTF-32-LE"
    return "UTF-16-BE" if head[::2].count(0) > head[1::2].count(0) else "UTF-16-LE"


def _converted(path: Path, file: BinaryIO, head: bytes, encoding: str) -> tuple[bytes, Note]:
    try:
        text = (head + read_whole(file, path.name)).decode(encoding)
    except UnicodeDecodeError:
        text = "\x00"
    family = encoding[:6]
    if "\x00" in text or not _is_mostly_plain(text[:1000]):
        advice = f"Convert it: iconv -f {family} -t UTF-8 {quoted(path)} > {quoted(f'utf8-{path.name}')}"
        raise DataError(f"{path.name}: byte 0: looks like {family}, not UTF-8", advice)
    return text.removeprefix("\ufeff").encode(), Note(f"{path.name}: {family}, read as UTF-8")


def _is_mostly_plain(text: str) -> bool:
    """Bytes of another encoding, taken in pairs, are signs from all over: text has blanks, line ends, punctuation."""
    return sum(c.isascii() for c in text) * 20 >= len(text)


def physical_lines(file: BinaryIO, line: int = 1) -> Iterator[Piece]:
    """The lines of a file, without their line feed. A line over `MAX_ROW_BYTES` is read past, never into memory."""
    offset = file.tell()
    while data := file.readline(MAX_ROW_BYTES + 2):
        size = len(data)
        if size > MAX_ROW_BYTES and len(data.rstrip(b"\r\n")) > MAX_ROW_BYTES:
            size += _read_past_line(file, data)
            yield Piece(None, line, offset)
        else:
            yield Piece(data.rstrip(b"\n"), line, offset)
        offset += size
        line += 1


def _read_past_line(file: BinaryIO, data: bytes) -> int:
    """Reads on to the end of the line that `data` begins, and says how many bytes that took."""
    size = 0
    while data and not data.endswith(b"\n"):
        data = file.readline(MAX_ROW_BYTES)
        size += len(data)
    return size


class Decoder:
    """Bytes to text, for one file: UTF-8, and lines of Windows-1252 as long as nothing says that it is UTF-8."""

    def __init__(self) -> None:
        self.windows_lines = 0
        self._is_utf8 = False

    def decode(self, piece: Piece, place: str) -> str | Problem:
        """The text of a piece, or what is wrong with its bytes."""
        data = piece.data
        if data is None:
            return Problem(place, OVER_LIMIT, f"Shorten it, {SKIP}")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            if not self._is_utf8 and not _NOT_WINDOWS.search(data):
                text = data.decode("cp1252")
                if not _is_of_a_language(text):
                    return _in_another_encoding(text, place)
                self.windows_lines += 1
                return text
            byte = f"0x{data[error.start]:02x} at byte {piece.offset + error.start}"
            return Problem(place, f"not UTF-8: {byte}", f"Save the file as UTF-8, {SKIP}", kind="not UTF-8")
        if not self._is_utf8 and not text.isascii():
            self._is_utf8 = True
        return text

    def notes(self, name: str) -> Iterator[Note]:
        """What is to be said of the file at its end."""
        if self.windows_lines:
            lines = f"{self.windows_lines:,} lines are" if self.windows_lines > 1 else "1 line is"
            yield Note(f"{name}: {lines} Windows-1252, not UTF-8: converted")


def _is_of_a_language(text: str) -> bool:
    """Whether text that was read as Windows-1252 can be meant so; "Ääääh" is one letter drawn out."""
    runs: list[str] = _RUNS.findall(text)
    return not any(len(set(run.casefold())) > 2 for run in runs) and not _NO_LANGUAGE.search(text)


def _in_another_encoding(text: str, place: str) -> Problem:
    cause = f"neither UTF-8 nor Windows-1252, which would make it {text.strip()[:40]!r}"
    name = place.partition(":")[0]
    fix = f"Convert it from its encoding, one of {_LIKELY_ENCODINGS} or another: "
    fix += f"iconv -f ENCODING -t UTF-8 {quoted(name)} > {quoted(f'utf8-{name}')}"
    return Problem(place, cause, fix, kind="not UTF-8")
