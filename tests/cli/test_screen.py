"""Nothing that a path, a name or a file holds reaches the terminal as it is, on either stream."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from florilegium.cli.main import main
from florilegium.cli.progress import TerminalView, print_quote
from florilegium.cli.screen import fitted, json_line, printable
from florilegium.data import Template
from florilegium.export.card import CardFacts, RunFigures, make_card
from florilegium.export.origin import Origin
from florilegium.generation import Generated
from tests.cli.screens import Screen

ROOT = Path(__file__).parent.parent.parent
RED = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202e"


def test_every_line_of_the_command_line_is_printed_by_one_function() -> None:
    """`completion` prints a shell script of our own."""
    folder = ROOT / "src" / "florilegium" / "cli"
    plain = {path.name for path in folder.rglob("*.py") if re.search(r"(?<![\w.])print\(", path.read_text())}
    assert plain == {"screen.py", "completion.py"}
    dumped = {path.name for path in folder.rglob("*.py") if "json.dumps(" in path.read_text()}
    assert dumped <= {"screen.py"}


def test_every_console_is_one_that_a_closed_pipe_does_not_end() -> None:
    """Rich's own raises SystemExit(1) there."""
    own = ROOT / "src" / "florilegium" / "cli" / "consoles.py"
    for path in sorted((ROOT / "src" / "florilegium").rglob("*.py")):
        assert path == own or not re.search(r"(?<!\w)Console\(", path.read_text()), path


def test_json_says_the_same_without_what_a_terminal_obeys() -> None:
    value = {"quote": f"a{RED}b", "tags": ["é", "数学", "\U000e0041"]}
    line = json_line(value)
    assert json.loads(line) == value and line.isprintable() and "数学" in line


def test_what_is_shown_keeps_its_lines_and_nothing_else() -> None:
    assert printable(f"one\ntwo{RED}") == "one\ntwo [31mred ]0;title  2J "


@pytest.mark.parametrize("as_json", [False, True])
def test_paths_and_rows_with_escape_sequences(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], as_json: bool
) -> None:
    """A whole life of a run whose folder, rows and samples hold them."""
    monkeypatch.chdir(tmp_path)
    run, rows = tmp_path / f"run{RED}", tmp_path / f"rows{RED}.jsonl"
    rows.write_text("".join(json.dumps({"quote": f"Be {RED} {w}.", "tags": [w, RED]}) + "\n" for w in "abcdefghij"))
    extra = ["--json"] if as_json else []
    train = ["train", str(rows), "--model", str(tiny), "--output", str(run), "--bits", "32", "--max-steps", "2"]
    commands = [
        [*train, "--batch-size", "4", "--skip-bad-rows"], ["resume", str(run)], ["report", str(run)],
        ["inspect", str(rows), "--model", str(tiny)],
        ["generate", RED, "--run", str(run), "-n", "1", "--max-new-tokens", "4"], ["runs"], ["train", RED], ["generate", "--run", RED],
        ["report", str(run), str(run)],
    ]  # fmt: skip
    for command in commands:
        main([*command, *extra])
        out, err = capfd.readouterr()
        for stream in (out, err):
            bad = sorted({c for c in stream if not c.isprintable() and c not in "\n\r\t"})
            assert not bad, (command[0], bad, stream[-600:])


def test_a_card_holds_no_live_html_and_no_image() -> None:
    """Samples, prompts, names and templates come from rows: none of them becomes the page's own markup."""
    evil = (
        '<img src=x onerror="alert(1)"> ![x](http://evil/x.png) <script>alert(1)</script>\n\n# heading\n---\n```\n<b>'
    )
    facts = CardFacts(
        "adapter",
        Origin("tiny", False, ""),
        f"{{quote}} {evil[:30]} {{tags}}",
        config={"data": evil},
        figures=RunFigures(),
        scores=[("Tags", evil, "1", "2", evil)],
        samples=[evil, evil],
        prompts=[evil],
    )
    body = make_card(facts).split("\n---\n", 1)[1]
    outside = re.sub(r"`[^`\n]*`", "", re.sub(r"(?ms)^(`{3,}|~{3,}).*?^\1", "", body))
    # CommonMark shows what a backslash stands before as it is
    assert not re.search(r"(?<!\\)<(?:img|/?script|b)\b", outside) and not re.search(r"(?<!\\)!\[", outside), outside
    assert "\n# heading" not in outside


