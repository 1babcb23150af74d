"""Every `raise` and every caught exception of the program, walked: each failure that a user may see says its cause and
what to do, a library's reason is shown whole, and whatever else is raised is known here with who catches it."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from florilegium import errors

SRC = Path(errors.__file__).parent
TREES = {path.relative_to(SRC).as_posix(): ast.parse(path.read_text()) for path in sorted(SRC.rglob("*.py"))}
OURS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}

# What is raised beside these: file -> (kinds, who meets them). A row for a new one says that somebody looked.
OTHERS = {
    "__init__.py": ({"AttributeError"}, "Python: a module has no such name"),
    "__main__.py": ({"SystemExit"}, "Python: the exit code"),
    "cli/consoles.py": ({"BrokenPipeError"}, "cli/main.py: the reader is gone, quietly"),
    "cli/screen.py": ({"BrokenPipeError"}, "cli/main.py, as above"),
    "data/arrow_messages.py": ({"ValueError"}, "data/arrow_rows.py: `damaged`, a DataError"),
    "data/cell_size.py": ({"ValueError"}, "data/arrow_rows.py: `damaged`"),
    "data/csv_rows.py": ({"StopIteration", "_BadLine"}, "the csv module; the loop over lines, a bad row by its place"),
    "data/json_objects.py": ({"DoubledKey"}, "data/json_rows.py: a bad row by its place"),
    "data/parquet_footer.py": ({"ValueError", "IndexError"}, "data/arrow_rows.py: `damaged`"),
    "export/hub.py": ({"AssertionError"}, "nobody: it cannot be reached"),
    "fast/layers/document_attention.py": ({"ValueError"}, "model/document_packing.py: why the layers are not fused"),
    "fast/hopper/nvrtc.py": ({"RuntimeError"}, "nobody: a mistake of ours, with the compiler's log"),
    "generation/recorded_decode.py": ({"ValueError"}, "its `try_decoder`: why texts go through the own cache"),
    "runs/evaluate.py": ({"UnsavedEvaluation"}, "cli/commands/evaluate.py: the report is printed first"),
    "runs/launch.py": ({"ProcessesEnded"}, "cli/main.py: each process has told its own"),
    "serve/bounds.py": ({"ValueError"}, "pydantic: a 400 that names the field"),
    "serve/events.py": ({"ClientGone"}, "serve/quote_stream.py and the routes: nobody is left to be told"),
    "serve/quote_stream.py": ({"AssertionError"}, "nobody: it cannot be reached"),
    "serve/quotes.py": ({"Gone"}, "the route: nobody is left to be told"),
    "serve/schema.py": ({"ValueError"}, "pydantic: a 400 that names the field"),
    "storage/atomic_files.py": ({"OSError"}, "`writing`, a ResourceError with the path"),
    "storage/atomic_folders.py": ({"ValueError", "ChecksumMismatch"}, "checkpoint and run: skipped, with the reason"),
    "storage/json_record.py": ({"ValueError"}, "whoever reads the file: damaged, or left out of the page"),
    "storage/platform.py": ({"BlockingIOError"}, "storage/run_lock.py: another process trains there"),
    "storage/strict_json.py": ({"ValueError"}, "whoever reads the file: damaged, with the reason"),
    "tokens/chat_rendering.py": ({"ValueError"}, "tokens/chat.py: a UsageError with the reason"),
    "training/checkpoint.py": ({"ChecksumMismatch"}, "runs/resume.py: skipped, with the reason"),
    "training/distributed.py": ({"PeerLost"}, "runs/follow.py and `joined`: told by one process"),
}
FIRST_LINE_ALONE = re.compile(r"str\((error|e)\)\)?[^\n]*?(\.splitlines\(\)\[0\]|\.split\(\"\\n\"|\[:\d+\])")


def raised(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """The class that is raised, or the function that makes what is, and the expression."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            made = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            yield (made.id if isinstance(made, ast.Name) else getattr(made, "attr", "")), node.exc


def test_every_failure_says_its_cause_and_what_to_do() -> None:
    seen = 0
    for path, tree in TREES.items():
        for node in ast.walk(tree):  # raised at once or made by a function that somebody raises
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in OURS:
                seen += 1
                given = node.args + [keyword.value for keyword in node.keywords]
                starred = any(isinstance(value, ast.Starred) for value in given)
                where = f"{path}:{node.lineno}: {node.func.id}"
                assert starred or len(given) >= 2, f"{where} says no fix"
                empty = [value for value in given if isinstance(value, ast.Constant) and not value.value]
                assert not empty, f"{where} has an empty cause or fix"
    assert seen > 350


def test_whatever_else_is_raised_is_known_with_who_meets_it() -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for path, tree in TREES.items():
        for name, value in raised(tree):
            is_class = name[:1].isupper() or name.startswith("_") and name[1:2].isupper()
            if is_class and name not in OURS | {"ApiError"} and not isinstance(value, ast.Subscript):
                found[path].add(name)
    assert dict(found) == {path: kinds for path, (kinds, _) in OTHERS.items()}


def test_what_is_caught_whatever_it_is_is_raised_on_or_said_why_not() -> None:
    for path, tree in TREES.items():
        lines = (SRC / path).read_text().splitlines()
        for node in ast.walk(tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            kinds = {part.id for part in ast.walk(node.type or ast.Name("bare")) if isinstance(part, ast.Name)}
            if kinds & {"Exception", "BaseException", "bare"}:
                goes_on = any(isinstance(part, ast.Raise) for part in ast.walk(node))
                tells = any(isinstance(part, ast.Name) and part.id == node.name for part in ast.walk(node))
                assert goes_on or tells or "#" in lines[node.lineno - 1], f"{path}:{node.lineno} swallows what it is"


def test_a_librarys_reason_is_shown_whole() -> None:
    for path in TREES:
        found = FIRST_LINE_ALONE.search((SRC / path).read_text())
        assert not found, f"{path}: {found and found[0]}: the reason is rarely in the first line; use reason_of"
    assert FIRST_LINE_ALONE.search('f"{str(error)[:100]}"') and FIRST_LINE_ALONE.search("str(error).splitlines()[0]")
