"""`florilegium push RUN|DIR REPO`: an adapter or an export onto the Hub, with its card filled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from florilegium.export.hub import check_repo, upload
from florilegium.export.hub_files import Parcel, is_export, pack_adapter, pack_export
from florilegium.export.subject import describe
from florilegium.runs.cards import export_card
from florilegium.runs.recorder import NullView, ProgressView
from florilegium.storage.run_directory import adapter_folder, find_run


@dataclass(frozen=True)
class Pushed:
    """`address` is empty for a dry run."""

    repo: str
    private: bool
    parcel: Parcel
    address: str = ""


def push(
    run: str | Path, repo: str, *, private: bool = False, dry_run: bool = False, view: ProgressView | None = None
) -> Pushed:
    """Sends the adapter of a run, or a folder that `export` made, to the repository `repo` of the Hub; with `dry_run`
    nothing is sent. Raises UsageError, ModelError."""
    view = view or NullView()
    check_repo(repo)
    parcel = pack(find_run(str(run)), repo)
    if dry_run:
        return Pushed(repo, private, parcel)
    return Pushed(repo, private, parcel, upload(parcel, repo, private=private, say=view.say))


def pack(folder: Path, repo: str) -> Parcel:
    """What would be sent."""
    if is_export(folder):
        return pack_export(folder, repo)
    adapter = adapter_folder(folder)
    subject = describe(folder, adapter)
    return pack_adapter(adapter, subject.base, export_card(subject, "adapter", where=repo))
