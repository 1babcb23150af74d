"""What a power cut may leave of a list of file operations.

Only two things are promised by the system: bytes of a file that was flushed are there, and names in a folder that was
flushed are there. Everything after the last flush may be there, be there in part, or not; and names may get to the disk
before the bytes that they name. `crash_states` plays the operations up to each point and then makes each such state, a
folder to read."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class File:
    """Bytes written so far, and how many of them were flushed."""

    data: bytes = b""
    flushed: int = 0


@dataclass
class Folder:
    """Names now, and the changes to them since the folder was flushed: (name, what it was before, what it is then)."""

    names: dict[str, Node] = field(default_factory=dict)
    unflushed: list[tuple[str, Node | None, Node | None]] = field(default_factory=list)


Node = File | Folder


def crash_states(
    operations: Sequence[Sequence[str]], before: Path, base: Path, state: Path, seeds: int
) -> Iterator[tuple[int, Path]]:
    """How many of the `operations` on the folder `base`, which began as the copy `before`, were done, and a state after
    them, at `state`.

    `seeds` random choices of what got to the disk are made at each point, beside all, nothing, empty, half and zeros.
    """
    root = _read(before)
    for number in range(len(operations) + 1):
        if number:
            _play(root, operations[number - 1], base)
        kinds = ["all", "nothing", "empty", "half", "zeros", *(f"random {number} {seed}" for seed in range(seeds))]
        for kind in kinds:
            if state.exists():
                shutil.rmtree(state)
            _write(root, state, kind, random.Random(kind))
            yield number, state


def _read(path: Path) -> Folder:
    folder = Folder()
    for entry in path.iterdir():
        folder.names[entry.name] = _read(entry) if entry.is_dir() else File(entry.read_bytes(), entry.stat().st_size)
    return folder


def _play(root: Folder, operation: Sequence[str], base: Path) -> None:
    name, first, *rest = operation
    home, last = _find(root, first, base)
    if name in ("mkdir", "create"):
        _set(home, last, Folder() if name == "mkdir" else File())
    elif name == "write":
        file = home.names[last]
        assert isinstance(file, File)
        file.data += bytes.fromhex(rest[0])
    elif name == "fsync":
        node = home.names[last] if last else root
        if isinstance(node, File):
            node.flushed = len(node.data)
        else:
            node.unflushed.clear()
    elif name == "rename":
        there, new = _find(root, rest[0], base)
        moved = home.names[last]
        _set(home, last, None)
        _set(there, new, moved)
    elif name in ("unlink", "rmdir"):
        _set(home, last, None)


def _find(root: Folder, path: str, base: Path) -> tuple[Folder, str]:
    """The folder that holds `path`, and its name there. Names that `rmtree` gives alone belong to the folder that is
    being removed."""
    if not os.path.isabs(path):
        doomed = next((node for name, node in root.names.items() if name.endswith(".gone")), root)
        assert isinstance(doomed, Folder)
        return (doomed, path) if path in doomed.names else (root, path)
    parts = Path(path).relative_to(base).parts
    folder: Node = root
    for part in parts[:-1]:
        assert isinstance(folder, Folder)
        folder = folder.names[part]
    assert isinstance(folder, Folder)
    return folder, parts[-1] if parts else ""


def _set(folder: Folder, name: str, node: Node | None) -> None:
    folder.unflushed.append((name, folder.names.get(name), node))
    if node is None:
        del folder.names[name]
    else:
        folder.names[name] = node


def _write(folder: Folder, path: Path, kind: str, draw: random.Random) -> None:
    """The folder as the disk may have it: of its unflushed changes a first part, all or none of them."""
    path.mkdir()
    kept = len(folder.unflushed)
    if kind == "nothing":
        kept = 0
    elif kind.startswith("random"):
        kept = draw.randint(0, kept)
    names = dict(folder.names)
    for name, old, _ in reversed(folder.unflushed[kept:]):
        names.pop(name, None)
        if old is not None:
            names[name] = old
    for name, node in names.items():
        if isinstance(node, Folder):
            _write(node, path / name, kind, draw)
        else:
            (path / name).write_bytes(_bytes(node, kind, draw))


def _bytes(file: File, kind: str, draw: random.Random) -> bytes:
    rest = file.data[file.flushed :]
    choice = draw.choice(["all", "empty", "half", "zeros"]) if kind.startswith("random") else kind
    arrived = {"all": rest, "nothing": b"", "empty": b"", "half": rest[: len(rest) // 2], "zeros": bytes(len(rest))}[
        choice
    ]
    return file.data[: file.flushed] + arrived
