"""The page's routes as plain HTTP sees them: who may use them, what they take in, what they give out."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.report.made_up import write_run
from tests.serve.conftest import Server, serving

MINE, KEY = "https://quotes.example.org", "k3y-of-this-test-only"
PAGE = {"X-Florilegium": "page"}
ROUTES = ["/", "/static/main.js", "/api/runs", "/api/runs/sayings/report", "/api/training", "/api/training/events"]
POSTS = ["/api/uploads?name=a.csv", "/api/inspect", "/api/close", "/api/training/start", "/api/training/stop",
         "/api/training/resume/sayings"]  # fmt: skip


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(run, folder / "runs" / "sayings")
    write_run(folder / "runs" / "made-up")
    shutil.rmtree(folder / "runs" / "made-up" / "adapter")
    with serving(None, "--page", cwd=folder) as one:
        one.run = folder
        yield one


def post(server: Server, path: str, content: bytes = b"{}", **headers: str) -> httpx.Response:
    kind = {} if "uploads" in path else {"content-type": "application/json"}
    return httpx.post(server.url + path, content=content, headers={**PAGE, **kind, **headers}, timeout=60)


def test_a_browser_is_told_to_run_nothing_but_the_page(page: Server, server: Server) -> None:
    for path in ("/", "/static/main.js", "/static/page.css"):
        headers = httpx.get(page.url + path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "trusted-types" in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert "style=" not in httpx.get(page.url).text and "onclick" not in httpx.get(page.url).text
    for path in ("/static/nowhere.js", "/static/..%2f..%2fapp.py", "/static/%2e%2e/runs.py"):
        assert httpx.get(page.url + path).status_code == 404
    assert httpx.get(server.url + "/").status_code == 404  # served without --page
    assert httpx.post(server.url + "/api/training/stop", headers=PAGE).status_code == 404


def test_the_page_leaves_the_number_of_passes_to_the_rows() -> None:
    """Three passes over 40 rows end in a model that writes no tags; the browser test sees what comes of it."""
    page = (resources.files("florilegium.serve") / "page" / "static" / "index.html").read_text(encoding="utf-8")
    (field,) = re.findall(r'<input id="epochs"[^>]*>', page)
    assert "value=" not in field and "required" not in field


@pytest.mark.parametrize("path", POSTS)
def test_no_other_page_can_ask_for_anything(page: Server, path: str) -> None:
    assert httpx.post(page.url + path, content=b"{}").status_code == 403
    other = page.url.rsplit(":", 1)[0] + ":1"
    for headers in ({"Origin": other}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
                    {"Origin": page.url, "Host": "evil.example"}):  # fmt: skip
        assert post(page, path, **headers).status_code == 403, headers
    assert httpx.options(page.url + path, headers={"Origin": "https://evil.example"}).status_code == 403


def test_a_link_to_the_page_may_be_followed_and_no_script_may_read_it(page: Server) -> None:
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert httpx.get(page.url, headers=followed).status_code == 200
    assert httpx.get(page.url + "/api/runs", headers={**followed, "Sec-Fetch-Mode": "no-cors"}).status_code == 403


@pytest.fixture(scope="module")
def guarded(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Open to other machines, with a key, and to the API's use by one other page."""
    folder = tmp_path_factory.mktemp("guarded")
    shutil.copytree(run, folder / "runs" / "sayings")
    flags = ("--page", "--cors", MINE, "--host", "0.0.0.0")
    with serving(None, *flags, cwd=folder, FLORILEGIUM_API_KEY=KEY) as one:
        yield one


def test_the_key_is_asked_of_the_page_too_and_a_browser_can_give_it(guarded: Server) -> None:
    for key in (None, "Basic", f"Basic {_basic('anyone:wrong')}", f"Basic {_basic(KEY)}", "Basic ###"):
        headers = {**PAGE, **({"Authorization": key} if key else {})}
        for path in ROUTES:
            response = httpx.get(guarded.url + path, headers=headers)
            assert response.status_code == 401 and "Basic" in response.headers["www-authenticate"], path
        for path in POSTS:
            assert httpx.post(guarded.url + path, headers=headers, content=b"{}").status_code == 401, path
    known = {"Authorization": f"Basic {_basic('me:' + KEY)}"}
    assert httpx.get(guarded.url, headers=known).status_code == 200
    assert httpx.get(guarded.url + "/api/runs", headers=known).json()["runs"][0]["name"] == "sayings"


