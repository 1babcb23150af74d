"""The commit protocol: death at every file operation, power cuts at every point of it, damage to every file, kills at
random."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from florilegium.training import load_checkpoint, newest_valid
from florilegium.training.checkpoint import FILES, checkpoints, find_problem
from tests.torture.conftest import different_bits, train_arguments, weights
from tests.torture.replay import crash_states
from tests.warm import Child, Warm

Amount = Callable[[int, int], int]
Figure = Callable[[str, str], None]


def test_death_at_every_operation_of_a_save(
    warm: Warm, tiny: Path, quotes: Path, reference: Callable[..., Path], tmp_path: Path, amount: Amount, figure: Figure
) -> None:
    """The third save, with the removal of the first one behind it."""
    copies = tmp_path / "copies"
    before = ("die_at_every_operation", {"number": 3, "copies": str(copies)})
    child = warm.run(train_arguments(tiny, quotes, tmp_path / "run"), cwd=tmp_path, before=before, seconds=300)
    assert child.code == -signal.SIGKILL, child.err
    operations = int((copies / "operations").read_text())
    assert operations > 40
    readable, newer = 0, 0
    for number in range(1, operations + 1):
        folder = copies / str(number) / "checkpoints"
        assert not (folder / "none-is-good").exists(), number
        checkpoint, skipped = newest_valid(folder)
        assert checkpoint is not None and checkpoint.name in ("step-00000004", "step-00000006"), (number, skipped)
        assert int(torch.isfinite(load_checkpoint(checkpoint).adapter.popitem()[1]).all())
        readable, newer = readable + 1, newer + (checkpoint.name == "step-00000006")
    assert 0 < newer < operations
    tried = sorted(random.Random(0).sample(range(1, operations + 1), min(operations, amount(2, 10_000))))
    for number in tried:
        resumed = warm.run(["resume", copies / str(number)], cwd=tmp_path)
        assert resumed.code == 0 and "resuming at step" in resumed.err, (number, resumed.err)
        assert different_bits(weights(copies / str(number)), weights(reference())) == 0, number
        assert not [p for p in (copies / str(number)).rglob(".*") if p.name != ".lock"], number
    figure(
        "nth operation",
        f"{readable} of {operations} leave a good checkpoint at every moment; {len(tried)} of {len(tried)} resumed to the same bits",
    )


def test_death_at_every_operation_of_the_adapter(
    warm: Warm, tiny: Path, quotes: Path, reference: Callable[..., Path], tmp_path: Path, amount: Amount
) -> None:
    """At the end of a run: the adapter is there and whole, or not there and made again."""
    copies = tmp_path / "copies"
    before = ("die_at_every_operation", {"number": 1, "copies": str(copies), "what": "adapter"})
    child = warm.run(train_arguments(tiny, quotes, tmp_path / "run"), cwd=tmp_path, before=before, seconds=300)
    assert child.code == -signal.SIGKILL, child.err
    operations = int((copies / "operations").read_text())
    there = [n for n in range(1, operations + 1) if (copies / str(n) / "adapter").exists()]
    assert operations > 20 and 0 < len(there) < operations
    for number in there:
        assert different_bits(weights(copies / str(number)), weights(reference())) == 0
    absent = [n for n in range(1, operations + 1) if n not in there]
    for number in random.Random(1).sample(absent, min(len(absent), amount(2, 1000))):
        resumed = warm.run(["resume", copies / str(number)], cwd=tmp_path)
        assert resumed.code == 0 and different_bits(weights(copies / str(number)), weights(reference())) == 0, (
            resumed.err
        )
        assert not [p for p in (copies / str(number)).rglob(".*") if p.name != ".lock"], number


def test_power_cuts(warm: Warm, tiny: Path, quotes: Path, tmp_path: Path, amount: Amount, figure: Figure) -> None:
    """What was not flushed may be gone, half there, or zeros; names may be on disk before what they name. Every state
    is read."""
    log = tmp_path / "operations.json"
    child = warm.run(
        train_arguments(tiny, quotes, tmp_path / "run"),
        cwd=tmp_path,
        before=("record_save", {"number": 3, "log": str(log)}),
    )
    assert child.code == 0, child.err
    operations = json.loads(log.read_text())
    kinds = {name for name, *_ in operations}
    assert {"create", "write", "fsync", "rename", "mkdir", "unlink", "rmdir"} <= kinds
    folder, before = tmp_path / "run" / "checkpoints", Path(str(log) + ".before")
    after = Path(str(log) + ".after")
    right = {p.name: load_checkpoint(p).adapter for p in [*checkpoints(before), *checkpoints(after)]}
    assert set(right) == {"step-00000002", "step-00000004", "step-00000006"}
    # From here on it is saved: its name was flushed, and the oldest may go.
    saved = 1 + max(n for n, (name, what, *_) in enumerate(operations) if name == "fsync" and Path(what) == folder)
    assert [name for name, *_ in operations[saved - 2 :]][:2] == ["rename", "fsync"] and "unlink" in [
        o[0] for o in operations[saved:]
    ]
    states = seen = newer = 0
    for done, state in crash_states(operations, before, folder, tmp_path / "state", seeds=amount(2, 60)):
        checkpoint, _ = newest_valid(state)
        assert checkpoint is not None, "nothing can be read"
        assert done < saved or checkpoint.name == "step-00000006", (done, "it was saved, and is gone")
        adapter = load_checkpoint(checkpoint).adapter
        assert different_bits(adapter, right[checkpoint.name]) == 0, "silently wrong"
        states, newer, seen = states + 1, newer + (checkpoint.name == "step-00000006"), seen + len(checkpoints(state))
    assert 0 < newer < states
    figure(
        "power cut",
        f"{states} states of {len(operations)} operations: 0 unreadable, 0 silently wrong ({newer} had the new one already)",
    )


def test_power_cuts_would_be_noticed(tmp_path: Path) -> None:
    """The replay itself can fail: without the flush of a file, a state with an empty file under the final name
    exists."""
    before, base = tmp_path / "before", tmp_path / "run"
    before.mkdir()
    operations = [
        ["mkdir", f"{base}/.a.tmp"],
        ["create", f"{base}/.a.tmp/x"],
        ["write", f"{base}/.a.tmp/x", b"data".hex()],
    ]
    operations += [["rename", f"{base}/.a.tmp", f"{base}/a"], ["fsync", str(base)]]
    found = {
        (s / "a" / "x").read_bytes()
        for _, s in crash_states(operations, before, base, tmp_path / "state", seeds=4)
        if (s / "a" / "x").exists()
    }
    assert b"data" in found and len(found) > 1


@pytest.fixture(scope="module")
def whole(reference: Callable[..., Path]) -> Path:
    """The checkpoints of a finished run: steps 10 and 12."""
    return reference() / "checkpoints"


def test_damage_of_every_kind(whole: Path, tmp_path: Path, amount: Amount, figure: Figure) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(whole, folder)
    newest, older = checkpoints(folder)
    draw = random.Random(7)
    cases = 0
    for name in [*FILES, "manifest.json"]:
        path = newest / name
        good = path.read_bytes()
        other = (older / name).read_bytes()
        damaged: list[bytes | None] = [None, b"", good[: len(good) // 2], good + b"\0", other, good[:-1]]
        if len(good) > 4096:
            damaged.append(good[:512] + b"\0" * 1024 + good[1536:])
        for _ in range(amount(10, 100)):
            flipped = bytearray(good)
            flipped[draw.randrange(len(good))] ^= 1 << draw.randrange(8)
            damaged.append(bytes(flipped))
        for data in damaged:
            if data == good:
                continue
            path.unlink()
            if data is not None:
                path.write_bytes(data)
            checkpoint, skipped = newest_valid(folder)
            if name == "manifest.json" and data and _same_meaning(data, good):
                assert checkpoint == newest
            else:
                assert checkpoint == older and len(skipped) == 1, (name, data and data[:80])
                reason = skipped[0].removeprefix(f"{newest.name} skipped: ")
                assert reason.startswith(f"{name} ") or name == "manifest.json", reason
                cases += 1
            path.unlink(missing_ok=True)
            path.write_bytes(good)
    assert find_problem(newest) == ""
    # The whole set of another step under this name, and a link in place of a file.
    shutil.rmtree(newest)
    shutil.copytree(older, newest)
    assert "it is that of step 10" in find_problem(newest)
    shutil.rmtree(newest)
    shutil.copytree(whole / newest.name, newest)
    (newest / "state.json").rename(tmp_path / "elsewhere.json")
    (newest / "state.json").symlink_to(tmp_path / "elsewhere.json")
    assert find_problem(newest) == "state.json is missing"
    figure("damage", f"{cases + 2} of {cases + 2} damaged checkpoints detected, the one before taken, the reason said")


def _same_meaning(data: bytes, good: bytes) -> bool:
    """A flip in the manifest's white space, or in a setting that nothing is checked against, leaves it as true as it
    was."""
    try:
        mine, theirs = json.loads(data), json.loads(good)
    except ValueError:
        return False
    return all(mine.get(key) == theirs[key] for key in ("format", "step", "files"))


def test_a_checkpoint_of_another_run_is_not_taken(
    warm: Warm, tiny: Path, quotes: Path, whole: Path, reference: Callable[..., Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(quotes.read_text().replace("Be kind", "Be good"))
    child = warm.run(train_arguments(tiny, other, tmp_path / "run"), cwd=tmp_path)
    assert child.code == 0, child.err
    shutil.rmtree(tmp_path / "run" / "adapter")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000012")
    shutil.copytree(whole / "step-00000012", tmp_path / "run" / "checkpoints" / "step-00000012")
    resumed = warm.run(["resume", tmp_path / "run"], cwd=tmp_path)
    assert (
        resumed.code == 0 and "step-00000012 skipped: it belongs to another run: its data digest differs" in resumed.err
    )
    assert "resuming at step 10" in resumed.err and (tmp_path / "run" / "checkpoints" / "step-00000012.old-1").is_dir()
    events = [json.loads(line)["event"] for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert any("skipped" in e for e in events) and any("moved to" in e for e in events)


def test_one_kept_checkpoint_is_never_the_damaged_one(
    warm: Warm, tiny: Path, quotes: Path, reference: Callable[..., Path], tmp_path: Path
) -> None:
    """With --keep-checkpoints 1 a damaged newer one must not have the new good one removed in its favour."""
    shutil.copytree(reference(), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "adapter")
    (tmp_path / "run" / "checkpoints" / "step-00000012" / "state.json").write_text("{}")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("keep_checkpoints: 2", "keep_checkpoints: 1"))
    resumed = warm.run(["resume", tmp_path / "run"], cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    assert [p.name for p in checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000012"]
    assert find_problem(tmp_path / "run" / "checkpoints" / "step-00000012") == ""
    assert different_bits(weights(tmp_path / "run"), weights(reference())) == 0


def _wait(child: Child, marks: Path, seconds: float, in_save: float | None) -> None:
    """Until the child ends or its time has come: `seconds` after its start, or `in_save` seconds into its next save."""
    came = time.monotonic() + seconds
    while child.poll() is None and time.monotonic() < came:
        if in_save is not None and seconds < 1e9:
            came = time.monotonic() + (in_save if marks.read_bytes()[0] else 1)
            in_save = None if marks.read_bytes()[0] else in_save
        time.sleep(0.001)


@pytest.fixture(scope="module")
def dropping(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with dropout of its own, which is drawn from the generator's state: a checkpoint keeps it. (The adapter's is
    drawn by rows.)"""
    folder = shutil.copytree(tiny, tmp_path_factory.mktemp("models") / "dropping")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_dropout": 0.1}))
    return folder


