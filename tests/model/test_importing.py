"""bitsandbytes is imported without Inductor, and what it wanted compiled is compiled when it is called."""

from __future__ import annotations

import subprocess
import sys

import torch

from florilegium.model.importing import _when_called


def test_bitsandbytes_is_imported_without_inductor() -> None:
    code = """
import sys, torch
from florilegium.model.importing import import_bitsandbytes
compile = torch.compile
bnb = import_bitsandbytes()
assert torch.compile is compile and bnb is sys.modules["bitsandbytes"]
print("torch._inductor.compile_fx" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_a_function_is_compiled_at_its_first_call_and_once(monkeypatch) -> None:
    made = []

    def compile(function, **options):
        made.append(options)
        return lambda x: function(x) + 1

    monkeypatch.setattr(torch, "compile", compile)

    @_when_called(dynamic=False)
    def double(x: int) -> int:
        return 2 * x

    assert not made and double.__name__ == "double"
    assert (double(3), double(4)) == (7, 9) and made == [{"dynamic": False}]
