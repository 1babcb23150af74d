"""The house's rules: imports point down the list of rooms, public names are sorted, `--help` is instant, the README's
table is true."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import florilegium
from tools.counts import count

ROOT = Path(florilegium.__file__).parent
PROJECT = Path(__file__).parent.parent
# A room may import those before it.
ORDER = [
    "errors", "signals", "seedling", "reference", "fast", "config", "storage", "data", "tokens", "model",
    "export", "evaluation", "training", "generation", "report", "runs", "serve", "cli", "__main__", "__init__",
]  # fmt: skip


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0].removesuffix(".py")


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Dotted names that a file imports, relative ones made absolute."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ["florilegium", *path.relative_to(ROOT).parts[:-1]]
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{source}.{alias.name}" for alias in node.names}
    return found


def test_imports_point_down() -> None:
    for path in modules():
        here = room(path)
        assert here in ORDER, f"{path}: give the room {here} a place in ORDER"
        for name in imports(path):
            if name.startswith("florilegium.") and here != "__init__":
                there = name.split(".")[1]
                if there in ORDER and there != here:
                    assert ORDER.index(there) < ORDER.index(here), f"{path.relative_to(ROOT)} imports {name}"


def test_fast_knows_the_references_alone_and_one_door_leads_to_it() -> None:
    for path in modules():
        ours = {n.split(".")[1] for n in imports(path) if n.startswith("florilegium.")}
        if room(path) == "fast":
            assert ours <= {"fast", "reference"}, path
        elif path.relative_to(ROOT).as_posix() not in (
            "model/fast_paths.py",
            "model/kernel_protocols.py",
        ):  # the door and its shape
            assert "fast" not in ours, path


def test_every_launcher_of_a_kernel_asserts_what_the_kernel_needs_and_every_kernel_has_its_reference() -> None:
    """A launcher calls `kernel[grid](...)`; a kernel is a function that one launches."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "fast").rglob("*.py"))}
    functions = [(p, f) for p, tree in trees.items() for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)]
    launched: set[str] = set()
    for path, function in functions:
        calls = [
            node.func.value
            for node in ast.walk(function)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript)
        ]
        if calls:
            assert any(isinstance(node, ast.Assert) for node in ast.walk(function)), (path.name, function.name)
        launched |= {ast.unparse(call).split(".")[-1] for call in calls}
    kernels = [f for _, f in functions if f.name in launched and any("jit" in ast.unparse(d) for d in f.decorator_list)]
    assert len(kernels) > 25
    assert not [f.name for f in kernels if "Reference" not in (ast.get_docstring(f) or "")]


@pytest.mark.parametrize("module", ["errors", "config", "storage.run_directory", "data", "cli.flags", "cli"])
def test_loads_without_torch(module: str) -> None:
    code = f"import sys, florilegium.{module}; sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_public_names_are_sorted_and_there() -> None:
    for path in modules():
        if path.name == "__init__.py":
            name = ".".join(["florilegium", *path.relative_to(ROOT).parts[:-1]])
            module = __import__(name, fromlist=["x"])
            names = getattr(module, "__all__", [])
            key = lambda n: (not n.isupper(), not n[0].isupper(), n)  # noqa: E731  # constants, classes, functions, as ruff sorts them
            assert list(names) == sorted(names, key=key), name
            assert all(getattr(module, n) is not None for n in names), name


def test_help_is_instant() -> None:
    """In seconds of processor time: the clock on the wall would measure what else this machine does."""
    seconds = []
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, "-m", "florilegium", "--help"], check=True, capture_output=True)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 0.6, seconds  # a busy neighbour on the core doubles it; torch alone would take 2


def test_the_architecture_page_names_every_file() -> None:
    page = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = set(re.findall(r"^\| `([\w/.]+\.(?:py|cuh?))`", page, re.M))
    files = {
        p.relative_to(ROOT).as_posix()
        for p in (*modules(), *ROOT.rglob("*.cu*"))
        if p.name not in ("__init__.py", "__main__.py")
    }
    assert table == files, f"missing {sorted(files - table)}, gone {sorted(table - files)}"


# What has been reached, and a little room for what lands next; `python -m tools.counts --where any` says where each
# stands. A number is raised with its reason in the commit.
MOST = {
    "top_level_modules": 6,
    "long_files": 0,
    "median_function_lines": 8,
    "any_in_signatures": 39,  # one for PEFT's layer, as any of its kinds (`fast/layers/lora_linear.py`)
    "dict_str_any": 13,
    "readme_words": 1000,
}
LEAST = {"comments_per_line": 0.08}  # in fast/ and packed_forward.py


def test_the_house_stays_as_small_as_it_has_become() -> None:
    counts = vars(count())
    assert {name: counts[name] for name in MOST if counts[name] > MOST[name]} == {}
    assert {name: counts[name] for name in LEAST if counts[name] < LEAST[name]} == {}


def test_no_tensor_takes_its_dtype_from_the_process() -> None:
    """A thread that loads a 16-bit base changes torch's default dtype for all the others meanwhile."""
    makers = {"empty", "eye", "full", "linspace", "normal", "ones", "rand", "randn", "zeros"}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {f"torch.{name}" for name in makers}:
                given = {word.arg for word in node.keywords}
                assert "dtype" in given, f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"


def test_who_waits_for_the_whole_device_waits_for_a_recording_too() -> None:
    for path in modules():
        if path.relative_to(ROOT).as_posix() not in ("fast/recording.py", "model/fast_paths.py"):
            text = path.read_text(encoding="utf-8")
            assert "cuda.synchronize(" not in text and "cuda.empty_cache(" not in text, path


def test_no_file_is_too_long_to_read() -> None:
    long = {p.name: n for p in modules() if (n := len(p.read_text(encoding="utf-8").splitlines())) > 260}
    assert not long


def test_everything_works_with_the_fast_room_gone(tmp_path: Path) -> None:
    """A copy of the package without `fast/`: trains, writes, and says why a fast path that is named cannot run."""
    shutil.copytree(ROOT, tmp_path / "florilegium", ignore=shutil.ignore_patterns("fast", "__pycache__"))
    rows = [{"quote": f"Be kind to sea number {i}.", "tags": ["kindness", "sea"]} for i in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = """
import florilegium, sys
assert florilegium.__file__.startswith(sys.argv[1])
data = sys.argv[1] + "/rows.jsonl"
trained = florilegium.train(data, model="seedling", output=sys.argv[1] + "/run", max_steps=1, batch_rows=4, max_length=32, verdict_texts=0)
assert trained.figures["fast"] == [] and trained.figures["steps"] == 1
assert trained.tuned.generate("Time", max_new_tokens=3)[0].text.startswith("Time")
assert florilegium.load(trained.directory).generate("Time", max_new_tokens=3)[0].text.startswith("Time")
report = florilegium.evaluate(trained.directory, generations=1, rows=2, bits=32, device="cpu", general=data)
assert report["tuned"]["loss"]["value"] > 0
try:
    florilegium.train(data, output=sys.argv[1] + "/other", fast="linear")
except florilegium.UsageError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "this installation has no fast kernels" in done.stdout
