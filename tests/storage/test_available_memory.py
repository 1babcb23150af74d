"""Memory that a process can still take: the machine's, or what a container's limit leaves of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from florilegium.storage import platform

GIB = 2**30


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """64 GiB free, and no control group."""
    monkeypatch.setattr(platform, "PROC", tmp_path / "proc")
    monkeypatch.setattr(platform, "CGROUPS", tmp_path / "cgroup")
    write(
        tmp_path / "proc" / "meminfo",
        f"MemTotal: {128 * 2**20} kB\nMemAvailable:   {64 * 2**20} kB\nHugePages_Total: 0\n",
    )
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def group(folder: Path, limit: str, used: int, files: int = 0, version: int = 2) -> None:
    """A control group's files; of what is used, `files` are cached."""
    prefix = "" if version == 2 else "total_"
    write(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"), f"{limit}\n")
    write(folder / ("memory.current" if version == 2 else "memory.usage_in_bytes"), f"{used}\n")
    kinds = f"anon 5\n{prefix}inactive_file {files // 2}\n{prefix}active_file {files - files // 2}\n"
    write(folder / "memory.stat", kinds)


def test_the_machine_alone(machine: Path) -> None:
    assert platform.available_memory() == 64 * GIB


@pytest.mark.parametrize("path", ["/", "/system.slice/run.service", "/out/of/sight"])
def test_version_2(machine: Path, path: str) -> None:
    """In a container the path may be the root, a folder, or one that the container does not see."""
    write(machine / "proc" / "self" / "cgroup", f"0::{path}\n")
    group(
        machine / "cgroup" / path.strip("/") if "sight" not in path else machine / "cgroup", str(8 * GIB), 3 * GIB, GIB
    )
    assert platform.available_memory() == 6 * GIB


def test_a_group_above_may_leave_less(machine: Path) -> None:
    write(machine / "proc" / "self" / "cgroup", "0::/pod/container\n")
    group(machine / "cgroup" / "pod" / "container", "max", GIB)
    group(machine / "cgroup" / "pod", str(4 * GIB), 3 * GIB)
    assert platform.available_memory() == GIB
    group(machine / "cgroup" / "pod", str(4 * GIB), 5 * GIB)  # it may use more for a moment
    assert platform.available_memory() == 0


def test_version_1(machine: Path) -> None:
    lines = "3:cpuset:/\n4:cpu,memory:/docker/ab\n1:name=systemd:/x\n0::/\n"
    write(machine / "proc" / "self" / "cgroup", lines)
    folder = machine / "cgroup" / "memory" / "docker" / "ab"
    group(folder, "9223372036854771712", GIB, version=1)  # no limit
    assert platform.available_memory() == 64 * GIB
    group(folder, str(16 * GIB), 10 * GIB, 2 * GIB, version=1)
    assert platform.available_memory() == 8 * GIB


def test_another_system_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "PROC", tmp_path)
    assert platform.available_memory() is None
