"""The pages, looked at by axe-core (the accessibility checker of browsers' own tools) in Chromium: at three widths, light
and dark, it finds nothing."""

from __future__ import annotations

import html
import importlib.util
import json
import re
from pathlib import Path

import pytest

from florilegium.report import comparison_page, read_run, write_report
from tests.report.browser import open_page
from tests.report.made_up import write_run

# A window is never narrower than 500 pixels: the page stands in a frame, and tells it what axe found.
FRAME = """<!DOCTYPE html><body style="margin:0"><iframe src="{page}" style="width:{width}px;height:2000px;border:0"></iframe>
<script>onmessage = event => { const found = document.createElement("pre"); found.id = "found";
found.textContent = event.data; document.body.append(found); }</script>"""
ASK = "axe.run().then(r => parent.postMessage(JSON.stringify([r.violations.map(v => [v.id, v.nodes[0].html]), r.passes.length]), '*'))"


def axe() -> str:
    spec = importlib.util.find_spec("axe_core_python")
    if spec is None or spec.origin is None:
        pytest.skip("axe-core-python is not installed")
    return (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")


def looked_at(page: str, folder: Path, width: int, *, dark: bool) -> tuple[list[list[str]], int]:
    """What axe holds against the page, and how many of its rules it keeps. Scripts run, as the page's own policy forbids."""
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    script = axe().replace("</script", "<\\/script")
    inner, outer = folder / "inner.html", folder / "outer.html"
    inner.write_text(free.replace("</body>", f"<script>{script}</script><script>{ASK}</script></body>"))
    outer.write_text(FRAME.replace("{page}", inner.resolve().as_uri()).replace("{width}", str(width)))
    options = ["--dump-dom", f"--window-size={max(width, 500)},2000"]
    dom = open_page(outer, *options, *(["--blink-settings=preferredColorScheme=0"] if dark else []))
    found = re.search(r'<pre id="found">(.*?)</pre>', dom, re.S)
    assert found, dom[-300:]
    violations, passes = json.loads(html.unescape(found[1]))
    return violations, passes


def test_axe_finds_nothing(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in "abc"]
    pages = [write_report(runs[0]).read_text(), comparison_page(*map(read_run, runs))]
    for page in pages:
        for width, dark in ((1280, False), (768, True), (375, False)):
            violations, passes = looked_at(page, tmp_path, width, dark=dark)
            assert violations == [] and passes > 20, (width, dark, violations)


def test_axe_would_find_something(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "a")).read_text()
    grey = page.replace("</main>", '<img src="data:,"><p style="color:#999;background:#fff">hard to read</p></main>')
    violations, _ = looked_at(grey, tmp_path, 375, dark=False)
    assert {"color-contrast", "image-alt"} <= {name for name, _ in violations}
