"""What libraries tell in words alone: a full memory, a full disk. The one place where an exception is judged by its
message; each phrase has a test.

torch raises a class of its own where a GPU's memory is full, and a bare RuntimeError where its CPU allocator or one of
CUDA's libraries finds none. Libraries written in Rust report the operating system's numbers as text."""

from __future__ import annotations

import errno

OUT_OF_MEMORY = (
    "can't allocate memory",  # torch's allocator on the CPU
    "Cannot allocate memory (12)",  # torch, where a weight file cannot be mapped
    "(os error 12)",  # ENOMEM, by a library written in Rust
    "out of memory",  # CUDA's driver and runtime, through any library
    "ALLOC_FAILED",  # cuBLAS, cuDNN
    "bad_alloc",  # the C++ library
)
DISK_FULL = ("os error 28",)  # ENOSPC, by a library written in Rust


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the host or on a GPU."""
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's class, without torch
        return True
    return isinstance(error, Exception) and any(sign in str(error) for sign in OUT_OF_MEMORY)


def is_disk_full(error: BaseException) -> bool:
    """Whether a library says that the disk is full by other means than OSError."""
    return any(sign in str(error) for sign in DISK_FULL)


def is_panic(error: BaseException) -> bool:
    """Whether a library written in Rust gave up: what it raises is no Exception, and passes whoever awaits one."""
    return type(error).__name__ == "PanicException"
