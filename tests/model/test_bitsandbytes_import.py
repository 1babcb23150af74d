"""bitsandbytes is imported without Inductor, and what it wanted compiled is compiled when it is called; nobody else
notices."""

from __future__ import annotations

import subprocess
import sys

import pytest

from florilegium.model.bitsandbytes_import import when_called


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_bitsandbytes_is_imported_without_inductor() -> None:
    code = """
import sys, torch
from florilegium.model.bitsandbytes_import import import_bitsandbytes
compile = torch.compile
bnb = import_bitsandbytes()
assert torch.compile is compile and bnb is sys.modules["bitsandbytes"] is import_bitsandbytes()
print("torch._inductor.compile_fx" in sys.modules)
"""
    assert run(code).split() == ["False"]


def test_a_training_imports_it_so_too() -> None:
    """PEFT, which the rehearsal needs before any base is loaded, would import it its own way: with code from the Hub, where
    the package for that is installed."""
    code = """
import sys
from florilegium.config import make_config
from florilegium.model.rehearsal import rehearse_training
rehearse_training(make_config({}))
print("bitsandbytes" in sys.modules, "torch._inductor.compile_fx" in sys.modules)
"""
    assert run(code).split() == ["True", "False"]


def test_other_threads_can_compile_during_the_import() -> None:
    """Several threads import, and one compiles a function of its own while they do."""
    code = """
import sys, threading, time, types, torch
from florilegium.model import bitsandbytes_import as importing
compile = torch.compile
sys.meta_path.insert(0, types.SimpleNamespace(find_spec=lambda name, *_: time.sleep(0.3) if name == "bitsandbytes" else None))
threads = [threading.Thread(target=importing.import_bitsandbytes) for _ in range(3)]
for thread in threads:
    thread.start()
time.sleep(0.1)
assert torch.compile is not compile
model = torch.compile(torch.nn.Linear(2, 2))
assert list(model.parameters())
for thread in threads:
    thread.join()
assert torch.compile is compile and "bitsandbytes" in sys.modules
print("done")
"""
    assert run(code).split() == ["done"]


def test_a_function_is_compiled_at_its_first_call_and_once() -> None:
    made = []

    def compile(function, **options):
        made.append(options)
        return lambda x: function(x) + 1

    def double(x: int) -> int:
        return 2 * x

    later = when_called(compile, double, {"dynamic": False})
    assert not made and later.__name__ == "double"
    assert (later(3), later(4)) == (7, 9) and made == [{"dynamic": False}]


@pytest.mark.parametrize(
    "first",
    [
        "from florilegium.model.rehearsal import rehearse_training; rehearse_training(TrainConfig())",
        "from florilegium.cli.main import main; main(['train', '--dry-run', '--json'])",
    ],
)
def test_what_imports_peft_first_does_not_import_bitsandbytes_its_own_way(first: str) -> None:
    """It would fetch code from the Hub on some processors, or advise to install what does."""
    code = """
import sys, types
from florilegium.config import TrainConfig
from florilegium.model import bitsandbytes_import as importing
def find(name, *_):
    if name == "bitsandbytes":
        print("ours" if importing._one_at_a_time.locked() else "PEFT's", file=sys.stderr)
sys.meta_path.insert(0, types.SimpleNamespace(find_spec=find))
"""
    done = subprocess.run([sys.executable, "-c", code + first], capture_output=True, text=True, check=True)
    assert "PEFT's" not in done.stderr and "ours" in done.stderr
