"""The commands as a person types them: real processes, their exit codes, what they print and what they leave.

Most are forked from one that has imported PyTorch already; signals and closed pipes meet an interpreter of their own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import PAGES
from tests.warm import run, shared


@contextlib.contextmanager
def started(command: list[str], cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that hears Ctrl-C even where the tests themselves run in the background, and that never outlives its
    test."""

    def hear() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=cwd, stderr=pipe, stdout=pipe, text=True, preexec_fn=hear)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A folder with rows, and a finished run of the tiny model in runs/."""
    folder = tmp_path_factory.mktemp("work")
    rows = [
        {"quote": f"Be kind to the {w} number {i}.", "tags": [w]}
        for i in range(12)
        for w in ("sea", "home", "river", "boat")
    ]
    (folder / "quotes.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    done = run("train", "quotes.jsonl", "--model", str(tiny), "--max_steps=6", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "result.json").write_text(done.stdout)
    return folder


def test_train_prints_where_the_adapter_lies(work: Path) -> None:
    result = json.loads((work / "result.json").read_text())
    assert (work / result["adapter"] / "adapter_model.safetensors").is_file()
    assert result["steps"] == 6 and len(result["quotes"]) == 5
    assert set(result["quotes"][0]) == {"quote", "tags", "text", "finished", "novel"}


def test_generate_keeps_the_contract(work: Path) -> None:
    seeded = ("generate", "Be kind", "--run", "latest", "-n", "3", "--max-new-tokens", "8", "--seed", "5", "--json")
    done = run(*seeded, cwd=work)
    assert done.returncode == 0 and "seed" not in done.stderr, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 3
    for row in rows:
        assert row["text"].startswith("Be kind") and isinstance(row["tags"], list) and isinstance(row["finished"], bool)
        assert (row["quote"] is None) == (row["novel"] is None)
    assert run(*seeded, cwd=work).stdout == done.stdout


def test_generate_from_nothing_from_a_file_for_tags_beside_the_base(work: Path) -> None:
    assert run("generate", "-n", "2", "--max-new-tokens", "5", cwd=work).returncode == 0
    (work / "prompts.txt").write_text("Be kind\n\nThe sea\n")
    done = run("generate", "--prompts", "prompts.txt", "-n", "2", "--max-new-tokens", "5", "--json", "--base", cwd=work)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["text"][:7] for r in rows] == ["Be kind", "Be kind", "The sea", "The sea"]
    assert all(r["base"]["text"].startswith(r["text"][:7]) for r in rows)
    done = run("generate", "--label", "Be kind to the sea.", "-n", "1", "--max-new-tokens", "5", "--json", cwd=work)
    labelled = json.loads(done.stdout)
    assert labelled["text"].startswith("Be kind to the sea. ->:")
    assert labelled["quote"] and labelled["novel"] is None, "the quote is the person's own"
    done = run("generate", "--interactive", "-n", "1", "--max-new-tokens", "5", "--json", cwd=work, stdin="Time\n\n")
    assert done.returncode == 0 and json.loads(done.stdout)["text"].startswith("Time")


def test_generate_says_something_else_each_time_and_how_to_have_it_again(work: Path) -> None:
    asked = ("generate", "Be kind", "-n", "1", "--max-new-tokens", "12", "--temperature", "2")
    first = run(*asked, "--json", cwd=work)
    (seed,) = re.findall(r"^seed (\d+) ", first.stderr, re.M)
    assert run(*asked, "--json", cwd=work).stdout != first.stdout
    assert run(*asked, "--json", "--seed", seed, cwd=work).stdout == first.stdout


def test_generate_reads_standard_input(work: Path) -> None:
    done = run("generate", "-", "-n", "1", "--max-new-tokens", "3", "--json", cwd=work, stdin="Be kind\n\nThe sea\n")
    assert [json.loads(line)["text"][:7] for line in done.stdout.splitlines()] == ["Be kind", "The sea"]


def test_chat_answers_line_by_line(work: Path) -> None:
    """A mistake in a line is told, and the next one is answered; the seed moves on, so that no answer comes twice."""
    typed = "/seed 3\nTime\nTime\n/nonsense\n/n 2\n/temperature hot\n/label Be kind.\n\n"
    done = run("chat", "--max-new-tokens", "12", "--temperature", "2", "--json", cwd=work, stdin=typed)
    assert done.returncode == 0, done.stderr
    texts = [json.loads(line)["text"] for line in done.stdout.splitlines()]
    assert len(texts) == 4 and texts[0] != texts[1] and all(text.startswith("Time") for text in texts[:2])
    assert all(text.startswith("Be kind. ->:") for text in texts[2:])
    assert "/nonsense is no command of chat" in done.stderr and "/temperature takes a number" in done.stderr


def test_inspect_shows_what_will_be_trained(work: Path, tiny: Path) -> None:
    done = run("inspect", "quotes.jsonl", "--model", str(tiny), "--json", cwd=work)
    report = json.loads(done.stdout)
    assert (
        report["num_rows"] == 48
        and report["training_rows"] + report["held_out_rows"] == 48
        and len(report["rows"]) == 3
    )
    row = report["rows"][0]
    assert "".join(row["tokens"]) == row["text"] + "</s>" and row["learned"][0] is False and all(row["learned"][1:])
    assert row["packed_to"] - row["packed_from"] == len(row["tokens"]) - 1
    text = run("inspect", "quotes.jsonl", "--model", str(tiny), cwd=work)
    assert text.returncode == 0 and "packed row" in text.stdout


def test_evaluate_and_report(work: Path) -> None:
    done = run("evaluate", "--generations", "4", "--json", "--base", "--general", str(PAGES), cwd=work)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["tuned"]) == set(found["base"]) and found["tuned"]["loss"]["value"] > 0
    (folder,) = (p.parent for p in work.glob("runs/*/evaluation.json"))
    assert "General text" in (folder / "report.html").read_text() and (folder / "loss.png").stat().st_size > 1000
    done = run("report", "--json", cwd=work)
    assert json.loads(done.stdout)["report"] == str(folder.relative_to(work) / "report.html")
    done = run("report", str(folder), str(folder), "--output", "both.html", cwd=work)
    assert done.returncode == 0 and "held-out loss" in done.stdout and (work / "both.html").is_file()
    done = run("report", str(folder), str(folder), "--json", cwd=work)
    assert json.loads(done.stdout)["same_rows"] and (work / "comparison.html").is_file()


def test_print_config_can_be_run(work: Path, tiny: Path) -> None:
    done = run("train", "quotes.jsonl", "--model", str(tiny), "--epochs", "1", "--print-config", cwd=work)
    (work / "run.yaml").write_text(done.stdout)
    again = run("train", "--config", "run.yaml", "--print-config", cwd=work)
    assert again.stdout == done.stdout and "epochs: 1.0" in again.stdout
    wins = run("train", "--config", "run.yaml", "--epochs", "2", "--print-config", cwd=work)
    assert "epochs: 2.0" in wins.stdout


MISTAKES = [
    (["train", "nothing.jsonl"], 3, "nothing.jsonl"),
    (["train", "quotez.jsonl"], 3, "quotes.jsonl"),
    (["train", "quotes.jsonl", "--epoch", "3"], 2, "--epochs"),
    (["train", "quotes.jsonl", "--lerning-rate", "3"], 2, "--learning-rate"),
    (["train", "quotes.jsonl", "--bits", "5"], 2, "--bits"),
    (["train", "quotes.jsonl", "--rank", "0"], 2, "rank"),
    (["train", "quotes.jsonl", "--learning-rate", "nan"], 2, "finite"),
    (["train", "quotes.jsonl", "--held-out", "1.5"], 2, "less than 1"),
    (["train", "quotes.jsonl", "--template", "{quote} by {writer}"], 3, "writer"),
    (["train", "quotes.jsonl", "--template", "{quote.__class__} ->: {tags}"], 2, "placeholder"),
    (["train", "quotes.jsonl", "--model", "no/such/folder/here"], 4, "no model folder"),
    (["train", "quotes.jsonl", "--model", "bigscience/bloom-560m"], 4, "Hub"),
    (["train", "quotes.jsonl", "--dora"], 2, "--bits 8"),
    (["train", "quotes.jsonl", "--fast", "warp"], 2, "warp"),
    (["train", "quotes.jsonl", "--fast", "attention", "--device", "cpu"], 2, "attention"),
    (["train", "quotes.jsonl", "--report-to", "nowhere"], 2, "nowhere"),
    (["train", "--config", "missing.yaml"], 2, "missing.yaml"),
    (["train", "--config", "bad.yaml"], 2, "rnk"),
    (["generate", "--run", "no-such-run"], 4, "no-such-run"),
    (["generate", "-n", "0"], 2, "-n"),
    (["generate", "--temperature", "-1"], 2, "temperature"),
    (["generate", "--prompts", "missing.txt"], 2, "missing.txt"),
    (["generate", "--int8-head", "--device", "cpu"], 2, "--int8-head: kernel 'int8-head' is not supported here"),
    (["serve", "--int8-head", "--device", "cpu", "--port", "0"], 2, "need CUDA"),
    (["generat"], 2, "generate"),
    (["resume", "no-such-run"], 4, "no-such-run"),
    (["generate", "--novel-only", "--base"], 2, "--base"),
    (["generate", "--novel-only", "--temperature", "0"], 2, "temperature 0"),
    (["evaluate", "no-such-run"], 4, "no-such-run"),
    (["evaluate", "--generations", "0"], 2, "generations"),
    (["evaluate", "--general", "missing.txt"], 3, "missing.txt"),
    (["evaluate", "--data", "other.jsonl"], 3, "--data"),
    (["report", "no-such-run"], 4, "no-such-run"),
    (["report", "--output", "page.html"], 2, "--output"),
    (["train", "quotes.jsonl", "--split-by", "autor"], 2, "split"),
    (["train", "quotes.jsonl", "--split-by", "author"], 3, "author"),
    (["inspect", "empty.jsonl"], 3, "empty.jsonl"),
    (["inspect", "utf16.jsonl"], 3, "UTF-16"),
]


@pytest.mark.parametrize("arguments,code,word", MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_a_mistake_gives_one_line_with_the_fix(work: Path, arguments: list[str], code: int, word: str) -> None:
    (work / "empty.jsonl").write_text("")
    (work / "utf16.jsonl").write_bytes('{"quote": "a", "tags": []}\n'.encode("utf-16")[:-1])
    (work / "other.jsonl").write_text('{"quote": "a b", "tags": []}\n' * 3)
    (work / "bad.yaml").write_text("rnk: 8\n")
    before = sorted(p for p in work.rglob("*"))
    done = run(*arguments, cwd=work)
    assert done.returncode == code, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("florilegium: ") and word in last and "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(p for p in work.rglob("*")) == before


@pytest.mark.parametrize("number,code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_first_and_resume_goes_on(work: Path, tiny: Path, number: int, code: int) -> None:
    name = f"stopped-{code}"
    command = [
        sys.executable,
        "-m",
        "florilegium",
        "train",
        "quotes.jsonl",
        "--model",
        str(tiny),
        "--max-steps",
        "100000",
        "--output",
        name,
    ]
    metrics = work / name / "metrics.jsonl"
    deadline = time.monotonic() + 600
    with started(command, work) as process:
        while not (metrics.is_file() and len(metrics.read_text().splitlines()) > 5):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
    assert "is saved" in errors and f"florilegium resume {name}" in errors and "Traceback" not in errors
    (saved,) = re.findall(r"step (\d+) is saved", errors)
    assert (work / name / "checkpoints" / f"step-{int(saved):08d}" / "manifest.json").is_file()
    assert len(metrics.read_text().splitlines()) < 100_000


def test_a_second_run_into_the_same_folder_is_refused_while_the_first_trains(work: Path, tiny: Path) -> None:
    command = ["train", "quotes.jsonl", "--model", tiny, "--max-steps", "100000", "--output", "busy"]
    first = shared().start(command, cwd=work)
    try:
        deadline = time.monotonic() + 600
        while not (work / "busy" / "metrics.jsonl").is_file():
            assert first.poll() is None and time.monotonic() < deadline, first.err
            time.sleep(0.05)
        done = run("resume", "busy", cwd=work)
        assert done.returncode == 2 and "another process" in done.stderr
    finally:
        first.send(signal.SIGKILL)
        first.wait()


def closed_pipe() -> int:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def test_a_run_goes_on_when_nobody_reads_its_lines(work: Path, tiny: Path) -> None:
    """`florilegium train 2>&1 >/dev/null | head -3`: the lines are lost, the run is not."""
    command = [
        sys.executable,
        "-m",
        "florilegium",
        "train",
        "quotes.jsonl",
        "--model",
        str(tiny),
        "--max-steps",
        "3",
        "--output",
        "unread",
    ]
    pipe = closed_pipe()
    done = subprocess.run(command, cwd=work, stdout=subprocess.DEVNULL, stderr=pipe, timeout=600)
    os.close(pipe)
    assert done.returncode == 0 and (work / "unread" / "adapter" / "adapter_model.safetensors").is_file()


def test_quotes_that_nobody_reads_are_no_failure(work: Path) -> None:
    """`florilegium generate -n 3 | head -1`."""
    pipe = closed_pipe()
    command = [
        sys.executable,
        "-m",
        "florilegium",
        "generate",
        "The sea",
        "-n",
        "3",
        "--run",
        "latest",
        "--max-new-tokens",
        "5",
    ]
    done = subprocess.run(command, cwd=work, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=600)
    os.close(pipe)
    assert done.returncode == 0 and done.stderr == "loading PyTorch ...\n"


def test_a_process_does_not_look_for_garbage_among_its_modules() -> None:
    """Nor while they are imported; afterwards the collector is as Python has it."""
    program = (
        "import atexit, gc, sys; from florilegium.cli import main; usual = gc.get_threshold(); "
        "times, freeze = [], gc.freeze; gc.freeze = lambda: (times.append(1), freeze()); "
        "seen = lambda: (gc.get_freeze_count() > 100_000, gc.get_threshold() == usual, len(times) == 2); "
        "atexit.register(lambda: print(*seen(), file=sys.stderr)); "
        "sys.argv = ['florilegium', 'inspect', '--tokens', '--json']; sys.exit(main.command_line())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.split()[-3:] == ["True"] * 3, done.stderr