def _basic(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_cors_lets_the_named_page_ask_the_api_and_nothing_else(guarded: Server) -> None:
    headers = {"Access-Control-Request-Headers": "authorization, x-stainless-os, x-evil"}
    asks = {"Access-Control-Request-Method": "POST", **headers}
    answer = httpx.options(guarded.url + "/v1/completions", headers={"Origin": MINE, **asks})
    assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == MINE
    assert answer.headers["access-control-allow-headers"] == "authorization, x-stainless-os"
    body = {"prompt": "The", "max_tokens": 2, "stream": True}
    known = {"Authorization": f"Bearer {KEY}"}
    told = httpx.post(guarded.url + "/v1/completions", json=body, headers={"Origin": MINE, **known}, timeout=60)
    assert told.status_code == 200 and told.headers["access-control-allow-origin"] == MINE
    assert httpx.post(guarded.url + "/v1/completions", json=body, headers={"Origin": MINE}).status_code == 401
    for origin, path in (("https://evil.example", "/v1/completions"), (MINE, "/api/training/stop"), (MINE, "/")):
        answer = httpx.options(guarded.url + path, headers={"Origin": origin, **asks})
        assert answer.status_code == 401 and "access-control-allow-origin" not in answer.headers
        assert httpx.post(guarded.url + path, headers={"Origin": origin, **known, **PAGE}).status_code == 403


def test_a_file_is_taken_in_under_a_name_of_ours_and_looked_at(page: Server) -> None:
    rows = "".join(f'"Word {i} of a saying that is long enough {i * 7}.","hope, day {i % 3}"\n' for i in range(40))
    content = ("saying,topics\n" + rows).encode()
    taken = [post(page, f"/api/uploads?name={name}", content).json()["data"] for name in
             ("my quotes.csv", "..%2F..%2F..%2Fetc%2Fpasswd.csv", "%00%0a%3Cb%3E.csv")]  # fmt: skip
    folder = page.run / "runs" / ".data" if page.run else Path()
    assert {path.name for path in folder.iterdir()} == set(taken) and all("/" not in name for name in taken)
    found = post(page, "/api/inspect", f'{{"data": "{taken[0]}"}}'.encode()).json()
    assert (found["num_rows"], found["columns"]) == (40, ["saying", "topics"])
    assert "the text is 'saying', the tags 'topics'" in found["notes"]
    assert found["rows"][0]["text"].startswith("Word")
    others = {"data": taken[0], "text_column": "topics", "tags_column": "saying"}
    again = post(page, "/api/inspect", json.dumps(others).encode()).json()
    assert again["rows"][0]["text"].startswith("hope, day")


@pytest.mark.parametrize(
    ("path", "content", "status", "says"),
    [
        ("/api/uploads?name=a.exe", b"x", 400, "this kind of file is not read"),
        ("/api/inspect", b'{"data": "../../etc/passwd"}', 404, "no such file"),
        ("/api/inspect", b'{"data": ".data"}', 404, "no such file"),
        ("/api/inspect", b'{"data": "sample", "text_column": "--help"}', 400, "--help"),
        ("/api/inspect", b'{"data": "sample", "template": "x"}', 400, "template"),
        ("/api/training/start", b'{"data": "sample", "model": "../outside"}', 400, "model"),
        ("/api/training/start", b'{"data": "sample", "model": "-x"}', 400, "model"),
        ("/api/training/resume/..%2f..", b"{}", 404, "no such"),
        (
            "/api/training/resume/sayings",
            b"{}",
            409,
            "Train it for longer in a terminal: florilegium resume sayings --ep",
        ),
        ("/api/close", b'{"run": "../sayings", "text": "x"}', 404, "no such run. There are: "),
    ],
)
def test_what_cannot_be_done_is_told(page: Server, path: str, content: bytes, status: int, says: str) -> None:
    response = post(page, path, content)
    message = response.json()["error"]["message"]
    assert response.status_code == status and says in message, response.text
    assert all(message.partition(". ")), message  # what is wrong, and what to do


def test_an_unreadable_file_is_told_in_the_words_of_the_command_line(page: Server) -> None:
    taken = post(page, "/api/uploads?name=broken.jsonl", b"{not json\n").json()["data"]
    error = post(page, "/api/inspect", f'{{"data": "{taken}"}}'.encode()).json()["error"]
    assert taken in error["message"] and "Traceback" not in error["message"]


def test_runs_are_listed_and_reports_open_in_a_sandbox(page: Server) -> None:
    runs = {run["name"]: run for run in httpx.get(page.url + "/api/runs").json()["runs"]}
    assert runs["sayings"]["status"] == "finished" and runs["made-up"]["status"] == "stopped"
    report = httpx.get(page.url + "/api/runs/made-up/report")
    assert report.status_code == 200 and "made-up" in report.text
    assert report.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    for name in ("..", "%2e%2e", "..%2fruns%2fmade-up", ".data", "nobody"):
        assert httpx.get(f"{page.url}/api/runs/{name}/report").status_code == 404


def test_quotes_stream_as_they_are_written(page: Server) -> None:
    from tests.serve.test_openai import events

    body = {"model": "sayings", "prompt": "The sea", "n": 2, "seed": 3, "max_tokens": 20}
    whole = page.post("/v1/quotes", **body).json()["data"]
    came = events(page.post("/v1/quotes", **body, stream=True))
    for i in range(2):
        pieces = [event for event in came if event["index"] == i]
        assert pieces[-1]["row"] == whole[i] and "".join(one["text"] for one in pieces) == whole[i]["text"]
    assert page.post("/v1/quotes", about=["x"], stream=True).status_code == 400
