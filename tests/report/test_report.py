"""report.html: what it says, that it stands on its own, that text stays text, and how it looks to a browser."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from florilegium.errors import ModelError
from florilegium.report import comparison_page, read_run, run_page, write_report
from florilegium.report.page import plain as printable
from florilegium.report.quote_cards import PromptCards, QuoteCard, prompt_cards
from florilegium.report.svg_charts import Curve, chart, label, thinned, ticks
from tests.report.browser import open_page, screenshot
from tests.report.made_up import write_run
from tests.report.payloads import PAYLOADS


class Outline(HTMLParser):
    """The elements of a page with their attributes' names, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def marks(document: str) -> list[str]:
    """The payloads that ran."""
    (opening,) = re.findall(r"<html[^>]*>", document)[:1]
    return re.findall(r"data-p\d+", opening)


def framed(payload: str) -> str:
    """A payload as markup, in a frame of its own so that what it leaves open does not swallow the next."""
    return f'<iframe srcdoc="{html.escape(payload)}"></iframe>'


def test_the_page_says_what_the_run_did(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "a-run")).read_text()
    for word in (
        "a-run",
        "3.600",
        "of the adapter that was kept: 3.600, 7.000 before.",
        "held-out loss of the words",
        "micro F1",
        "0.500 (0.400 to 0.600)",
        "written 2",
        "near duplicates",
        "1 min 16 s",
    ):
        assert word in page, word
    assert "0.88 GiB" in page and "predicted memory" not in page and "143,360 of 11,396,800 (1.258%)" in page
    assert page.count("<svg") == 4 and "training from 6.933 to 4.333; held out from 7 to 3.667" in page
    assert "split by random: 5 near-duplicate pairs across train and test" in page
    assert (tmp_path / "a-run" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_five_metrics_come_first(tmp_path: Path) -> None:
    """The others are in the table; one of two rows is told as what it is."""
    run = write_run(tmp_path / "run")
    evaluation = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps({**evaluation, "held_out_rows": 92}))
    page = write_report(run).read_text()
    titles = re.findall(r"<li><span>([^<]*)</span><b>", page)
    assert titles == ["held-out loss of the words", "tag F1", "copies", "forgotten", "time"]
    assert "40 steps, peak memory 0.88 GiB" in page and "too few to tell" not in page
    (run / "evaluation.json").write_text(json.dumps({**evaluation, "held_out_rows": 2}))
    assert "2 held-out rows: too few to tell" in write_report(run).read_text()
    (run / "evaluation.json").unlink()
    assert re.findall(r"<li><span>([^<]*)</span><b>", write_report(run).read_text()) == ["held-out loss", "time"]


