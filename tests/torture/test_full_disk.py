"""No room: a small file system that fills at some byte of the run, a limit on a file's size, a folder that cannot be
written."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from florilegium.training.checkpoint import checkpoints, find_problem
from tests.torture.conftest import different_bits, train_arguments, weights
from tests.warm import Child, Warm


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system takes root")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def refused(child: Child) -> None:
    assert child.code == 5, child.err
    line = child.last_line
    assert line.startswith("florilegium: ") and "MB are needed and " in line and "MB are free" in line, line
    assert "Traceback" not in child.err


def goes_on(warm: Warm, arguments: list[str], run: Path, right: Path) -> int:
    """Whatever is there is whole; with room it is finished to the same bits. Returns whether something was there to go
    on with."""
    assert (
        all(find_problem(path) == "" for path in checkpoints(run / "checkpoints"))
        if (run / "checkpoints").is_dir()
        else True
    )
    assert not (run / "adapter").exists()
    begun = (run / "config.yaml").exists()
    child = warm.run(["resume", run] if begun else arguments, cwd=run.parent)
    assert child.code == 0, child.err
    assert different_bits(weights(run), weights(right)) == 0
    assert not [p for p in run.rglob(".*") if p.name != ".lock"]
    return int(begun)


def test_no_room(
    warm: Warm, tiny: Path, quotes: Path, reference: Callable[..., Path], tmp_path: Path, amount: Callable[[int, int], int],
    figure: Callable[[str, str], None],
) -> None:  # fmt: skip
    largest = sum(p.stat().st_size + 4096 for p in reference().rglob("*")) // 1024
    count = amount(3, 60)
    resumed = tried = beforehand = 0
    for number in range(count):
        kilobytes = 8 + (largest - 8) * number // count
        with small_disk(tmp_path / f"disk-{number}", kilobytes) as disk:
            # Every third time the room is looked at beforehand, as it is for users; else the disk fills while it is
            # written to.
            before = None if number % 3 == 0 else ("no_look_at_the_room", {})
            arguments = train_arguments(tiny, quotes, disk / "run")
            child = warm.run(arguments, cwd=tmp_path, before=before)
            if child.code == 0:
                assert different_bits(weights(disk / "run"), weights(reference())) == 0
                continue
            refused(child)
            tried, beforehand = tried + 1, beforehand + ("no room for checkpoints" in child.err)
            remount(disk, "size=64m")
            resumed += goes_on(warm, arguments, disk / "run", reference())
    assert tried > count // 2 and resumed
    limits = _file_size_limits(warm, tiny, quotes, reference(), tmp_path, amount(1, 20))
    _read_only(warm, tiny, quotes, reference(), tmp_path)
    text = (
        f"{tried} disks too small ({beforehand} told before the first step), {limits} file-size limits, read-only twice"
    )
    figure(
        "full disk",
        f"{text}: 0 corrupted, exit 5 each, needed and free said, all {tried + limits + 1} finished once there was room",
    )


def _file_size_limits(warm: Warm, tiny: Path, quotes: Path, right: Path, tmp_path: Path, count: int) -> int:
    tried = 0
    for number in range(count):
        limit = 6_000 + 20_000 * number // count  # what it prints goes to files under the same limit
        run = tmp_path / f"limited-{number}"
        arguments = train_arguments(tiny, quotes, run)
        child = warm.run(arguments, cwd=tmp_path, limits={"FSIZE": limit})
        if child.code:
            refused(child)
            assert "ulimit -f" in child.last_line
            goes_on(warm, arguments, run, right)
            tried += 1
    assert tried
    return tried


def _read_only(warm: Warm, tiny: Path, quotes: Path, right: Path, tmp_path: Path) -> None:
    """A run begun, its file system turned read-only, and a new run into it."""
    with small_disk(tmp_path / "read-only", 10_000) as disk:
        shutil.copytree(right, disk / "run")
        shutil.rmtree(disk / "run" / "adapter")
        remount(disk, "ro")
        for arguments in (["resume", disk / "run"], train_arguments(tiny, quotes, disk / "new")):
            child = warm.run(arguments, cwd=tmp_path)
            assert child.code == 5 and "Read-only file system" in child.last_line and "--output" in child.last_line, (
                child.err
            )
        remount(disk, "rw")
        goes_on(warm, [], disk / "run", right)


def test_a_flush_that_fails(
    warm: Warm,
    tiny: Path,
    quotes: Path,
    reference: Callable[..., Path],
    tmp_path: Path,
    amount: Callable[[int, int], int],
) -> None:
    """A disk that is broken says so when it is flushed, and only there: the bytes were taken long before."""
    refusals = 0
    for at in sorted(random.Random(9).sample(range(1, 90), amount(3, 20))):
        run = tmp_path / f"run-{at}"
        arguments = train_arguments(tiny, quotes, run)
        before = ("fail_operation", {"at": at, "error": errno.EIO, "kinds": ["fsync"]})
        child = warm.run(arguments, cwd=tmp_path, before=before)
        assert "Traceback" not in child.err, child.err
        if (run / "adapter").exists():  # the flush behind its name failed, or one for the report
            assert different_bits(weights(run), weights(reference())) == 0
            continue
        assert child.code == 5 and "cannot write" in child.last_line and "Input/output error" in child.last_line, (
            child.err
        )
        refusals += 1
        goes_on(warm, arguments, run, reference())
    assert refusals
