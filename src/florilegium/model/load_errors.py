"""While a library loads a model: its advice kept off the terminal, and what it raises told in our words."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator

from florilegium.errors import FlorilegiumError, ModelError, ResourceError, reason_of
from florilegium.storage.library_errors import is_out_of_memory, is_panic

# Transformers and PEFT change the whole process while they load: torch's default device, how a module takes its
# parameters, how much is said. Two loads at once mix their weights up, and the process stays spoiled.
ONE_LOAD_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keeps Transformers' progress bars and advice off the terminal. One thread at a time."""
    with ONE_LOAD_AT_A_TIME:
        yield from _quietly()


def _quietly() -> Iterator[None]:
    from transformers.utils import logging

    logging.disable_progress_bar()
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)


@contextlib.contextmanager
def model_errors(name: str, bits: int | None = None) -> Iterator[None]:
    """Turns what a loader raises on a broken or unfitting model into ModelError, and a full memory into ResourceError;
    `bits` are those that the base was to be held in."""
    try:
        yield
    except FlorilegiumError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise _told(name, error, bits) from error


def _told(name: str, error: BaseException, bits: int | None) -> FlorilegiumError:
    if is_out_of_memory(error):
        fix = "Choose a smaller --model" if bits == 4 else "Try --bits 4, or a smaller --model"
        return ResourceError(f"{name} does not fit in memory", fix)
    if isinstance(error, OSError) and error.errno:
        cause = f"{name} cannot be read ({error.strerror or error})"
        return ModelError(cause, "Look at the disk and the files' permissions, or get it again")
    return ModelError(
        f"cannot load {name} ({reason_of(error)})", "Check that it is a causal LM that Transformers knows"
    )
