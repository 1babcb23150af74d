"""Every file that `make install` would install on this machine, by its hash.

    make lock             writes requirements.lock, from constraints.txt and the package index that pip is set to
    make install-locked   installs from it, and stops at a file whose hash differs

Wheels differ by system and Python, torch's by CUDA too, so a lock is made where it will be used, and is not in the
repository."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BUILD = ("hatchling", "editables")  # what builds the package itself


def report() -> dict[str, Any]:  # Any: pip's installation report
    """What pip would install into an empty environment."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    wanted = ["--constraint", "constraints.txt", ".[dev,docs]", *BUILD]
    done = subprocess.run([*command, *wanted], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def lock(found: dict[str, Any], here: str = "florilegium") -> str:
    """requirements.lock of a report: each package at its version, with the hash of its file. Raises SystemExit where a
    file has none."""
    python = found.get("environment", {})
    lines = [
        f"# make lock, on {python.get('sys_platform')} {python.get('platform_machine')}, Python {python.get('python_version')}"
    ]
    for item in sorted(found["install"], key=lambda item: item["metadata"]["name"].lower()):
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        if name == here:
            continue
        sha256 = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if not sha256:
            raise SystemExit(f"{name} {version} comes without a hash: install it from a package index")
        lines.append(f"{name}=={version} --hash=sha256:{sha256}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "requirements.lock").write_text(lock(report()), encoding="utf-8")
