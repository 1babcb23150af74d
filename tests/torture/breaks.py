"""A test that cannot fail is none: each guard broken on purpose, and the torture test that must see it.

    python -m tests.torture.breaks            # all of them: half an hour
    python -m tests.torture.breaks signals    # those whose name begins so

Each break is an edit of one place in a copy of the repository; the test runs there, in CI's share, and has to go red, where
it is green without the break. BREAKS.md keeps which of them were seen, when and at which commit; test_breaks.py holds that
the places are still in the code and that every break was seen.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.torture import breaks_of_files, breaks_of_runs
from tests.torture.figures import head

ROOT = Path(__file__).parent.parent.parent
RECORD = Path(__file__).parent / "BREAKS.md"
SECONDS = 900.0  # for one break's test; a break that makes it wait for ever is seen then


@dataclass(frozen=True)
class Break:
    name: str
    file: str  # in src/florilegium
    old: str
    new: str
    test: str  # in tests/torture


TABLE = {**breaks_of_runs.TABLE, **breaks_of_files.TABLE}
BREAKS = [Break(name, file, old, new, test) for file, rows in TABLE.items() for name, test, old, new in rows]


def import_libraries() -> None:
    """What takes seconds to import and is none of ours: a process forked off this one has it at once."""
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import transformers.models.bloom.modeling_bloom  # noqa: F401


def run_pytest(copy: Path, arguments: list[str]) -> int:
    """In the forked process: the tests of `copy`, with the `florilegium` of `copy`."""
    os.chdir(copy)
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "florilegium")]:
        del sys.modules[name]
    roots = [str(copy / "src"), str(copy)]
    sys.path[:] = roots + [path for path in sys.path if path and not Path(path).is_relative_to(ROOT)]
    os.environ["PYTHONPATH"] = os.pathsep.join(roots)
    os.environ.pop("FLORILEGIUM_TORTURE", None)
    import florilegium

    assert Path(str(florilegium.__file__)).is_relative_to(copy)
    return int(pytest.main(arguments))


def run_tests(copy: Path, tests: Sequence[str], seconds: float, *options: str) -> tuple[int | None, str]:
    """pytest's exit code for these tests in `copy` (None: they did not end in time) and what it printed."""
    paths = [os.path.normpath(f"tests/torture/{test}") for test in tests]
    with tempfile.TemporaryFile() as output:
        if not (child := os.fork()):
            os.setsid()
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            code = 3
            try:
                code = run_pytest(copy, ["-p", "no:cacheprovider", "--tb=short", *options, *paths])
            finally:
                sys.stdout.flush()
                os._exit(code)
        deadline, done = time.monotonic() + seconds, 0
        while not done and time.monotonic() < deadline:
            time.sleep(0.05)
            done, status = os.waitpid(child, os.WNOHANG)
        if not done:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(status) if done else None, output.read().decode(errors="replace")


def write(path: Path, code: str) -> None:
    """Without its compiled form, which is told from a newer file by whole seconds and the size alone."""
    path.write_text(code)
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def seen(what: Break, copy: Path) -> str:
    """What the test said against this break in `copy`; an empty string where it stayed green."""
    path = copy / "src" / "florilegium" / what.file
    whole = path.read_text()
    write(path, whole.replace(what.old, what.new, 1))
    try:
        code, said = run_tests(copy, [what.test], SECONDS, "-x")
    finally:
        write(path, whole)
    if code not in (None, 0, 1) or "ModuleNotFoundError" in said:
        raise RuntimeError(f"{what.name}: nothing was tested: {said[-2000:]}")
    reasons = [line[1:].strip() for line in said.splitlines() if line.startswith("E  ")]
    return "" if code == 0 else "it does not end" if code is None else next(iter(reasons), "it fails")[:160]


def red_without_a_break(copy: Path, tests: Sequence[str]) -> list[str]:
    """Tests that fail in the copy as it is: what they say of a break is worth nothing."""
    code, said = run_tests(copy, tests, SECONDS * len(tests))
    if code not in (0, 1):
        raise RuntimeError(f"nothing was tested: {said[-2000:]}")
    return [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]


def copied(folder: Path) -> Path:
    """The repository as it lies here, without what is hidden and what was made in it."""
    copy = folder / "florilegium"
    copy.mkdir()
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for source in ROOT.iterdir():  # `runs` lies here too, and is a room of the package further down
        if not source.name.startswith(".") and source.name not in ("runs", "site", "dist", "build"):
            to = copy / source.name
            shutil.copytree(source, to, ignore=skip) if source.is_dir() else shutil.copy(source, to)
    return copy


def recorded() -> dict[str, str]:
    """The lines of BREAKS.md by the break's name."""
    lines = RECORD.read_text(encoding="utf-8").splitlines() if RECORD.is_file() else []
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}


def record(reds: Mapping[str, bool], at: str) -> None:
    """Writes into BREAKS.md which breaks were seen (a green one leaves it); the others stay as they are."""
    lines = recorded()
    for what in BREAKS:
        if what.name in reds:
            test = os.path.normpath(f"tests/torture/{what.test}")
            lines[what.name] = f"| {what.name} | `{what.file}` | `{test}` | {at} |" if reds[what.name] else ""
    kept = [line for what in BREAKS if (line := lines.get(what.name))]
    RECORD.write_text("\n".join([HEAD.format(seen=len(kept), all=len(BREAKS)), *kept]) + "\n", encoding="utf-8")


HEAD = """## Broken on purpose, and seen

Written by `python -m tests.torture.breaks`; do not edit. Each line is a place of the program that was broken in a copy, and
the test that went red by it: {seen} of {all}.

| what was broken | in `src/florilegium` | the test that saw it | run at |
|---|---|---|---|"""


def main(arguments: Sequence[str]) -> int:
    chosen = [what for what in BREAKS if any(what.name.startswith(name) for name in arguments or [""])]
    reds: dict[str, bool] = {}
    import_libraries()
    with tempfile.TemporaryDirectory(prefix="breaks-") as folder:
        copy = copied(Path(folder))
        if spoilt := red_without_a_break(copy, sorted({what.test for what in chosen})):
            print(*spoilt, "red without any break: mend these first", sep="\n")
            return 1
        for what in chosen:
            began = time.monotonic()
            reason = seen(what, copy)
            reds[what.name] = bool(reason)
            record(reds, f"{time.strftime('%Y-%m-%d')}, {head()}")
            took = time.monotonic() - began
            print(f"{'red  ' if reason else 'GREEN'} {took:4.0f} s  {what.name}  ({what.test})  {reason}", flush=True)
    print(f"{sum(reds.values())} of {len(chosen)} red")
    return 0 if all(reds.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