def test_kills_at_random_times(
    warm: Warm,
    dropping: Path,
    quotes: Path,
    reference: Callable[..., Path],
    tmp_path: Path,
    amount: Amount,
    figure: Figure,
) -> None:
    """Run, kill, resume, kill, ... until it ends by itself: from the last step that was saved, and to the same bits."""
    kills = inside = lost = differ = chains = 0
    goal, draw = amount(8, 200), random.Random(11)
    marks = tmp_path / "marks"
    while kills < goal or inside < goal * 3 // 10:
        bits, chains = (8 if chains % 2 else 32), chains + 1
        run = tmp_path / f"run-{chains}"
        arguments: list = train_arguments(dropping, quotes, run, bits=bits)
        marks.write_bytes(b"\0" * 4096)
        saved = 0
        for attempt in range(100):
            child = warm.start(arguments, cwd=tmp_path, before=("slow_saves", {"seconds": 0.003, "marks": str(marks)}))
            # Killed somewhere in a run of about two seconds, or somewhere in a save; later attempts are let through.
            _wait(
                child,
                marks,
                draw.uniform(0.2, 2.0) if attempt < 9 else 1e9,
                draw.uniform(0, 0.15) if attempt % 2 == 0 else None,
            )
            if child.poll() is not None:
                assert child.code == 0, child.err
                break
            child.send(signal.SIGKILL)
            if child.wait() == 0:  # it ended in that very moment
                break
            in_save, saved_now = marks.read_bytes()[0], int.from_bytes(marks.read_bytes()[1:5], "little")
            kills, inside, saved = kills + 1, inside + in_save, max(saved, saved_now)
            marks.write_bytes(b"\0" * 4096)
            if (run / "adapter").is_dir():  # killed behind the end: it only printed quotes
                break
            if (run / "config.yaml").exists():
                arguments = ["resume", run]
            if attempt and child.err:
                found = re.search(r"resuming at step (\d+)", child.err)
                if found and saved_now == 0 and int(found[1]) < saved and not in_save:
                    lost += 1
            if (run / "checkpoints").is_dir() and saved:
                newest, _ = newest_valid(run / "checkpoints")
                lost += newest is None or int(newest.name[5:]) < saved
        differ += different_bits(weights(run), weights(reference(bits, 12, "--model", str(dropping))))
        assert lost == 0 and differ == 0, run
        shutil.rmtree(run)
    figure(
        "kill -9",
        f"{kills} kills in {chains} runs (int8 every other), {inside} inside a save: {lost} lost, {differ} bits differ",
    )
