"""CUDA C++ from Python, by NVIDIA's own bindings (`cuda-bindings`, which PyTorch's build for CUDA brings along). They
are untyped.

    kernel = Kernel(compile_source(source)[0], "name", shared_bytes)     0.3 to 0.5 s a source; CUDA 13 keeps what it made
    kernel(programs, threads, tensor_map(x, 256, 64), y, 3)             tensors go as their addresses, ints as C's int

Triton compiles all else here; this is for what it has no words for.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from cuda.bindings import driver, nvrtc

DATA_TYPES = {torch.int8: "UINT8", torch.bfloat16: "BFLOAT16"}


@functools.cache
def unsupported_reason() -> str:
    """Why nothing can be compiled here and what to do, or an empty string."""
    try:
        compile_source('extern "C" __global__ void nothing() {}')
    except RuntimeError as error:  # the bindings are here, the compiler or a part of it is not
        said = " ".join(str(error).split()) or "it says nothing"
        package = "nvidia-cuda-nvrtc" + ("-cu12" if str(torch.version.cuda).startswith("12") else "")
        return f"CUDA's run-time compiler does not work ({said}; pip install {package})"
    return ""


def compile_source(source: str) -> tuple[bytes, str]:
    """Machine code for a Hopper GPU, and the compiler's remarks. RuntimeError: it cannot be compiled, and why."""
    program = _got(nvrtc.nvrtcCreateProgram(source.encode(), b"florilegium.cu", 0, [], []))
    try:
        # sm_90a, not sm_90: wgmma and setmaxnreg are of that one architecture and carry over to no later one. With -v the
        # log says what spilled and which products the assembler had to serialize, which a test reads.
        options = [b"--gpu-architecture=sm_90a", b"--std=c++17", b"--ptxas-options=-v"]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        said = bytearray(_got(nvrtc.nvrtcGetProgramLogSize(program)))
        _got(nvrtc.nvrtcGetProgramLog(program, said))
        remarks = said.decode().rstrip("\0\n ")
        if status:
            raise RuntimeError(f"CUDA's run-time compiler: {status!r}: {remarks}")
        code = bytearray(_got(nvrtc.nvrtcGetCUBINSize(program)))
        _got(nvrtc.nvrtcGetCUBIN(program, code))
        return bytes(code), remarks
    finally:
        nvrtc.nvrtcDestroyProgram(program)


class Kernel:
    """A kernel of compiled code, for the current device."""

    def __init__(self, code: bytes, name: str, shared_bytes: int) -> None:
        self.shared_bytes = shared_bytes
        self.module = _got(driver.cuModuleLoadData(code))
        self.function = _got(driver.cuModuleGetFunction(self.module, name.encode()))
        # More than 48 KiB of shared memory must be asked for.
        most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _got(driver.cuFuncSetAttribute(self.function, most, shared_bytes))

    def __call__(self, programs: int, threads: int, *given: Any) -> None:
        """Launches it on the current stream."""
        # ctypes' None marks a struct that is passed by value: a CUtensorMap, 128 bytes in the kernel's parameters.
        values = tuple(g.data_ptr() if isinstance(g, torch.Tensor) else g for g in given)
        kinds = tuple(
            ctypes.c_void_p if isinstance(g, torch.Tensor) else ctypes.c_int if isinstance(g, int) else None
            for g in given
        )
        stream = torch.cuda.current_stream().cuda_stream
        _got(
            driver.cuLaunchKernel(
                self.function, programs, 1, 1, threads, 1, 1, self.shared_bytes, stream, (values, kinds), 0
            )
        )


def max_active_clusters(size: int, threads: int, shared_bytes: int, device: torch.device) -> int:
    """How many clusters of `size` multiprocessors run together, a block of so many threads and so much shared memory on
    each. A cluster lies within one of the card's partitions, which are of unequal sizes: an H100 of 132 multiprocessors
    runs 66 of two and 30 of four."""
    # Asked of a kernel that does nothing: what counts is the cluster's shape, its threads and its shared memory.
    source = f'extern "C" __global__ void __cluster_dims__({size}, 1, 1) nothing() {{}}'
    with torch.cuda.device(device):
        kernel = Kernel(compile_source(source)[0], "nothing", shared_bytes)
        dimension = driver.CUlaunchAttribute()
        dimension.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        dimension.value.clusterDim.x, dimension.value.clusterDim.y, dimension.value.clusterDim.z = size, 1, 1
        launch = driver.CUlaunchConfig()
        launch.gridDimX, launch.gridDimY, launch.gridDimZ = size, 1, 1
        launch.blockDimX, launch.blockDimY, launch.blockDimZ = threads, 1, 1
        launch.sharedMemBytes, launch.attrs, launch.numAttrs = shared_bytes, [dimension], 1
        return int(_got(driver.cuOccupancyMaxActiveClusters(kernel.function, launch)))


def tensor_map(matrix: torch.Tensor, rows: int, columns: int) -> Any:
    """A matrix as the copy engine knows it: how it lies in memory, what is copied at a time, and that shared memory
    takes it swizzled."""
    size = matrix.element_size()
    # The engine's own rules: rows of a box as wide as the swizzle, at most 256 of them, strides by 16 bytes.
    assert matrix.dim() == 2 and matrix.stride(1) == 1 and matrix.stride(0) * size % 16 == 0
    assert rows <= 256 and columns * size in (32, 64, 128) and matrix.data_ptr() % 16 == 0
    return _got(
        driver.cuTensorMapEncodeTiled(
            getattr(driver.CUtensorMapDataType, f"CU_TENSOR_MAP_DATA_TYPE_{DATA_TYPES[matrix.dtype]}"),
            2,
            matrix.data_ptr(),
            _numbers(driver.cuuint64_t, matrix.shape[1], matrix.shape[0]),  # the innermost first
            _numbers(driver.cuuint64_t, matrix.stride(0) * size),
            _numbers(driver.cuuint32_t, columns, rows),
            _numbers(driver.cuuint32_t, 1, 1),
            driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            # 16-byte chunks of a row are permuted by its number, so that reading down a column meets all banks
            getattr(driver.CUtensorMapSwizzle, f"CU_TENSOR_MAP_SWIZZLE_{columns * size}B"),
            driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,  # zeros
        )
    )


def _numbers(kind: Any, *numbers: int) -> list[Any]:
    return [kind(number) for number in numbers]


def _got(answer: tuple[Any, ...]) -> Any:
    """What a call of CUDA's gave. RuntimeError: it failed."""
    status, *rest = answer
    if status:
        raise RuntimeError(f"CUDA failed: {status!r}")
    return rest[0] if rest else None
