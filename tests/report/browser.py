"""A headless Chromium for the tests of pages: it opens a file and says what the document became."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """The browser's path, or a skip where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no chromium here: apt-get install chromium")
    return found


def open_page(page: Path, *options: str) -> str:
    """The document of `page` after its load event and two seconds of virtual time, as Chromium writes it down."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            chromium(),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-dev-shm-usage",
        ]
        command += [
            f"--user-data-dir={profile}",
            "--virtual-time-budget=2000",
            "--run-all-compositor-stages-before-draw",
            *options,
        ]
        done = subprocess.run([*command, page.resolve().as_uri()], capture_output=True, timeout=90)
    return done.stdout.decode("utf-8", "replace")


def screenshot(page: Path, picture: Path, width: int, height: int, *, dark: bool = False) -> None:
    options = [f"--screenshot={picture}", f"--window-size={width},{height}", "--hide-scrollbars"]
    open_page(page, *options, *(["--blink-settings=preferredColorScheme=0"] if dark else []))
