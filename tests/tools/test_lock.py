"""The lock file names every package with the hash of its file, and nothing without one."""

from __future__ import annotations

import pytest

from tools.lock import lock


def item(name: str, version: str, sha256: str | None) -> dict:
    info = {"archive_info": {"hashes": {"sha256": sha256}}} if sha256 else {"dir_info": {}}
    return {"metadata": {"name": name, "version": version}, "download_info": info}


def test_every_package_has_its_hash_and_this_one_is_left_out() -> None:
    found = {
        "install": [
            item("torch", "2.13.0", "b" * 64),
            item("florilegium", "0.1.0", None),
            item("Accelerate", "1.15.0", "a" * 64),
        ]
    }
    lines = lock(found).splitlines()
    assert lines[1:] == [f"Accelerate==1.15.0 --hash=sha256:{'a' * 64}", f"torch==2.13.0 --hash=sha256:{'b' * 64}"]


def test_a_package_without_a_hash_is_no_lock() -> None:
    with pytest.raises(SystemExit, match="torch 2.13.0 comes without a hash"):
        lock({"install": [item("torch", "2.13.0", None)]})
