"""int8 and row scales to a weight, in one pass over memory: a reference and a Triton kernel, with one signature.

    weight_NK = dequantize(stored_NK, scale_N, dtype)        stored_NK * scale_N / 127, rounded once to dtype

The reference makes a float32 product first and rounds it after: 11 bytes moved a weight where 3 are needed. On
bloom-7b1 that is most of a training step's time outside the matrix products. The kernel reads an int8 and writes a
bfloat16, nothing else. Shapes: N outputs, K inputs."""

from __future__ import annotations

import torch


def dequantize_reference(stored_NK: torch.Tensor, scale_N: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What the kernel computes, in torch: everywhere."""
    scale_N1 = (scale_N / 127)[:, None]
    if dtype == torch.float32:
        return stored_NK.to(dtype).mul_(scale_N1)
    # Whole numbers up to 127 are exact in bfloat16, so the only rounding is that of the product.
    return torch.mul(stored_NK, scale_N1).to(dtype)


def dequantize(stored_NK: torch.Tensor, scale_N: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weight [N, K] in `dtype`: by the kernel on CUDA, by the reference elsewhere."""
    # A view is for the reference: the kernel takes rows that lie K apart.
    if not stored_NK.is_cuda or not stored_NK.is_contiguous():
        return dequantize_reference(stored_NK, scale_N, dtype)
    # here and not above: Triton is there only where CUDA is
    from florilegium.fast.dequantize_kernel import dequantize_int8

    weight_NK = torch.empty(stored_NK.shape, dtype=dtype, device=stored_NK.device)
    dequantize_int8(stored_NK, scale_N, weight_NK)
    return weight_NK
