"""Folders that are whole or not there: how checkpoints and adapters reach the disk, and how they are taken back from
it.

    .step-00000100.tmp/             1. made under another name
        adapter.safetensors ...     2. each file written and flushed; its sha256 is taken from what was meant, not from what arrived
        manifest.json               3. names, sums and sizes of the files, and what the folder is: written and flushed last
    fsync .step-00000100.tmp        4. the names in it are on disk
    rename -> step-00000100         5. it has its name
    fsync of the parent             6. and keeps it through a power cut; only now may an older one go

A crash before 5 leaves a folder that nobody reads, after 5 a whole one; a power cut before 6 leaves either. Whatever
else befalls the bytes (a flipped bit, a file of another step, a hole), the manifest does not vouch for it, and
`ChecksumMismatch` says what is wrong. A reader gets the very bytes that were summed (`read_verified`), so nothing can change between the
check and the use."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from florilegium.errors import ResourceError
from florilegium.storage.atomic_files import TRAINING, Remedy, disk_errors, free_bytes, new_file, no_room_fix
from florilegium.storage.platform import sync_folder

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
ROOM_FOR_NAMES = 1 << 15  # directory entries, the manifest, the file system's own rounding

Piece = bytes | memoryview
Files = Mapping[str, Iterable[Piece]]


class ChecksumMismatch(Exception):
    """A folder that its manifest does not vouch for, and why. Who reads it decides which of `errors.py` that is."""


class FileSum(TypedDict):
    """A file's entry in a manifest."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """A manifest as it was read: `files` are file names and their sums, `facts` is the whole of it. Anybody may have
    written it: only that `files` is an object is known."""

    facts: Mapping[str, object]
    files: Mapping[str, object]


class NewFolder:
    """A folder in the making, under a name that nobody reads. `facts` may be added to until it is whole."""

    def __init__(self, path: Path, facts: Mapping[str, object]) -> None:
        self.path, self.facts = path, dict(facts)
        self.sums: dict[str, FileSum] = {}

    def write(self, name: str, pieces: Iterable[Piece]) -> None:
        """One file, flushed; its sum is taken from the pieces."""
        self.sums[name] = _write(self.path / name, pieces)

    def drop(self, name: str) -> None:
        """Removes a file again that was of use on the way."""
        (self.path / name).unlink()
        self.sums.pop(name, None)

    def adopt(self, name: str) -> None:
        """A file that another program wrote here: flushed, and summed as it lies."""
        handle = os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW)
        with open(handle, "rb") as file:
            os.fsync(handle)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            self.sums[name] = {"sha256": digest, "bytes": os.fstat(handle).st_size}


@contextlib.contextmanager
def new_folder(
    final: Path, facts: Mapping[str, object], *, needed: int, manifest: str = MANIFEST, remedy: Remedy = TRAINING
) -> Iterator[NewFolder]:
    """A folder to write into that appears at `final` whole, with its manifest, when the block ends, or not at all.

    `needed` is its size in bytes, compared with what is free before anything is written. What stands at `final` must be
    out of the way already. Raises ResourceError; then nothing of it is left."""
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    with disk_errors(final, needed, remedy):
        if needed + ROOM_FOR_NAMES > free_bytes(final.parent):
            raise ResourceError(f"cannot write {final}: no room", no_room_fix(final, needed + ROOM_FOR_NAMES, remedy))
        remove_folder(temporary)
        os.mkdir(temporary)
        try:
            folder = NewFolder(temporary, facts)
            yield folder
            values = {**folder.facts, "files": folder.sums}
            _write(temporary / manifest, [json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n"])
            sync_folder(temporary)
            os.rename(temporary, final)
        except BaseException:
            with contextlib.suppress(OSError):
                remove_folder(temporary)
            raise
        sync_folder(final.parent)


def commit_folder(
    final: Path, files: Files, facts: Mapping[str, object], *, needed: int, manifest: str = MANIFEST
) -> None:
    """Writes `files` (name to pieces) as the folder `final`, whole or not at all: `new_folder` at one stroke."""
    with new_folder(final, facts, needed=needed, manifest=manifest) as folder:
        for name, pieces in files.items():
            folder.write(name, pieces)


def _write(path: Path, pieces: Iterable[Piece]) -> FileSum:
    digest, size = hashlib.sha256(), 0
    with new_file(path) as file:
        for piece in pieces:
            digest.update(piece)
            size += len(piece) if isinstance(piece, bytes) else piece.nbytes
            file.write(piece)
    return {"sha256": digest.hexdigest(), "bytes": size}


def remove_folder(folder: Path) -> None:
    """Removes a folder; one with a name of its own is renamed first, so that no half of it ever stands under that
    name."""
    if not folder.exists():
        return
    doomed = folder
    if not folder.name.startswith("."):
        doomed = folder.with_name(f".{folder.name}.{os.getpid()}.gone")
        os.rename(folder, doomed)
    shutil.rmtree(doomed)


def sweep_dead(final: Path) -> None:
    """Removes what a process that died in the making of `final` left beside it; one that lives goes on."""
    for path in final.parent.glob(f".{final.name}.*"):
        number = path.name.removeprefix(f".{final.name}.").partition(".")[0]
        if path.suffix in (".tmp", ".gone") and number.isdecimal() and not _lives(int(number)):
            with contextlib.suppress(OSError):
                shutil.rmtree(path)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def sweep(parent: Path) -> None:
    """Removes what a process that died left under names that nobody reads. Call it only while the run is locked."""
    for path in parent.glob(".*"):
        if path.suffix in (".tmp", ".gone"):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def read_manifest(folder: Path, manifest: str = MANIFEST) -> Manifest:
    """The manifest, of bounded size. Raises ChecksumMismatch."""
    path = folder / manifest
    try:
        if path.exists() and not path.is_file():  # opening a FIFO would wait for its writer
            raise ValueError
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
        if len(data) > MAX_MANIFEST_BYTES:
            raise ValueError
        facts = json.loads(data)
        if not isinstance(facts, dict) or not isinstance(facts["files"], dict):
            raise ValueError
        return Manifest(facts, facts["files"])
    except FileNotFoundError:
        raise ChecksumMismatch(f"{manifest} is missing") from None
    except (OSError, ValueError, KeyError, RecursionError):
        raise ChecksumMismatch(f"{manifest} cannot be read") from None


def read_verified(folder: Path, names: Collection[str], manifest: str = MANIFEST) -> dict[str, bytes]:
    """The bytes of the files `names`, each of them summed. Raises ChecksumMismatch."""
    files = read_manifest(folder, manifest).files
    if not set(names) <= files.keys():
        raise ChecksumMismatch(f"{manifest} does not name {', '.join(sorted(set(names) - files.keys()))}")
    return {name: _read_summed(folder / name, files[name]) for name in names}


def check_file(path: Path, entry: object) -> None:
    """Compares a file with its entry in a manifest, without having it in memory. Raises ChecksumMismatch."""
    try:
        known = _checked_sum(entry)
        if path.is_symlink() or not path.is_file() or path.stat().st_size != known["bytes"]:
            raise ChecksumMismatch(f"{path.name} is missing, or of another size")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != known["sha256"]:
                raise ChecksumMismatch(f"{path.name} failed its checksum")
    except (OSError, ValueError):
        raise ChecksumMismatch(f"{path.name} cannot be read") from None


def _checked_sum(entry: object) -> FileSum:
    """Raises ValueError for what is no entry of a manifest."""
    match entry:
        case {"sha256": str(digest), "bytes": int(size)}:
            return {"sha256": digest, "bytes": size}
    raise ValueError(entry)


def _read_summed(path: Path, known: object) -> bytes:
    try:
        # The size first: a file that was blown up must not get into memory.
        if path.is_symlink() or not path.is_file():
            raise ChecksumMismatch(f"{path.name} is missing")
        entry = _checked_sum(known)
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise ChecksumMismatch(f"{path.name} has {size:,} bytes where {entry['bytes']:,} were written")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise ChecksumMismatch(f"{path.name} failed its checksum")
    except (OSError, ValueError):
        raise ChecksumMismatch(f"{path.name} cannot be read") from None
    return data
