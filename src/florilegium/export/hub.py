"""Files onto the Hugging Face Hub: one commit, tried again where that helps, looked up afterwards.

The Hub shows a commit whole or not at all, so an upload that is cut off leaves nothing behind that looks like a model.
"Done" is said only when the Hub names every file with the size and, of large ones, the sum that were meant."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from florilegium.errors import FlorilegiumError, ModelError, UsageError, reason_of
from florilegium.export.hub_files import Parcel
from florilegium.export.origin import HUB_ID
from florilegium.storage.library_errors import http_status, is_connection_error, ran_out_of_memory

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

WAITS = (1.0, 4.0, 15.0)  # seconds before another try
AGAIN = (408, 409, 412, 425, 429, 500, 502, 503, 504)
T = TypeVar("T")


def check_repo(repo: str) -> str:
    """Raises UsageError for what is no Hub id."""
    if not HUB_ID.fullmatch(repo) or ".." in repo or "--" in repo or repo.endswith((".git", ".ipynb")):
        raise UsageError(f"{repo!r} is no name of a repository on the Hub", "Name it USER/NAME")
    return repo


def upload(parcel: Parcel, repo: str, *, private: bool, say: Callable[[str], None]) -> str:
    """Sends `parcel` to `repo`, which is made where it is not there. The page's address. Raises UsageError without a
    token, ModelError where the Hub refuses or cannot be reached."""
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not (token := get_token()):
        raise UsageError(
            "there is no Hugging Face token on this machine",
            "Set HF_TOKEN to one that may write, or type `hf auth login`; --dry-run shows what would be sent without one",
        )
    disable_progress_bars()
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token, library_name="florilegium")
    sums = parcel.sums()
    trying = Trying(repo, say)
    page = trying("make the repository", lambda: api.create_repo(repo, private=private, exist_ok=True))
    say(f"sending {len(sums)} files, {sum(size for size, _ in sums.values()) / 1e6:,.1f} MB")

    def commit() -> CommitInfo:
        # made anew for each try: an operation remembers how far it came
        operations = [
            CommitOperationAdd(name, str(what) if isinstance(what, Path) else what)
            for name, what in parcel.files.items()
        ]
        return api.create_commit(repo, operations, commit_message="Upload from florilegium")

    oid = trying("upload", commit).oid
    listed = trying("look it up", lambda: list(api.list_repo_tree(repo, recursive=True, revision=oid)))
    _check_arrived(listed, sums, repo)
    return str(page)


def _check_arrived(listed: list[Any], sums: dict[str, tuple[int, str]], repo: str) -> None:
    there = {entry.path: entry for entry in listed if hasattr(entry, "size")}
    for name, (size, sha256) in sums.items():
        entry = there.get(name)
        lfs = getattr(entry, "lfs", None)
        if entry is None or entry.size != size or (lfs is not None and lfs.sha256 != sha256):
            raise ModelError(f"the Hub does not hold {name} as it was sent to {repo}", "Push it again")


class Trying:
    """Calls that are tried again where the Hub is busy or the connection breaks, and turn refusals into one line."""

    def __init__(self, repo: str, say: Callable[[str], None]) -> None:
        self.repo, self.say = repo, say

    def __call__(self, what: str, call: Callable[[], T]) -> T:
        for wait in (*WAITS, None):
            try:
                return call()
            except FlorilegiumError:
                raise
            except Exception as error:  # the client raises many kinds: its own, httpx's, the system's
                if ran_out_of_memory(error):
                    raise
                status = http_status(error)
                if wait is None or not _is_passing(error, status):
                    raise self._refused(what, error, status) from error
                self.say(f"could not {what} ({_kind(error, status)}); trying again in {wait:g} s")
                time.sleep(wait)
        raise AssertionError

    def _refused(self, what: str, error: Exception, status: int | None) -> FlorilegiumError:
        fixes = {
            401: "The token is not valid: make one that may write at huggingface.co/settings/tokens",
            403: f"The token may not write to {self.repo}: use one that may, or a repository of your own",
            404: f"Check the name {self.repo}, and that the token may write there",
            409: "Somebody else is writing to it: push again later",
            413: "Send less at once",
        }
        if os.environ.get("HF_HUB_OFFLINE"):
            fix = "HF_HUB_OFFLINE is set: unset it to send anything"
        else:
            fix = fixes.get(status or 0, "Nothing of it is visible there: push again later")
        return ModelError(
            f"could not {what} on the Hub for {self.repo} ({_kind(error, status)}: {reason_of(error)})", fix
        )


def _is_passing(error: BaseException, status: int | None) -> bool:
    """Whether another try may help: the Hub is busy, or the connection broke."""
    if status is not None:
        return status in AGAIN
    return is_connection_error(error)


def _kind(error: BaseException, status: int | None) -> str:
    return f"HTTP {status}" if status is not None else type(error).__name__
