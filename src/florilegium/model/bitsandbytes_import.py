"""bitsandbytes without the compiler that it does not use here, and without its advice.

As it is imported, bitsandbytes puts `torch.compile` around four functions of its own, and that loads the whole of
Inductor: 1.6 of the 8 seconds that torch, Transformers, PEFT and bitsandbytes take to import together. No run of ours
calls one of the four. After `import_bitsandbytes` each is compiled when it is first called; what others compile
meanwhile is compiled as ever. On a processor with AVX512-BF16 it also advises, as it is imported, to install kernels
from the Hub, which nothing here does."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import torch

NAME = "bitsandbytes"
_one_at_a_time = threading.Lock()


def import_bitsandbytes() -> ModuleType:
    """The module, as `import bitsandbytes` gives it; raises what that raises."""
    with _one_at_a_time:
        if NAME in sys.modules:
            return sys.modules[NAME]
        logging.getLogger(NAME).setLevel(logging.ERROR)
        library: Any = torch
        compile_now = library.compile

        def compile_later(model: Any = None, **options: Any) -> Any:
            theirs = getattr(model, "__module__", None) or ""
            return (
                when_called(compile_now, model, options)
                if theirs.startswith(f"{NAME}.")
                else compile_now(model, **options)
            )

        library.compile = compile_later
        try:
            with _without("kernels"):
                return importlib.import_module(NAME)
        finally:
            library.compile = compile_now


def before_peft() -> None:
    """To be called before PEFT is imported where no base was loaded yet: PEFT imports bitsandbytes too, its own way."""
    with contextlib.suppress(Exception):  # PEFT works without it
        import_bitsandbytes()


@contextlib.contextmanager
def _without(package: str) -> Iterator[None]:
    """As if `package` were not installed: on some processors bitsandbytes would have it fetch code from the Hub."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # Python's own sign for a module that is not to be found
    try:
        yield
    finally:
        del sys.modules[package]


def when_called(
    compile_now: Callable[..., Any], function: Callable[..., Any], options: Mapping[str, object]
) -> Callable[..., Any]:
    """`compile_now(function, **options)`, put off to the first call."""

    @functools.cache
    def compiled() -> Callable[..., Any]:
        made: Callable[..., Any] = compile_now(function, **options)
        return made

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return compiled()(*args, **kwargs)

    return call