def test_the_page_stands_on_its_own(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run")).read_text()
    assert "default-src 'none'" in html.unescape(page) and "<script" not in page and len(page) < 200_000
    assert not re.search(r"https?://", page)
    outline = Outline(page)
    names = [tag for tag, _ in outline.elements]
    loading = {"src", "href", "srcset", "action", "style", "data"}
    assert not [
        name for _, attributes in outline.elements for name in attributes if name in loading or name.startswith("on")
    ]
    assert names.count("h1") == names.count("main") == 1 and "caption" in names
    assert all("scope" in attributes for tag, attributes in outline.elements if tag == "th")
    assert all("aria-label" in attributes for tag, attributes in outline.elements if tag == "svg")


@pytest.mark.parametrize("missing", ["manifest.json", "metrics.jsonl", "samples.jsonl", "data.json", "evaluation.json"])
def test_a_run_that_was_stopped_or_edited_has_a_page_too(tmp_path: Path, missing: str) -> None:
    run = write_run(tmp_path / "run")
    for number, content in enumerate(
        (
            None,
            "",
            "[1, 2]",
            '{"findings": 3, "leaks": 4, "tuned": 5, "base": [], "steps": "x", "data": 1}\n{"step": "a"',
        )
    ):
        if content is None:
            (run / missing).unlink()
        else:
            (run / missing).write_text(content)
        assert "<h1>run</h1>" in run_page(read_run(run)), number
    with pytest.raises(ModelError, match="not a run"):
        write_report(tmp_path)


def test_sixty_payloads_change_no_element(tmp_path: Path) -> None:
    plain = Outline(run_page(read_run(write_run(tmp_path / "plain")))).elements
    assert len(PAYLOADS) == len(set(PAYLOADS)) == 60
    (tmp_path / "named").mkdir()
    for number, payload in enumerate(PAYLOADS):
        run = write_run(tmp_path / f"run-{number}", lambda what, payload=payload: payload + what)
        assert Outline(run_page(read_run(run))).elements == plain, payload
        # the run's name and path, as far as a path can hold it
        named = run.rename(tmp_path / "named" / payload.replace("/", ""))
        page = run_page(read_run(named))
        assert Outline(page).elements == plain, payload
        (title,) = re.findall(r"<h1>(.*)</h1>", page, re.S)
        assert html.unescape(title) == printable(named.name)


def test_sixty_payloads_run_nothing_in_chromium(tmp_path: Path) -> None:
    turn = iter(range(10**6))
    texts = write_run(
        tmp_path / PAYLOADS[14].replace("/", ""), lambda what: PAYLOADS[next(turn) % 60] + what, prompts=60
    )
    page = write_report(texts)
    source = page.read_text()
    assert all(source.count(f"dataset.p{number}=1") >= 3 for number in range(60)), (
        "each payload is on the page, in several places"
    )
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        fetching = f'<img src="{address}/a"><link rel=stylesheet href="{address}/b"><meta http-equiv=refresh content="0;url={address}/c">'
        other = write_run(tmp_path / "other", lambda what: fetching + what)
        document = open_page(page, "--dump-dom")
        asks = open_page(write_report(other), "--dump-dom")
        compared = tmp_path / "compared.html"
        compared.write_text(comparison_page(read_run(texts), read_run(other)))
        both = open_page(compared, "--dump-dom")
        # The same texts as markup: without the policy they run and fetch, so this test can fail; with it even then
        # nothing does.
        bare = tmp_path / "bare.html"
        bare.write_text(
            "<!DOCTYPE html><html><head></head><body>" + "".join(map(framed, [*PAYLOADS, fetching.split("<meta")[0]]))
        )
        ran = marks(open_page(bare, "--dump-dom"))
        fetched = len(asked)
        policy = re.findall(r'<meta http-equiv="Content-Security-Policy"[^>]*>', source)[0]
        held = tmp_path / "held.html"
        held.write_text(bare.read_text().replace("<head>", f"<head>{policy}"))
        stopped = marks(open_page(held, "--dump-dom"))
        server.shutdown()
    assert "Before and after" in document and "Before and after" in asks and "runs compared" in both
    assert marks(document) == marks(asks) == marks(both) == []
    assert len(ran) >= 15 and fetched >= 1 and stopped == [] and len(asked) == fetched
    assert not [path for path in asked if path == "/c"]


def test_a_browser_draws_it_light_dark_and_on_a_phone(tmp_path: Path) -> None:
    from matplotlib.image import imread

    page = write_report(
        write_run(tmp_path / "run", lambda what: f"A rather long piece of text for {what}, " + "x" * 80)
    )
    brightness = {}
    for name, width, dark in (("light", 1100, False), ("dark", 1100, True), ("phone", 500, False)):
        screenshot(page, tmp_path / f"{name}.png", width, 1400, dark=dark)
        picture = imread(tmp_path / f"{name}.png")[..., :3]
        assert picture.shape == (1400, width, 3)
        brightness[name] = float(picture.mean())
        assert picture.std() > 0.02, "something is drawn"
        assert (picture[:, -2:] == picture[0, -1]).all(), "nothing is cut off at the right edge"
    assert brightness["light"] > 0.85 and brightness["phone"] > 0.8 and brightness["dark"] < 0.3


@pytest.mark.parametrize("there", [True, False])
def test_matplotlib_is_imported_aside_and_nobody_is_told_of_trouble(there: bool) -> None:
    code = f"""
import sys, threading
from florilegium.report import import_in_background
if not {there}: sys.modules["matplotlib"] = None
import_in_background()
[thread.join() for thread in threading.enumerate() if thread.name == "matplotlib"]
print("matplotlib.backends.backend_agg" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{there}\n", "")


def test_columns_called_like_keys_of_a_sample_are_shown_and_headings_are_the_prompts() -> None:
    row = {"prompt": "", "text": "Be ->: kind", "finished": True, "novel": None}
    before = {**row, "step": 0, "columns": {"prompt": None, "completion": None}}
    after = {**row, "step": 20, "columns": {"prompt": "Be", "text": "kind", "novel": ["a", "b"]}}
    (cards,) = prompt_cards([before, after])
    assert cards == PromptCards("", QuoteCard(0, "Be ->: kind", ()), QuoteCard(20, "Be\nkind", ("a", "b")), ())


def test_cards_of_older_runs_are_read_as_they_were_written() -> None:
    """Without `columns`: the columns stand among the row's own keys; `columns` may be one of them."""
    row = {"step": 20, "prompt": "The sea", "text": "The sea ->: a", "finished": True, "novel": None, "tags": ["a"]}
    (cards,) = prompt_cards([{**row, "quote": "The sea"}])
    assert cards == PromptCards("The sea", None, QuoteCard(20, "The sea", ("a",)), ())
    (cards,) = prompt_cards([{**row, "columns": "The sea"}])
    assert cards.after == QuoteCard(20, "The sea", ("a",))


def test_charts() -> None:
    assert chart("Nothing", [Curve("a", [])]) == ""
    flat = chart("Flat <b>", [Curve("a & b", [(1, 2.0), (2, 2.0)]), Curve("c", [(1, 2.0)], dots=True)], "nats")
    assert (
        "<b>" not in flat
        and "a &amp; b" in flat
        and flat.count("<polyline") == 2
        and flat.count("<circle") == 2
        and "nan" not in flat
    )
    assert (
        ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
        and ticks(3.2, 7.1)[0] <= 3.2
        and ticks(3.2, 7.1)[-1] >= 7.1
    )
    assert ticks(1, 7, whole=True) == [2, 4, 6]
    assert (label(1200), label(0.0002), label(0.001), label(0.0), label(3.5)) == ("1,200", "2e-04", "1e-03", "0", "3.5")
    near = chart(
        "Near", [Curve("a", [(1, 3.50), (2, 3.51)]), Curve("b", [(1, 1.0), (2, 3.50)]), Curve("c", [(2, 3.49)])]
    )
    heights = [float(y) for y in re.findall(r'<text class="end value" x="[^"]*" y="([^"]*)"', near)]
    far = chart("Far", [Curve("a", [(1, 3.5), (60, 3.5)]), Curve("b", [(1, 3.0), (120, 3.51), (121, 3.52)])])
    alone = [float(y) for y in re.findall(r'<text class="end value" x="[^"]*" y="([^"]*)"', far)]
    assert len(alone) == 2 and abs(alone[0] - alone[1]) < 20, "they end far from one another: neither has to move"
    assert len(heights) == 3 and all(abs(a - b) >= 20 for a in heights for b in heights if a != b)
    many = [(float(i), float(i % 7)) for i in range(10_000)]
    assert len(thinned(many)) <= 400 and thinned(many)[-1][0] == 9999 and thinned(many[:10]) == many[:10]


def test_tables_can_be_read_on_a_phone(tmp_path: Path) -> None:
    """Each cell has at least 250 of a phone's 375 pixels, numbers in charts are 11 pixels high, and nothing scrolls
    sideways."""
    inner = html.escape(run_page(read_run(write_run(tmp_path / "run"))))
    outer = tmp_path / "phone.html"
    outer.write_text(
        f"""<!DOCTYPE html><meta charset="utf-8"><iframe id="phone" width="375" height="800" srcdoc="{inner}"></iframe>
<script>
addEventListener("load", () => {{
  const page = document.getElementById("phone").contentDocument;
  for (const folded of page.querySelectorAll("details")) folded.open = true;
  const widths = [...page.querySelectorAll("td")].map(cell => cell.getBoundingClientRect().width);
  const ticks = [...page.querySelectorAll("svg text")].map(tick => tick.getBoundingClientRect().height);
  document.documentElement.dataset.cells = widths.length + " " + Math.min(...widths);
  document.documentElement.dataset.ticks = Math.min(...ticks.filter(height => height > 0));
  document.documentElement.dataset.wide = page.documentElement.scrollWidth;
}});
</script>"""
    )
    document = open_page(outer, "--dump-dom")
    count, narrowest = re.findall(r'data-cells="(\d+) ([\d.]+)"', document)[0]
    assert int(count) > 20 and float(narrowest) >= 250
    assert float(re.findall(r'data-ticks="([\d.]+)"', document)[0]) >= 11
    assert float(re.findall(r'data-wide="([\d.]+)"', document)[0]) <= 375


def test_before_and_after_stand_side_by_side_with_their_tags(tmp_path: Path) -> None:
    page = run_page(read_run(write_run(tmp_path / "run")))
    assert page.count("<blockquote>") == 9 and page.count('<li dir="auto">tag</li>') == 9
    assert "before training" in page and "after 40 steps" in page and "step 20" in page


def test_after_is_what_the_adapter_that_was_kept_wrote(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "best_step": 20}))
    facts = read_run(run)
    cards = prompt_cards(facts.samples, facts.kept_step)
    assert {(c.before.step, c.after.step, *(q.step for q in c.between)) for c in cards if c.before} == {(0, 20, 40)}
    assert "after 20 steps, kept" in run_page(facts) and "At other steps" in run_page(facts)


def test_a_stopped_run_says_where_and_how_to_resume_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["steps"]
    (run / "manifest.json").write_text(json.dumps(manifest | {"planned_steps": 200}))
    page = run_page(read_run(run))
    assert "stopped at step 40 of 200" in page and f"florilegium resume {run}" in page
