"""Every phrase that tells of a full memory or disk, as the libraries say it, and what is something else."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from florilegium.errors import ResourceError, reason_of
from florilegium.storage.atomic_files import Remedy, disk_errors
from florilegium.storage.library_errors import (
    DISK_FULL,
    OUT_OF_MEMORY,
    is_disk_full,
    is_out_of_memory,
    is_panic,
)

SAID = {
    "can't allocate memory": "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 40000000000 bytes. Error code 12 (Cannot allocate memory)",
    "Cannot allocate memory (12)": "unable to mmap 14138228736 bytes from file </m/model.safetensors>: Cannot allocate memory (12)",
    "(os error 12)": "Cannot allocate memory (os error 12)",
    "out of memory": "CUDA error: out of memory",
    "ALLOC_FAILED": "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "bad_alloc": "std::bad_alloc",
    "failed to map segment from shared object": "libtorch_cpu.so: failed to map segment from shared object",
    "can't start new thread": "can't start new thread",
}


@pytest.mark.parametrize("sign", OUT_OF_MEMORY)
def test_each_sign_of_a_full_memory(sign: str) -> None:
    assert sign in SAID[sign] and [other for other in OUT_OF_MEMORY if other in SAID[sign]] == [sign]
    assert is_out_of_memory(RuntimeError(SAID[sign]))


def test_memory_by_class() -> None:
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(torch.OutOfMemoryError("Tried to allocate 2 GiB"))
    assert is_out_of_memory(torch.cuda.OutOfMemoryError()) and is_out_of_memory(OSError(errno.ENOMEM, "full"))
    assert not is_out_of_memory(OSError(errno.ENOSPC, "full"))


def test_torch_on_the_cpu_really_says_so() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**59, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyboardInterrupt()])
def test_what_is_something_else(error: BaseException) -> None:
    assert not is_out_of_memory(error) and not is_disk_full(error)


@pytest.mark.parametrize("sign", DISK_FULL)
def test_each_sign_of_a_full_disk(sign: str) -> None:
    assert is_disk_full(Exception(f"Error while serializing: I/O error: No space left on device ({sign})"))


def test_a_library_that_gave_up_is_known() -> None:
    """A tokenizer whose pattern goes back for ever: the tokenizers library panics, and that is no Exception."""
    from tokenizers import Regex, pre_tokenizers

    try:
        pre_tokenizers.Split(Regex("(x+x+)+y"), "isolated").pre_tokenize_str("x" * 60)
    except BaseException as error:
        assert is_panic(error) and not isinstance(error, Exception)
    else:
        raise AssertionError("it found an end")
    assert not is_panic(KeyboardInterrupt()) and not is_panic(RuntimeError("panic"))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("The weights are bad.\n\n  because of this  \n", "The weights are bad. because of this"),
        ("\nleading line\n", "leading line"),
        ("", "RuntimeError"),
        ("a" * 900 + "the end", "a" * 300 + " ... " + "a" * 293 + "the end"),
    ],
)
def test_a_reason_is_shown_whole(said: str, told: str) -> None:
    assert reason_of(RuntimeError(said)) == told


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_refuses_is_told_with_what_the_command_can_do(number: int, tmp_path: Path) -> None:
    with (
        pytest.raises(ResourceError) as found,
        disk_errors(tmp_path, remedy=Remedy("Print it", "`florilegium export`")),
    ):
        raise OSError(number, os.strerror(number))
    wanted = "Print it" if number == errno.EROFS else "make room, then `florilegium export`"
    assert found.value.fix.endswith(wanted) and "resume" not in found.value.fix
