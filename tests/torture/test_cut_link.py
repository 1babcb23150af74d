"""Two processes on two machines whose cable is cut: nothing closes, nobody answers, and both end with one line each.

The machines are network namespaces of this one, joined by a pair of virtual cards."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.torture.many import newest
from tests.torture.test_processes import arguments

SILENCE = 10  # seconds here; five minutes there
MACHINE = """
import sys
from datetime import timedelta
import florilegium.training.peers as peers
peers.BEAT, peers.SILENCE = 1.0, timedelta(seconds=float(sys.argv[1]))
from florilegium.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """Two namespaces, each with one card; skipped where this machine cannot make them."""
    names = (f"flori-a-{os.getpid()}", f"flori-b-{os.getpid()}")
    with contextlib.ExitStack() as stack:
        try:
            for name in names:
                ip("netns", "add", name)
                stack.callback(subprocess.run, ["ip", "netns", "delete", name], capture_output=True)
            ip("-n", names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names[1])
            for number, name in enumerate(names, 1):
                ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "cable")
                for card in ("lo", "cable"):
                    ip("-n", name, "link", "set", card, "up")
        except (OSError, subprocess.SubprocessError) as error:
            reason = getattr(error, "stderr", b"") or str(error).encode()
            pytest.skip(f"this machine makes no network namespaces: {reason.decode().strip()}")
        yield names


def start_on(machine: str, rank: int, given: list[str], cwd: Path) -> subprocess.Popen[str]:
    place = {
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "10.77.0.1",
        "MASTER_PORT": "29511",
    }
    environment = os.environ | place | {"GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1"}
    command = ["ip", "netns", "exec", machine, sys.executable, "-c", MACHINE, str(SILENCE), *given]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


@pytest.mark.slow
def test_a_cable_that_is_cut_ends_both(machines: tuple[str, str], tiny: Path, quotes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    given = arguments(tiny, quotes, run, "--max-steps", "100000")
    both = [start_on(machine, rank, given, tmp_path) for rank, machine in enumerate(machines)]
    try:
        deadline = time.monotonic() + 240
        while newest(run) < 0:
            assert time.monotonic() < deadline and all(one.poll() is None for one in both)
            time.sleep(0.05)
        ip("-n", machines[0], "link", "set", "cable", "down")
        began = time.monotonic()
        told = [one.communicate(timeout=SILENCE + 120)[1] for one in both]
    finally:
        for one in both:
            one.kill()
    print(f"both ended {time.monotonic() - began:.0f} s after the cut, {SILENCE} s of silence allowed")
    assert [one.returncode for one in both] == [5, 5], told
    for text in told:
        lines = [line for line in text.splitlines() if line.startswith("florilegium:")]
        assert len(lines) == 1 and "another process of this run" in lines[0], text
        assert "is saved. Type: florilegium resume" in lines[0], text
