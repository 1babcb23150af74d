"""The page in Chromium: what a person sees and types, what a hostile text tries, what a screen reader is given."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from florilegium.config import read_config
from tests.report.made_up import write_run
from tests.report.payloads import PAYLOADS
from tests.serve.browser import Browser, browsing
from tests.serve.conftest import Server, serving


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One finished run, and sixty whose every text is hostile."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(run, folder / "runs" / "sayings")
    for number, payload in enumerate(PAYLOADS):
        made = write_run(folder / "runs" / f"made-up-{number}", lambda what, text=payload: text)
        shutil.rmtree(made / "adapter")
    with serving(None, "--page", cwd=folder) as one:
        one.run = folder
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as one:
        yield one


@pytest.fixture(autouse=True)
def sound(browser: Browser, page: Server) -> Iterator[None]:
    """Nothing went wrong in the console, and nobody else was asked for anything."""
    browser.complaints.clear()
    browser.requested.clear()
    yield
    assert not browser.complaints
    assert all(url.startswith((page.url, "about:", "blob:")) for url in browser.requested), browser.requested


def opened(browser: Browser, page: Server, *, width: int = 1280, height: int = 800, dark: bool = False) -> None:
    browser.size(width, height, dark=dark)
    browser.goto(page.url + "/")
    browser.until("document.querySelector('#model').options.length")


def executed(browser: Browser) -> list[str]:
    return browser.ask("Object.keys(document.documentElement.dataset)")


def test_writing_keeping_copying_and_taking_them_along(browser: Browser, page: Server) -> None:
    opened(browser, page)
    browser.write("#prompt", "The sea")
    browser.write("#count", "2")
    browser.click("#beside")
    browser.click("#write-go")
    browser.until(
        "document.querySelectorAll('#written .actions').length === 2 && !document.querySelector('.writing')", 60
    )
    texts = browser.ask("[...document.querySelectorAll('#written .text')].map(one => one.textContent)")
    assert len(texts) == 4 and all(text.startswith("The sea") for text in texts)
    browser.click("#written .actions button:nth-child(2)")
    assert browser.ask("document.querySelector('#kept .text').textContent") == texts[0]
    browser.goto(page.url + "/")
    kept = json.loads(browser.ask("import('/static/kept.js').then(kept => kept.asJsonLines())"))
    assert kept["text"].startswith(texts[0]) and kept["model"] == "sayings" and {"quote", "tags", "novel"} <= set(kept)
    browser.click("#kept button")
    assert browser.ask("document.querySelector('#kept-none').hidden") is False


@pytest.mark.parametrize("row", [{}, {"quote": "The sea is wide.", "tags": ["sea"]}, {"tags": ["sea"]}], ids=str)
def test_what_is_kept_shows_the_text_that_was_written(browser: Browser, page: Server, row: dict[str, object]) -> None:
    opened(browser, page)
    written = json.dumps({**row, "text": "The sea is wide.", "finished": True, "novel": None})
    browser.ask(f"import('/static/cards.js').then(cards => cards.actions({written}, 'sayings').lastChild.click())")
    assert browser.ask("document.querySelector('#kept .text').textContent") == "The sea is wide."
    browser.click("#kept button")


def test_columns_called_like_keys_of_a_row_are_shown(browser: Browser, page: Server) -> None:
    opened(browser, page)
    columns = {"text": "The sea is wide.", "model": "calm", "novel": ["sea"]}
    row = {**columns, "columns": columns, "text": "The sea is wide. | calm | sea", "finished": True, "novel": None}
    found = json.loads(
        browser.ask(
            f"import('/static/cards.js').then(cards => JSON.stringify(cards.columnsOf({json.dumps({**row, 'model': 'sayings'})})))"
        )
    )
    assert found == {"main": "The sea is wide.", "others": [["model", "calm"]], "tags": ["sea"]}


def test_a_copy_is_shown_beside_its_row_and_a_new_one_is_called_new(browser: Browser, page: Server) -> None:
    opened(browser, page)
    row = "Every window is a promise that somebody will look out of it in the morning."
    home = page.run or Path()
    rows = [{"quote": f"{word} {row}", "tags": ["home"]} for word in ("Today", "Tomorrow")]
    (home / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    (home / "runs" / "sayings" / "config.yaml").write_text(f"model: seedling\ndata: {home / 'rows.jsonl'}\n")
    for text, novel in ((row, False), ("Nothing of the kind.", True)):
        written = json.dumps({"quote": text, "tags": ["home"], "text": text, "finished": True, "novel": novel})
        browser.ask(
            f"import('/static/cards.js').then(cards => cards.finished(document.querySelector('#written'), {written}, 'sayings'))"
        )
        said = "close to this row: Today" if not novel else "new"
        browser.until(f"document.querySelector('#written').textContent.includes({json.dumps(said)})")


def test_no_payload_runs_wherever_it_comes_from(browser: Browser, page: Server) -> None:
    opened(browser, page)
    rows = [{"quote": text, "tags": [text], "text": text, "finished": True, "novel": False} for text in PAYLOADS]
    browser.ask(f"localStorage.setItem('florilegium.kept', JSON.stringify({json.dumps(rows)}))")
    opened(browser, page)
    assert browser.ask("document.querySelectorAll('#kept li .text').length") == len(PAYLOADS)
    shown = "cards.finished(document.querySelector('#written'), row, 'sayings')"
    browser.ask(f"import('/static/cards.js').then(cards => {json.dumps(rows)}.forEach(row => {shown}))")
    browser.write("#prompt", PAYLOADS[0])
    browser.write("#count", "1")
    browser.click("#write-go")
    browser.until("document.querySelector('#written .actions, #write-problem:not([hidden])')", 60)
    browser.ask("localStorage.clear()")
    browser.click("#tab-look")
    browser.until(f"document.querySelectorAll('#runs article').length === {len(PAYLOADS) + 1}")
    browser.click("#tab-train")
    hostile = (page.run or Path()) / "hostile.jsonl"
    hostile.write_text(
        "".join(json.dumps({"quote": p + " and more words", "tags": [p], p[:40]: 1}) + "\n" for p in PAYLOADS)
    )
    browser.upload("#file", hostile)
    browser.until("!document.querySelector('#data').hidden", 60)
    assert "and more words" in browser.ask("document.querySelector('#examples').textContent")
    browser.key("Tab")
    browser.ask("new Promise(done => setTimeout(done, 300))")
    assert (
        executed(browser) == []
        and browser.ask("document.querySelectorAll('main script, main img, main iframe').length") == 0
    )
    for number in (0, 14, 37, 59):
        browser.goto(f"{page.url}/api/runs/made-up-{number}/report")
        assert executed(browser) == []


def test_a_keyboard_reaches_everything(browser: Browser, page: Server) -> None:
    opened(browser, page)
    browser.ask("document.querySelector('#tab-write').focus()")
    for key, name in (
        ("ArrowRight", "look"),
        ("ArrowRight", "train"),
        ("ArrowRight", "write"),
        ("End", "train"),
        ("Home", "write"),
    ):
        browser.key(key)
        assert browser.ask("document.activeElement.id") == f"tab-{name}"
        assert browser.ask("[...document.querySelectorAll('[role=tabpanel]:not([hidden])')].map(one => one.id)") == [
            name
        ]
    seen = []
    for _ in range(7):
        browser.key("Tab")
        seen.append(browser.ask("document.activeElement.id || document.activeElement.name"))
    assert seen == ["kind", "prompt", "model", "count", "temperature", "beside", "write-go"]
    outline = browser.ask("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_axe_finds_nothing_on_any_panel_light_or_dark(browser: Browser, page: Server) -> None:
    axe = pytest.importorskip("axe_core_python").__file__
    source = Path(axe).with_name("axe.min.js").read_text(encoding="utf-8")
    for dark, width in ((False, 1280), (True, 375)):
        opened(browser, page, width=width, dark=dark)
        row = {"quote": "A sea.", "tags": ["sea"], "text": "A sea.", "finished": False, "novel": True}
        browser.ask(f"localStorage.setItem('florilegium.kept', JSON.stringify([{json.dumps(row)}]))")
        browser.goto(page.url + "/")
        browser.ask(source + "; 0")
        for name in ("write", "look", "train"):
            browser.click(f"#tab-{name}")
            if name == "look":
                browser.until("document.querySelector('#runs article')")
            if name == "train":
                browser.click("#use-sample")
                browser.until("!document.querySelector('#data').hidden", 60)
            found = browser.ask("axe.run().then(found => found.violations.map(v => v.id + ': ' + v.nodes[0].html))")
            assert found == [], (name, dark)
    browser.ask("localStorage.clear()")


def test_nothing_is_wider_than_its_screen(browser: Browser, page: Server) -> None:
    for width in (320, 375, 768, 1280):
        opened(browser, page, width=width)
        for name in ("write", "look", "train"):
            browser.click(f"#tab-{name}")
            assert browser.ask("document.documentElement.scrollWidth") <= width, (name, width)


def test_without_a_run_it_says_so_and_leads_to_training(browser: Browser, page: Server, tmp_path: Path) -> None:
    with serving(None, "--page", cwd=tmp_path) as empty:
        browser.size(1280, 800)
        browser.goto(empty.url + "/")
        browser.until("!document.querySelector('#no-model').hidden")
        browser.click("#to-train")
        assert browser.ask("document.querySelector('#train').hidden") is False
        assert httpx.post(f"{empty.url}/v1/completions", json={"prompt": "x"}).status_code == 404
    browser.requested.clear()


@pytest.mark.slow
def test_a_writer_trains_stops_resumes_and_writes(browser: Browser, page: Server, tmp_path: Path) -> None:
    """A file, a training that is stopped and resumed, and quotes by the model that came of it: all by the page."""
    sayings = [{"saying": f"The {a} is what a {b} remembers of the sea.", "topics": f"{a}; {b}"}
               for a in ("rain", "door", "song", "road", "bread", "lamp") for b in ("child", "sailor", "tree", "town", "bird")]  # fmt: skip
    file = tmp_path / "my sayings.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in sayings))
    with serving(None, "--page", cwd=tmp_path) as fresh:
        browser.size(1280, 900)
        browser.goto(fresh.url + "/#train")
        browser.upload("#file", file)
        browser.until("!document.querySelector('#data').hidden", 60)
        assert "30 rows of 30" in browser.ask("document.querySelector('#data-facts').textContent")
        browser.click("#train-go")
        browser.until("document.querySelector('#live-step').textContent.includes('loss')", 300)
        browser.until("document.querySelector('#live-chart svg polyline')", 60)
        body = {"data": "sample"}
        again = httpx.post(fresh.url + "/api/training/start", json=body, headers={"X-Florilegium": "page"})
        assert again.status_code == 409
        browser.click("#train-stop")
        browser.until("!document.querySelector('#train-resume').hidden", 120)
        assert "stopped" in browser.ask("document.querySelector('#live-status').textContent")
        browser.click("#train-resume")
        browser.until("!document.querySelector('#train-write').hidden", 600)
        assert "finished" in browser.ask("document.querySelector('#live-status').textContent")
        assert browser.ask("document.querySelectorAll('#samples li').length") > 0
        browser.click("#train-write")
        browser.until("document.querySelector('#model').value === 'my-sayings'")
        browser.write("#count", "2")
        browser.click("#write-go")
        browser.until("document.querySelectorAll('#written .actions').length === 2", 120)
        browser.click("#tab-look")
        browser.until("document.querySelector('#runs article')")
        run = tmp_path / "runs" / "my-sayings"
        assert (run / "adapter" / "adapter_config.json").is_file()
        assert read_config(run / "config.yaml")["epochs"] == 20, "nobody named passes: as many as few rows take"
    browser.requested.clear()
