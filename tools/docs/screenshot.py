"""A picture of a run's report for README and docs, made from a real run with Debian's chromium.

    florilegium train --output runs/demo && florilegium evaluate runs/demo --base
    python -m tools.docs.screenshot runs/demo            writes docs/img/report.png

The page has no scripts and loads nothing, so what chromium draws is what a reader sees."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from florilegium.errors import UsageError

PICTURE = Path(__file__).parent.parent.parent / "docs" / "img" / "report.png"
WIDTH, HEIGHT = 1000, 1250


def screenshot(page: Path, picture: Path) -> None:
    """The top of `page` as a PNG."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise UsageError("there is no chromium", "Type: apt-get install chromium")
    picture.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        shot = [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={picture}"]
        subprocess.run([browser, *options, *shot, page.resolve().as_uri()], check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    screenshot(Path(sys.argv[1]) / "report.html", PICTURE)
    print(f"wrote {PICTURE}")
