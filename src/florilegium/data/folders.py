"""Which files a path stands for: itself, the files of a folder, or of a folder that a library wrote.

    train.csv test.csv ...      the splits that the names say (`split_files.py`)
    a.csv b.csv                 all of them, in the order of their names; not those in folders below
    data/ in a clone            what a data set on the Hub has its files in
    state.json, *.arrow         a data set as `save_to_disk` leaves it; `dataset_dict.json` for one with splits

README, LICENSE and the files in which libraries keep notes are passed over; so is plain text beside tables."""

from __future__ import annotations

import json
from pathlib import Path

from florilegium.data.raw_rows import readable
from florilegium.data.split_files import Chosen, by_split, choose_splits, split_of
from florilegium.data.unpack import READ_KINDS, ending_of, is_data_name
from florilegium.errors import DataError

_NOTES = {
    "dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "croissant.json", "config.json",
    "metadata.json", "package.json", "package-lock.json", "requirements.txt", "manifest.json", "datapackage.json",
}  # fmt: skip
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
    with readable(folder):
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "_")))
    if splits := _saved_splits(folder):
        return choose_splits({name: _saved_files(folder / name) for name in splits}, split, str(folder))
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return _without_split(folder, _saved_files(folder), split)
    wrong = next((entry for entry in entries if is_data_name(entry.name) and entry.is_dir()), None)
    if wrong:
        raise DataError(f"{wrong} is a folder, not a file", "Rename it, or give it as DATA itself")
    files = _data_files(entries)
    folders = [entry for entry in entries if entry.is_dir() and _data_below(entry)]
    if not files and not by_split((entry.name, entry) for entry in folders):
        return _below(folder, folders, split)
    named = [(file.name, [file]) for file in files] or [(entry.name, _data_below(entry)) for entry in folders]
    splits_here = {name: [file for group in groups for file in group] for name, groups in by_split(named).items()}
    if splits_here:
        return choose_splits(splits_here, split, str(folder))
    return _without_split(folder, files, split)


def _without_split(folder: Path, files: list[Path], split: str | None) -> Chosen[Path]:
    if split:
        files = [file for file in files if split_of(file.name) == split_of(split)] if split_of(split) else []
        if not files:
            raise DataError(f"{folder} has no split {split!r}", "Leave --split out, or give the path of its file")
    return Chosen(tuple(files))


def _below(folder: Path, folders: list[Path], split: str | None) -> Chosen[Path]:
    """A clone of a data set has its files in `data/`; any other folder below is only advised."""
    if len(folders) == 1 and folders[0].name == "data":
        return _in_folder(folders[0], split)
    below = next((entry for entry in folders if split_of(entry.name) in (None, "train")), None)
    meant = f"Did you mean {below}?" if below else f"Put {READ_KINDS} into it"
    raise DataError(f"{folder} is a folder without a data file", meant)


def _data_files(entries: list[Path]) -> list[Path]:
    """Files of rows; plain text only where there is nothing else, since it is mostly about the others."""
    files = [entry for entry in entries if entry.is_file() and is_data_name(entry.name) and not _is_note(entry.name)]
    tables = [file for file in files if ending_of(file.name) not in (".txt", ".md")]
    return tables or files


def _is_note(name: str) -> bool:
    return name.lower() in _NOTES or name.lower().startswith(_NOTE_STEMS)


def _data_below(folder: Path) -> list[Path]:
    try:
        return _data_files(sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".")))
    except OSError:
        return []


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
