"""Other operating systems, as far as they can be tried on this one: modules that are not there, and a lock without them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# What macOS or Windows does not have, hidden before the package is imported.
HIDDEN = """
import os, signal, sys
for name in ("fcntl", "resource"):
    sys.modules[name] = None
for home, name in ((os, "posix_fadvise"), (os, "pwrite"), (os, "O_NOFOLLOW"), (os, "O_CLOEXEC"), (signal, "SIGHUP")):
    if hasattr(home, name):
        delattr(home, name)
"""


# The libraries on this system use them too, so they come before.
LIBRARIES = """
import accelerate, bitsandbytes, datasets, peft, torch
from transformers import AutoTokenizer, BloomForCausalLM
"""


def run(code: str, cwd: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", before + HIDDEN + code], cwd=cwd, capture_output=True, text=True)


def test_everything_imports_without_what_other_systems_lack(tmp_path: Path) -> None:
    code = """
import importlib, pkgutil, florilegium
names = [m.name for m in pkgutil.walk_packages(florilegium.__path__, "florilegium.")]
rooms = [n for n in names if not n.startswith(("florilegium.fast", "florilegium.__main__"))]
for name in rooms:
    importlib.import_module(name)
print(len(rooms))
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 60


def test_help_and_inspect_work_there(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"quote": "Be kind.", "tags": ["a"]}\n' * 3)
    for arguments in (["--help"], ["inspect", "rows.jsonl", "--json"]):
        done = run(f"from florilegium.cli.main import main; sys.exit(main({arguments!r}))", tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout


def test_a_run_trains_there(tmp_path: Path) -> None:
    rows = [{"quote": f"Be kind to sea number {i}.", "tags": ["kindness", "sea"]} for i in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = """
import florilegium
settings = dict(max_steps=1, batch_size=4, max_length=32, kernels="off", verdict_texts=0)
trained = florilegium.train("rows.jsonl", model="seedling", output="run", **settings)
print(trained.figures["steps"], (trained.directory / "adapter" / "adapter_config.json").is_file())
"""
    done = run(code, tmp_path, LIBRARIES)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["1", "True"]


@pytest.mark.parametrize("hide", ["", HIDDEN])
def test_where_the_system_has_no_locks_a_run_is_still_made(tmp_path: Path, hide: str) -> None:
    """And where it has them, a second process is kept out."""
    code = """
from pathlib import Path
from florilegium.errors import UsageError
from florilegium.storage.run_lock import locked
import os
Path("run").mkdir()
with locked(Path("run")):
    child = os.fork()
    if child == 0:
        try:
            with locked(Path("run")):
                os._exit(0)
        except UsageError:
            os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", hide + code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == ("0" if hide else "7")
