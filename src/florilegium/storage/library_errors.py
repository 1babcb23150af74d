"""What an exception of a library means. The one place where one is judged by its message, where there is no class: a
full memory, a full disk; each phrase has a test.

torch raises a class of its own where a GPU's memory is full, and a bare RuntimeError where its CPU allocator or one of
CUDA's libraries finds none. Libraries written in Rust report the operating system's numbers as text."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

OUT_OF_MEMORY = (
    "can't allocate memory",  # torch's allocator on the CPU
    "Cannot allocate memory (12)",  # torch, where a weight file cannot be mapped
    "(os error 12)",  # ENOMEM, by a library written in Rust
    "out of memory",  # CUDA's driver and runtime, through any library
    "ALLOC_FAILED",  # cuBLAS, cuDNN
    "bad_alloc",  # the C++ library
    "failed to map segment from shared object",  # the loader, where a library is imported
    "can't start new thread",  # Python, which has no room for its stack or may have no more of them
)
_WANTED = re.compile(
    r"(?:[Tt]ried to allocate|unable to mmap|Unable to allocate|malloc of size) ([\d.]+(?: (?:[KMGTPE]iB|bytes))?)"
)
DISK_FULL = ("os error 28",)  # ENOSPC, by a library written in Rust


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the host or on a GPU."""
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's class, without torch
        return True
    return isinstance(error, Exception) and any(sign in str(error) for sign in OUT_OF_MEMORY)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out behind an error: a library that cannot be imported then tells it in its own words."""
    return any(is_out_of_memory(part) for part in chain(error))


def wanted_memory(error: BaseException) -> str:
    """What a library says it wanted ("2.00 GiB", "14138228736 bytes"), or an empty string."""
    said = [found[1] for part in chain(error) if (found := _WANTED.search(str(part)))]
    return said[0] + " bytes" * said[0].isdecimal() if said else ""


def is_disk_full(error: BaseException) -> bool:
    """Whether a library says that the disk is full by other means than OSError."""
    return any(sign in str(error) for sign in DISK_FULL)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came of: libraries wrap each other's."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def http_status(error: BaseException) -> int | None:
    """The HTTP status behind an error, if one is."""
    for part in chain(error):
        if (code := getattr(getattr(part, "response", None), "status_code", None)) is not None:
            return int(code)
        # large files go by hf_xet, written in Rust, whose errors are text alone
        if said := re.search(r"HTTP status \w+ error \((\d{3})", str(part)):
            return int(said[1])
    return None


def is_connection_error(error: BaseException) -> bool:
    """Whether a server could not be reached, or the connection broke."""
    # httpx' classes by name: the Hub's client has had two packages of that kind, and wraps some of them itself
    kinds = {kind.__name__ for part in chain(error) for kind in type(part).__mro__}
    return bool(kinds & {"TransportError", "ConnectionError", "TimeoutError", "RequestError"})


def package_of(error: BaseException) -> str:
    """The package whose code was running when an error was raised: "transformers"; an empty string for our own."""
    at, name = error.__traceback__, ""
    while at is not None:
        name, at = str(at.tb_frame.f_globals.get("__name__", "")).partition(".")[0], at.tb_next
    return "" if name in ("florilegium", "__main__") else name


def is_panic(error: BaseException) -> bool:
    """Whether a library written in Rust gave up: what it raises is no Exception, and passes whoever awaits one."""
    return type(error).__name__ == "PanicException"
