"""A FIFO in place of any file of a run, an adapter or a base, before any command that takes one: nobody waits at it.

Opening a FIFO blocks until the other side comes, so a command that reads one without looking would never end. Here the
other side is a thread that comes at once and keeps count: no clock decides, and a command that waited goes on."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from florilegium.cli.main import main
from florilegium.errors import ResourceError
from florilegium.storage.atomic_files import append_line, sync_file
from florilegium.storage.atomic_folders import ChecksumMismatch, read_manifest
from florilegium.storage.run_lock import LOCK, is_locked, locked
from tests.tiny import PAGES
from tests.torture.hostile import copied

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are none here")
LOOK_EVERY = 0.02  # seconds
EXPECTED = (0, 2, 3, 4, 5)  # 5: a lock that cannot be written


def somebody_waits(fifo: Path) -> str:
    """Who waits at the other side, and is let go: a reader, a writer, or nobody (an empty string)."""
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        return "read"
    except OSError as error:
        if error.errno != errno.ENXIO:  # replaced by a file, or gone
            return ""
    end = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        watch = select.poll()
        watch.register(end, select.POLLIN | select.POLLHUP)
        return "written" if watch.poll(1) else ""
    finally:
        os.close(end)


@contextlib.contextmanager
def watched(*fifos: Path) -> Iterator[set[str]]:
    """What was done to the FIFOs meanwhile."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_EVERY):
            for fifo in fifos:
                with contextlib.suppress(OSError):
                    if fifo.is_fifo():
                        seen.add(somebody_waits(fifo))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
        seen.discard("")


def commands_of(run: Path, stopped: Path, tiny: Path, quotes: Path, new: Path) -> list[list[object]]:
    base = ["--model", tiny, "--device", "cpu"]
    return [
        ["generate", "--run", run, "-n", 1, "--max-new-tokens", 2, *base],
        ["generate", "--run", run / "adapter", "-n", 1, "--max-new-tokens", 2, *base],
        ["evaluate", run, *base, "--data", quotes, "--generations", 1, "--general", PAGES],
        ["report", run],
        ["report", run, run],
        ["runs"],
        ["runs", "prune", run.name],
        ["resume", run, "--epochs", 9, "--device", "cpu"],
        ["resume", stopped, "--device", "cpu"],
        ["train", quotes, "--from", run, "--max-steps", 1, "--verdict-texts", 0, "--output", new / "further"],
        ["export", run, "--to", "merged", "--model", tiny, "--output", new / "merged"],
        ["export", run, "--to", "gguf-adapter", "--model", tiny, "--output", new / "adapter.gguf"],
        ["push", run, "somebody/model", "--dry-run"],
        ["serve", run, "--port", 0, *base],
    ]


def with_fifo(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        os.mkfifo(folder / name)

    return change


def files_of(run: Path) -> list[str]:
    """All that a run has, of its checkpoints the newest one's, and what only some runs have."""
    newest = max((run / "checkpoints").iterdir()).name
    found = [str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()]
    kept = [name for name in found if not name.startswith("checkpoints/") or f"/{newest}/" in f"/{name}"]
    return sorted({*kept, "evaluation.json", "events.jsonl", "samples.jsonl", "comparison.json"})


@pytest.mark.slow
def test_nobody_waits_at_a_fifo(
    reference: Callable[..., Path],
    tiny: Path,
    quotes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("florilegium.serve.run.make_app", lambda *_: pytest.skip("it would be served"))
    wrong, source = [], reference()
    for name in files_of(source):
        run = copied(source, tmp_path / "runs" / "whole", with_fifo(name))
        stopped = copied(source, tmp_path / "runs" / "stopped", lambda folder: shutil.rmtree(folder / "adapter"))
        if not name.startswith("adapter/"):
            with_fifo(name)(stopped)
        for command in commands_of(run, stopped, tiny, quotes, tmp_path / "new"):
            words = [str(word) for word in command]
            with watched(run / name, stopped / name) as seen:  # `runs` looks into both
                try:
                    code = main(words)
                except pytest.skip.Exception:
                    code = 0
            err = capsys.readouterr().err
            if seen or code not in EXPECTED or "Traceback" in err:
                wrong.append(f"{name}: {' '.join(words[:2])}: {sorted(seen)} exit {code} {err[-200:]}")
        shutil.rmtree(tmp_path / "runs")
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
    assert not wrong, "\n".join(wrong)


def test_what_a_run_is_resumed_from_and_goes_on_in_is_no_fifo(tmp_path: Path) -> None:
    """A checkpoint's manifest, and the lines that are appended: one of each, that the table above need not be run for."""
    fifo = tmp_path / "lines.jsonl"
    os.mkfifo(fifo)
    with watched(fifo) as seen:
        with pytest.raises(ChecksumMismatch):
            read_manifest(tmp_path, fifo.name)
        for opens in (lambda: append_line(fifo, {"step": 1}), lambda: sync_file(fifo)):
            with pytest.raises(ResourceError, match="not a plain file"):
                opens()
    assert not seen


def test_a_lock_that_is_a_fifo_is_not_even_opened(tmp_path: Path) -> None:
    """`runs` asks each run for its lock: a FIFO there holds nothing, and is not opened for writing."""
    lock = tmp_path / LOCK
    os.mkfifo(lock)
    end = os.open(lock, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert not is_locked(tmp_path)
        with pytest.raises(ResourceError, match="not a plain file"), locked(tmp_path):
            pass
        watch = select.poll()
        watch.register(end, select.POLLIN | select.POLLHUP)
        assert not watch.poll(0)  # a writer that came and went would have hung up
    finally:
        os.close(end)
