"""Which files a path stands for: itself, the files of a folder, or of a folder that a library wrote.

    train.csv test/a.csv ...    the splits that the names of files and folders say (`split_files.py`)
    a.csv b.csv                 all of them, in the order of their names; not those in folders below
    data/ in a clone            what a data set on the Hub has its files in
    state.json, *.arrow         a data set as `save_to_disk` leaves it; `dataset_dict.json` for one with splits

README, LICENSE and the files in which libraries keep notes are passed over; so is plain text beside tables."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

from florilegium.data.raw_rows import readable
from florilegium.data.split_files import TRAIN, Chosen, by_split, choose_splits, split_of
from florilegium.data.unpack import READ_KINDS, ending_of, is_data_name
from florilegium.errors import DataError
from florilegium.storage.run_directory import RunDirectory

_NOTES = {
    "dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "croissant.json", "config.json",
    "metadata.json", "package.json", "package-lock.json", "requirements.txt", "manifest.json", "datapackage.json",
}  # fmt: skip
MOST_FOLDERS = 100
_NOTE_STEMS = ("readme", "license", "licence", "changelog", "contributing", "citation", "notice", "authors", "credits")


def choose_files(path: Path, split: str | None = None) -> Chosen[Path]:
    """The files that are trained and those that are held out. Raises: DataError when there are none."""
    if path.is_dir():
        return _in_folder(path, split)
    if not path.is_file():
        raise DataError(f"{path} is neither a file nor a folder", f"Give {READ_KINDS}")
    if split and split_of(path.name) != split_of(split):
        raise DataError(
            f"{path} is one file, without a split {split!r}", "Leave --split out, or give a folder of splits"
        )
    return Chosen((path,))


def _in_folder(folder: Path, split: str | None) -> Chosen[Path]:
    entries = _entries(folder)
    _refuse_run(folder)
    if splits := _saved_splits(folder):
        return choose_splits({name: _saved_files(folder / name) for name in splits}, split, str(folder))
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return _without_split(folder, _saved_files(folder), split)
    wrong = next((entry for entry in entries if is_data_name(entry.name) and entry.is_dir()), None)
    if wrong:
        raise DataError(f"{wrong} is a folder, not a file", "Rename it, or give it as DATA itself")
    named = _tables_first(list(_named(folder)))
    if splits_here := by_split(named):
        return choose_splits(splits_here, split, str(folder))
    # of files without splits those of this folder alone; a clone of a data set has them all in `data/`
    files = [file for _, file in named if file.parent == folder]
    files = files or [file for of, file in named if of in (None, TRAIN) or split]
    return _without_split(folder, files, split) if files else _advise(folder, entries)


def _refuse_run(folder: Path) -> None:
    """A run's metrics.jsonl and samples.jsonl are rows of another kind."""
    if RunDirectory(folder).is_run and RunDirectory(folder).has_started:
        name = shlex.quote(str(folder))
        raise DataError(
            f"{folder} is a run, not rows to train on",
            f"Look at it: florilegium report {name}; train it further: florilegium train --from {name}",
        )


def _named(folder: Path, split: str | None = None) -> Iterator[tuple[str | None, Path]]:
    """Each file of rows with the split that it is of: those of the folder, of `data/`, and of folders that are called
    after a split. Raises: DataError for one of them that may not be looked into: its rows would be missed without a
    word."""
    for entry in _entries(folder):
        of = split_of(entry.name) or split
        if entry.is_dir() and not is_data_name(entry.name):
            is_ring = folder.resolve().is_relative_to(entry.resolve())  # a link to what holds it
            if (of or (entry.name == "data" and folder.name != "data")) and not is_ring:
                yield from _named(entry, of)
        elif _is_of_rows(entry):
            yield of, entry


def _tables_first(named: list[tuple[str | None, Path]]) -> list[tuple[str | None, Path]]:
    """Plain text only where there is nothing else, since it is mostly about the others."""
    tables = [(split, file) for split, file in named if ending_of(file.name) not in (".txt", ".md")]
    return tables or named


def _without_split(folder: Path, files: list[Path], split: str | None) -> Chosen[Path]:
    if split:
        asked = split_of(split)
        files = [file for file in files if asked in map(split_of, (file.name, file.parent.name))] if asked else []
        if not files:
            raise DataError(f"{folder} has no split {split!r}", "Leave --split out, or give the path of its file")
    return Chosen(tuple(files))


def _advise(folder: Path, entries: list[Path]) -> Chosen[Path]:
    """Folders below are only advised, the nearest ones with files in them; never one that is held back."""
    below: list[Path] = []
    locked: list[DataError] = []
    for _ in range(3):
        entries = [entry for entry in entries if entry.is_dir() and split_of(entry.name) in (None, TRAIN)]
        below = below or [entry for entry in entries if _has_rows(entry, locked)]
        entries = [entry for folder in entries[:MOST_FOLDERS] for entry in _entries_or_none(folder)]
    if locked and not below:
        raise locked[0]
    meant = f"Did you mean {' or '.join(map(str, below[:3]))}?" if below else f"Put {READ_KINDS} into it"
    raise DataError(f"{folder} is a folder without a data file", meant)


def _has_rows(folder: Path, locked: list[DataError]) -> bool:
    """Whether a file of rows is in a folder; one that may not be looked into goes to `locked`."""
    try:
        return next(_named(folder), None) is not None
    except DataError as error:
        locked.append(error)
        return False


def _entries_or_none(folder: Path) -> list[Path]:
    try:
        return _entries(folder)
    except DataError:
        return []


def _entries(folder: Path) -> list[Path]:
    """What is in a folder and neither hidden nor private. Raises: DataError where that may not be asked."""
    with readable(folder):
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "_")))
        if entries:
            entries[0].stat(follow_symlinks=False)  # names can be listed and yet nothing opened: `chmod a-x`
        return entries


def _is_of_rows(entry: Path) -> bool:
    return entry.is_file() and is_data_name(entry.name) and not _is_note(entry.name)


def _is_note(name: str) -> bool:
    return name.lower() in _NOTES or name.lower().startswith(_NOTE_STEMS)


def _saved_splits(folder: Path) -> list[str]:
    """The splits of a DatasetDict that `save_to_disk` wrote."""
    try:
        noted = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [name for name in noted if isinstance(name, str) and Path(name).name == name and (folder / name).is_dir()]


def _saved_files(folder: Path) -> list[Path]:
    """The Arrow files of a saved data set, in the order that it notes. Raises: DataError where they are not there."""
    try:
        noted = json.loads((folder / "state.json").read_text(encoding="utf-8"))["_data_files"]
        files = [folder / Path(str(entry["filename"])).name for entry in noted]
    except (OSError, ValueError, KeyError, TypeError):
        files = []
    if not files or not all(file.is_file() for file in files):
        raise DataError(f"{folder} is a saved data set without its files", "Write it again: dataset.save_to_disk(...)")
    return files