def test_no_encoding_ends_a_command() -> None:
    """Letters that stdout cannot write are escaped, and JSON stays the same value."""
    words = "caf\u00e9 \u6570 \U0001f600"
    code = (
        "from florilegium.cli.screen import json_line, never_fail_to_print, print_line;"
        "never_fail_to_print(); w = 'caf\\u00e9 \\u6570 \\U0001f600';"
        "print_line(json_line({'text': w})); print_line(w, '\\udc80', '\\0')"
    )
    for encoding in ("ascii", "latin-1", "utf-8"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
        first = done.stdout.decode(encoding).splitlines()[0]
        assert done.returncode == 0 and json.loads(first) == {"text": words}, (encoding, done.stderr)


@pytest.mark.parametrize(
    "redirected,code",
    [
        (">&-", 0),
        ("2>&-", 0),
        (">&- 2>&- <&-", 0),
        ("| true", 0),
        (">/dev/full", 5),
        ("2>/dev/full", 0),
    ],
)
def test_streams_that_are_closed_or_full(tmp_path: Path, redirected: str, code: int) -> None:
    """As daemons, cron and logs on a full disk have them."""
    command = f"{shlex.quote(sys.executable)} -m florilegium version {redirected}"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=tmp_path, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    if code:
        assert done.stderr.count("\n") == 1 and "the disk is full" in done.stderr


def test_a_stream_that_was_closed_takes_no_files_number(tmp_path: Path) -> None:
    """Else what a library prints would go into the next file that is opened."""
    code = (
        "import os; from florilegium.cli.screen import open_what_is_closed; open_what_is_closed();"
        f"handle = os.open({str(tmp_path / 'file')!r}, os.O_CREAT | os.O_WRONLY); assert handle > 2, handle;"
        "import sys; print('out'); sys.stderr.write('err'); assert sys.stdin.read() == ''; os.write(2, b'native')"
    )
    done = subprocess.run(["bash", "-c", f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} <&- >&- 2>&-"])
    assert done.returncode == 0 and (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_line_is_broken_between_words_and_no_path_is(width: int) -> None:
    path = "runs/20261129-213453-mine-seedling-of-a-long-name-that-no-terminal-holds-in-one-row"
    line = f"model    seedling: 11,253,440 parameters in int8, compute dtype float32, on CPU (1 thread), in {path}"
    lines = fitted(line, width, indent=9).split("\n")
    assert len(lines) > 1 and all(len(one) <= width or one.strip() == path for one in lines)
    assert " ".join(one.strip() for one in lines) == line and all(one.startswith(" " * 9) for one in lines[1:])
    assert fitted("model    short", width, indent=9) == "model    short"


@pytest.mark.parametrize("command", [["inspect", "quotes.csv"], ["estimate", "--gpu", "24"], ["doctor"]])
def test_what_is_told_on_a_terminal_is_broken_between_words(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")
    (tmp_path / "quotes.csv").write_text(
        "quote,tags\n" + "".join(f"Be {w}.,{w} kindness\n" for w in "abcdefghijklmnopqrst")
    )
    shown = {}
    for is_terminal in (True, False):
        screen = Screen(is_terminal)
        monkeypatch.setattr(sys, "stdout", screen)
        assert main(command) == 0
        shown[is_terminal] = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    lines = shown[True].splitlines()
    assert not [line for line in lines if len(line) > 60 and len(line.split()) > 2]  # a path stays whole
    assert len(lines) > len(shown[False].splitlines()) and shown[True].split()[:40] == shown[False].split()[:40]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_quote_in_a_file_is_one_line(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    screen, template = Screen(is_terminal), Template.from_text()
    monkeypatch.setattr(sys, "stdout", screen)
    text = " ".join(["word"] * 40) + " ->: sea"
    print_quote(Generated(text, template.parse(text), True), template)
    assert screen.getvalue().count("\n") == (5 if is_terminal else 2)


def test_a_log_has_one_line_for_each_and_a_terminal_as_many_as_it_takes() -> None:
    line = "model    seedling: 11,253,440 parameters in int8, compute dtype float32, on CPU (1 thread)"
    for is_terminal in (True, False):
        view, screen = TerminalView(), io.StringIO()
        view.console = Console(file=screen, force_terminal=is_terminal, width=80, highlight=False, soft_wrap=True)
        view.say(line)
        assert screen.getvalue().count("\n") == 1 + is_terminal and screen.getvalue().split() == line.split()
