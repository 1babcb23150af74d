"""The matmuls of a block's quantised linears, forward and backward, the adapter's with them.

There are three ways to a product. A Hopper GPU reads large int8 weights as they are stored (`int8_matmul.py`).
Elsewhere the matmul reads bfloat16, so the weight is dequantised for one product and forgotten: 6 ms a pass over
bloom-7b1 if memory does nothing else. A weight that has a `bf16_copy` (where the card has room: `ActivationPlan`) is
dequantised once for the whole run; it is a cache, the base stays quantised.

Forward the adapter is R more columns of the same product. Backward its part in the gradient of x has dropout, which the
base's has not: the norms' backward kernels take it in where x came from a norm (qkv, up), and one of its own adds it
elsewhere (dense, down). Shapes: T tokens, N outputs, K inputs, R the adapter's rank rounded up to 8."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from florilegium.fast.training import gelu_kernel, lora_grad_kernel, lora_kernel
from florilegium.fast.training.quantized_linear import QuantizedLinear
from florilegium.reference import Dropout


def compile_int8_matmuls(linears: Sequence[QuantizedLinear], T: int, *, recompute: bool) -> None:
    """Has the kernels of a block's int8 matmuls on T tokens compiled side by side; `recompute`: those too that make
    what was not saved."""
    if not any(linear.int8_forward or linear.int8_backward for linear in linears):
        return
    from florilegium.fast.hopper.int8_matmul import Variant, compile_in_background

    qkv, dense, up, down = linears
    forward = [(linear, Variant.forward(R=linear.R)) for linear in (qkv, dense, down)]
    forward.append((up, Variant.forward_gelu(down.column_order, R=up.R)))
    # To recompute, GELU's slope will do, unless `down` has an A: its value went into `down`, which is not run again.
    forward += [(up, Variant.forward_slope(R=up.R))] if recompute and not down.lora else []
    backward = [
        (qkv, Variant.backward()),
        (dense, Variant.backward()),
        (up, Variant.backward()),
        (down, Variant.backward_gelu()),
    ]
    for linear, variant in forward + backward:
        if linear.int8_backward if variant.BACK else linear.int8_forward:
            compile_in_background(variant, T, linear.N, linear.K, linear.scale_N.device)


class Matmuls:
    """The matmuls of one pass through the blocks. `buffer` takes one weight at a time, dequantised. `int8_matmul.py` is
    imported where it is used: it needs CUDA's compiler."""

    def __init__(self, buffer: torch.Tensor, linears: Sequence[QuantizedLinear]) -> None:
        self.buffer = buffer
        # A in 16 bits, by a linear's id, in one launch
        with_lora = [(id(linear), linear.lora.A_RK.detach()) for linear in linears if linear.lora]
        self.lora_a = {key: a.new_empty(a.shape, dtype=buffer.dtype) for key, a in with_lora}
        if with_lora:
            torch._foreach_copy_(list(self.lora_a.values()), [a for _, a in with_lora])
        # B as it is in this pass, [N, R], by a linear's id: where no dequantised weight holds it
        self.lora_b: dict[int, torch.Tensor] = {}
        self.in_backward = False  # then the bf16 copies hold the adapter's B already

    def forward(self, linear: QuantizedLinear, x: torch.Tensor) -> torch.Tensor:
        """x [T, K + R], in `linear.column_order`, to [T, N] without scale and bias."""
        if linear.int8_forward:
            from florilegium.fast.hopper import int8_matmul

            # The stored weight has no columns for B, so B goes in beside it.
            return int8_matmul.forward(x, linear.module.weight.data, self._lora_b(linear, x))
        # One product for base and adapter: [x, x A^T] [weight, B]^T.
        return torch.mm(x, self._bf16_weight(linear).T)

    def forward_gelu(
        self, up: QuantizedLinear, down: QuantizedLinear, x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What GELU's gradient needs of the raw product with `up`, and its GELU as `down` wants its input (the adapter's
        columns are not filled). Where the int8 matmul does GELU as well that is its slope; a kernel of its own would
        move half as much again to write this too, so elsewhere it is the raw product."""
        active = down.new_input(x)  # its last columns are for `down_projection`
        if up.int8_forward:
            from florilegium.fast.hopper import int8_matmul

            weight, lora_b = up.module.weight.data, self._lora_b(up, x)
            return int8_matmul.forward_gelu(
                x, weight, up.scale_N, up.bias_N, active[:, : down.K], down.column_order, lora_b
            ), active
        raw = self.forward(up, x)
        gelu_kernel.gelu(raw, up.scale_N, up.bias_N, active[:, : down.K])
        return raw, active

    def recompute_gelu_slope_or_input(self, up: QuantizedLinear, x: torch.Tensor) -> torch.Tensor:
        """The first of `forward_gelu`."""
        if up.int8_forward:
            from florilegium.fast.hopper import int8_matmul

            return int8_matmul.forward_slope(x, up.module.weight.data, up.scale_N, up.bias_N, self._lora_b(up, x))
        return self.forward(up, x)

    def backward_gelu(
        self, up: QuantizedLinear, down: QuantizedLinear, grad_TW: torch.Tensor, gelu_slope_or_input_TF: torch.Tensor,
        dropout: Dropout | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
        """The gradient of the raw product with `up`, from that of `down`'s and what `forward_gelu` kept, and that of the
        x A^T of `down`. Both weights are read as they are stored, or neither is (`block_stack.py`)."""
        if down.int8_backward:
            from florilegium.fast.hopper import int8_matmul

            grad_out = int8_matmul.backward_gelu(grad_TW, down.module.weight.data, gelu_slope_or_input_TF)
            x_at_grad = self.lora_x_at_grad(down, grad_TW)
            # That product was times the slope on its way, so this part is too.
            self._add_lora_input_grad(down, grad_out, x_at_grad, gelu_slope_or_input_TF, dropout)
            return grad_out, x_at_grad
        grad_out, x_at_grad = self.backward(down, grad_TW)
        # without the slope: the kernel below brings it to both parts
        self._add_lora_input_grad(down, grad_out, x_at_grad, None, dropout)
        # In place: nobody reads the gradient of GELU's output again.
        gelu_kernel.gelu_grad(gelu_slope_or_input_TF, up.scale_N, up.bias_N, grad_out)
        return grad_out, x_at_grad

    def backward_whole(
        self, linear: QuantizedLinear, grad_TN: torch.Tensor, dropout: Dropout | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As `backward`, with the adapter's part in the gradient of x."""
        grad_out, x_at_grad = self.backward(linear, grad_TN)
        self._add_lora_input_grad(linear, grad_out, x_at_grad, None, dropout)
        return grad_out, x_at_grad

    def _add_lora_input_grad(
        self, linear: QuantizedLinear, grad_TK: torch.Tensor, x_at_grad: torch.Tensor | None, slope_TK: torch.Tensor | None,
        dropout: Dropout | None,
    ) -> None:  # fmt: skip
        if x_at_grad is not None:
            lora_grad_kernel.add_lora_input_grad(grad_TK, x_at_grad, self.lora_a[id(linear)], slope_TK, dropout)

    def backward(self, linear: QuantizedLinear, grad_TN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The gradient of x without the adapter's part, [T, K] (its rows may lie further apart), and of the adapter's
        x A^T [T, rank]."""
        if linear.int8_backward:
            from florilegium.fast.hopper import int8_matmul

            return int8_matmul.backward(grad_TN, linear.module.weight.data), self.lora_x_at_grad(linear, grad_TN)
        # One product again: the columns beyond K are grad B, the gradient of x A^T.
        out = grad_TN.new_empty(len(grad_TN), linear.row_stride)[:, : linear.K + linear.R]
        torch.mm(grad_TN, self._bf16_weight(linear), out=out)
        return out[:, : linear.K], out[:, linear.K : linear.K + len(linear.lora.A_RK)] if linear.lora else None

    def lora_x_at_grad(self, linear: QuantizedLinear, grad_TN: torch.Tensor) -> torch.Tensor | None:
        """The gradient of the adapter's x A^T alone."""
        if linear.lora is None:
            return None
        lora_b = self._lora_b(linear, grad_TN)
        assert lora_b is not None
        return lora_kernel.down_projection_grad(grad_TN, lora_b, len(linear.lora.A_RK))

    def _bf16_weight(self, linear: QuantizedLinear) -> torch.Tensor:
        copy = linear.bf16_copy
        weight = copy if copy is not None else linear.dequantize_into(linear.weight_view(self.buffer))
        # B changes with every optimiser step, so even a copy gets it anew, once a pass: by the forward pass where that
        # reads the copy.
        if copy is None or not self.in_backward or linear.int8_forward:
            linear.write_lora_b(weight[:, linear.K :])
        return weight

    def _lora_b(self, linear: QuantizedLinear, like: torch.Tensor) -> torch.Tensor | None:
        if linear.lora is None:
            return None
        # Once a pass: forward and backward must read the same B, and it changes between passes.
        if id(linear) not in self.lora_b:
            self.lora_b[id(linear)] = like.new_empty(linear.N, linear.R)
            linear.write_lora_b(self.lora_b[id(linear)])
        return self.lora_b[id(linear)]
