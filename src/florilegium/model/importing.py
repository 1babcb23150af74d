"""bitsandbytes without the compiler that it does not use here.

As it is imported, bitsandbytes puts `torch.compile` around four functions, and that loads the whole of Inductor: 1.6 of the 8 seconds that
torch, Transformers, PEFT and bitsandbytes take to import together. No run of ours calls one of the four. `import_bitsandbytes` lets each
be compiled when it is first called.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch


def import_bitsandbytes() -> Any:
    """The module. Other code may import it by name before or after."""
    library: Any = torch
    compile_now, library.compile = library.compile, _when_called
    try:
        return importlib.import_module("bitsandbytes")
    finally:
        library.compile = compile_now


def _when_called(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`torch.compile`, put off to the first call of what it was given."""
    if function is None:
        return functools.partial(_when_called, **options)
    given = function

    @functools.cache
    def compiled() -> Callable[..., Any]:
        return torch.compile(given, **options)

    @functools.wraps(given)
    def call(*args: Any, **kwargs: Any) -> Any:
        return compiled()(*args, **kwargs)

    return call
