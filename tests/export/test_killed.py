"""`kill -9` at any moment of an export: what stands under its name is whole, and the next export sweeps the rest.

The moments are those at which the disk changes (a file opened, a folder made, a name given), each in turn, and some
between them, amid the bytes of a tensor."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from florilegium.cli.main import main
from florilegium.storage.atomic_folders import check_file, read_manifest
from tests.export.adapters import KINDS, save_adapter
from tests.tiny import save_tiny

FILE = "export.json"
CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}


def forked(command: list[str], place: Path, most: int) -> tuple[int, int]:
    """The command in a child that is killed before its change number `most` in `place`: how it ended, and how many
    changes it came to."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        seen = 0

        def hook(event: str, found: tuple[object, ...]) -> None:
            nonlocal seen
            if event not in CHANGES or not str(found[0]).startswith(str(place)):
                return
            if event == "open" and isinstance(found[2], int) and not found[2] & os.O_WRONLY | found[2] & os.O_RDWR:
                return
            if seen == most:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
            os.write(write, b".")

        sys.addaudithook(hook)
        os._exit(main(command))
    os.close(write)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read, "rb") as pipe:
        return os.waitstatus_to_exitcode(status), len(pipe.read())


def is_whole(out: Path) -> bool:
    """Whether the folder is all that its manifest says; asserts that nothing less has the name."""
    if not out.exists():
        return False
    files = read_manifest(out, FILE).files
    assert {p.name for p in out.iterdir()} == {*files, FILE} and "README.md" in files
    for name, entry in files.items():
        check_file(out / name, entry)
    return True


@pytest.mark.parametrize("form", ["merged", "gguf"])
def test_killed_before_each_change_of_the_disk(tiny: Path, tmp_path: Path, form: str) -> None:
    if form == "gguf":
        pytest.importorskip("gguf")
    adapter, place = save_adapter(tiny, tmp_path / "a", **KINDS["all-linear"]), tmp_path / "place"
    out = place / "out"
    command = ["export", str(adapter), "--to", form, "--output", str(out), "--no-check"]
    assert main(command) == 0  # here, so that what it imports is there in every child
    shutil.rmtree(place)
    code, changes = forked(command, place, 1 << 30)
    assert code == 0 and is_whole(out) and changes >= 6
    shutil.rmtree(place)
    whole = []
    for moment in range(changes):
        code, _ = forked(command, place, moment)
        assert code == -signal.SIGKILL
        whole.append(is_whole(out))
        shutil.rmtree(out, ignore_errors=True)  # what is dead and hidden stays for the next
    assert not whole[0] and sorted(whole) == whole  # once it has its name, it is whole
    assert main(command) == 0 and is_whole(out) and [p.name for p in place.iterdir()] == ["out"]


@pytest.mark.parametrize("after", [0.0, 0.05])
def test_killed_amid_the_bytes(tmp_path: Path, after: float) -> None:
    base = save_tiny(tmp_path / "base", heads=16, head_dim=32, layers=4)
    adapter, place = save_adapter(base, tmp_path / "adapter", **KINDS["all-linear"]), tmp_path / "place"
    out = place / "merged"
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        os._exit(main(["export", str(adapter), "--output", str(out), "--no-check"]))
    until = time.monotonic() + 60
    while not list(place.glob(".merged.*.tmp")) and not out.exists() and time.monotonic() < until:
        time.sleep(0.001)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    is_whole(out)
    assert main(["export", str(adapter), "--output", str(out), "--no-check", "--force"]) == 0 and is_whole(out)
    assert list(place.glob(".*")) == []  # what the dead one left is gone
