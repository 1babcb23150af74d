"""The house in numbers: what `tests/test_architecture.py` holds, and what a reviewer looks at first.

python -m tools.counts [--where any|dict]      also where each `Any`, or each `dict[str, Any]`, stands

modules at the top       files beside the folders of src/florilegium
files over 260 lines     Python files of src/florilegium
median function          lines of a function or method, def to end
Any in signatures        an argument or result whose whole annotation is `Any`, or that has it between `|`
dict[str, Any]           anywhere in src/florilegium
comments                 comments a line, in fast/ and in packed_forward.py
README words             as `wc -w` counts them
"""

from __future__ import annotations

import argparse
import ast
import io
import statistics
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parent.parent
ROOT = PROJECT / "src" / "florilegium"
MAX_LINES = 260
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Counts:
    top_level_modules: int
    long_files: int
    median_function_lines: float
    any_in_signatures: int
    dict_str_any: int
    comments_per_line: float
    readme_words: int


def count() -> Counts:
    files = sorted(ROOT.rglob("*.py"))
    lengths = [function.end_lineno - function.lineno + 1 for _, function in functions() if function.end_lineno]
    return Counts(
        top_level_modules=len([path for path in ROOT.glob("*.py") if not path.name.startswith("__")]),
        long_files=sum(len(_text(path).splitlines()) > MAX_LINES for path in files),
        median_function_lines=statistics.median(lengths),
        any_in_signatures=len(list(bare_any())),
        dict_str_any=len(list(dicts_of_any())),
        comments_per_line=round(comments_per_line(), 3),
        readme_words=len(_text(PROJECT / "README.md").split()),
    )


def functions() -> Iterator[tuple[Path, Function]]:
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(_text(path))):
            if isinstance(node, Function):
                yield path, node


def bare_any() -> Iterator[str]:
    """`file:line function argument` of every `Any` in a signature."""
    for path, function in functions():
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        annotations = [(a.arg, a.annotation) for a in named if a is not None] + [("->", function.returns)]
        for name, annotation in annotations:
            if annotation is not None and _is_any(annotation):
                yield f"{path.relative_to(ROOT)}:{function.lineno} {function.name} {name}"


def _is_any(annotation: ast.expr) -> bool:
    if isinstance(annotation, ast.BinOp):
        return _is_any(annotation.left) or _is_any(annotation.right)
    return isinstance(annotation, ast.Name) and annotation.id == "Any"


def dicts_of_any() -> Iterator[str]:
    """`file:line` of every `dict[str, Any]`."""
    for path in sorted(ROOT.rglob("*.py")):
        for number, line in enumerate(_text(path).splitlines(), 1):
            for _ in range(line.count("dict[str, Any]")):
                yield f"{path.relative_to(ROOT)}:{number} {line.strip()[:90]}"


def comments_per_line() -> float:
    paths = [*sorted((ROOT / "fast").rglob("*.py")), ROOT / "model" / "packed_forward.py"]
    comments = lines = 0
    for path in paths:
        tokens = tokenize.generate_tokens(io.StringIO(_text(path)).readline)
        comments += sum(token.type == tokenize.COMMENT and not _is_for_tools(token.string) for token in tokens)
        lines += len(_text(path).splitlines())
    return comments / lines


def _is_for_tools(comment: str) -> bool:
    """`# fmt: skip` and the like tell a reader nothing; a reason behind them does."""
    return comment.lstrip("# ").startswith(("fmt:", "noqa", "type: ignore")) and "  # " not in comment


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--where", choices=("any", "dict"))
    where = parser.parse_args().where
    for name, value in vars(count()).items():
        print(f"{name.replace('_', ' '):24}{value:g}")
    for line in bare_any() if where == "any" else dicts_of_any() if where == "dict" else ():
        print(line)


if __name__ == "__main__":
    main()
