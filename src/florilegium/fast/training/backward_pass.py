"""A pass through the blocks, backward: the steps of `forward_pass.py` from the last to the first. Only A, B and the
residual stream have gradients.

Names of tensors: `grad_out` the gradient of what the step at hand gave, `scaled_grad` the residual stream's gradient
times the scale of the linear that reads it next, `x_at_grad` that of an adapter's x A^T. Shapes: T packed tokens, W
width, F = 4W."""

from __future__ import annotations

import torch

from florilegium.fast.training import attention_grad_kernel, norm_kernel, residual_kernel
from florilegium.fast.training.forward_pass import ForwardPass, TrainingBlock
from florilegium.fast.training.lora_grad_kernel import lora_gradients
from florilegium.fast.training.quantized_linear import QuantizedLinear
from florilegium.fast.training.saved_activations import Saved, SavedActivations

LoraGrads = list[torch.Tensor]  # of A and of B, float32; empty where a linear has no adapter


class BackwardPass:
    """The way back of one forward pass. `input_grad_TW` is the gradient of what the first block read, float32, where
    somebody asked for it (`wants_input_grad`): the stage before this one."""

    input_grad_TW: torch.Tensor | None = None

    def __init__(self, forward: ForwardPass, *, wants_input_grad: bool) -> None:
        self.forward, self.stack, self.matmuls = forward, forward.stack, forward.matmuls
        self.wants_input_grad = wants_input_grad

    def run(self, grad_out_TW: torch.Tensor, saved: list[Saved], last_TW: torch.Tensor | None) -> list[torch.Tensor]:
        """Gradients of A and B of each linear of each block, float32, in order."""
        # One buffer for all blocks, written in place: the residual stream's gradient, times the scale of the linear
        # that reads it next.
        scaled_grad_TW = self._into_last_block(grad_out_TW.contiguous(), last_TW)
        self.matmuls.in_backward = True
        gradients: list[torch.Tensor] = []
        with self.stack.host_rejoined():
            for index in reversed(range(len(saved))):
                # popped, so that a block's activations are free once it is done
                gradients[:0] = self._block(index, saved.pop(), scaled_grad_TW)
        return gradients

    def _into_last_block(self, grad_out_TW: torch.Tensor, last_TW: torch.Tensor | None) -> torch.Tensor:
        last_scale = self.stack.blocks[-1].down.scale_N
        if last_TW is None:  # no norm is here: what came is the residual stream's gradient already
            return residual_kernel.scaled_residual_grad(grad_out_TW, last_scale, self.stack.dtype)
        scaled_grad_TW = torch.empty_like(last_TW)
        norm_kernel.residual_norm_grad(scaled_grad_TW, grad_out_TW, last_TW, self.stack.bloom.ln_f, None, last_scale)
        return scaled_grad_TW

    def _block(self, index: int, saved: Saved, scaled_grad_TW: torch.Tensor) -> LoraGrads:
        block = self.stack.blocks[index]
        if self.stack.host is not None:
            self.stack.host.need(self.stack.held[index], backward=True)
        kept = saved if isinstance(saved, SavedActivations) else self.forward.recompute(block, saved)
        up_grad, down_grads = self._down(block, kept, scaled_grad_TW)
        up_grads = self._up(block, kept, up_grad, scaled_grad_TW)
        grad_out, x_at_grad = self.matmuls.backward_whole(
            block.dense, scaled_grad_TW, self.forward.dropout(block.dense)
        )
        # now: `_attention` and the norms below need the buffers, and the first of them writes over `scaled_grad_TW`
        dense_grads = self._lora_grads(block.dense, kept.context, x_at_grad, scaled_grad_TW, kept.lora_x_at.dense)
        qkv_grad = self._attention(block, kept, grad_out)
        # Read for the last time: room for the gradient of the block's input.
        del kept.qkv, kept.context
        return self._qkv(index, block, kept, qkv_grad, scaled_grad_TW) + dense_grads + up_grads + down_grads

    def _lora_grads(
        self, linear: QuantizedLinear, x: torch.Tensor | None, x_at_grad: torch.Tensor | None, grad_out: torch.Tensor,
        x_at: torch.Tensor | None,
    ) -> LoraGrads:  # fmt: skip
        """Of a linear whose input was kept as its matmul read it, [T, K + R]."""
        if x is None or x_at_grad is None or x_at is None:
            return []
        dropout, order = self.forward.dropout(linear), linear.column_order
        return list(
            lora_gradients(
                x[:, : linear.K], x_at_grad, grad_out, x_at, linear.lora_b_rescale_N, order=order, dropout=dropout
            )
        )

    def _down(
        self, block: TrainingBlock, kept: SavedActivations, scaled_grad_TW: torch.Tensor
    ) -> tuple[torch.Tensor, LoraGrads]:
        """The gradient of the raw product with `up`; those of the adapter of `down`."""
        grad_out, x_at_grad = self.matmuls.backward_gelu(
            block.up, block.down, scaled_grad_TW, kept.gelu_slope_or_input, self.forward.dropout(block.down)
        )
        # before `_up`, whose norm writes over `scaled_grad_TW`
        grads = self._lora_grads(block.down, kept.active, x_at_grad, scaled_grad_TW, kept.lora_x_at.down)
        del kept.gelu_slope_or_input, kept.active  # the largest of a block: room for the gradients below
        return grad_out, grads

    def _up(
        self, block: TrainingBlock, kept: SavedActivations, up_grad: torch.Tensor, scaled_grad_TW: torch.Tensor
    ) -> LoraGrads:
        grad_out, x_at_grad = self.matmuls.backward(block.up, up_grad)
        scales = block.down.scale_N, block.dense.scale_N
        return self._norm(
            block.norm2, block.up, kept.post_attention_residual, grad_out, x_at_grad, up_grad, kept.lora_x_at.up, scaled_grad_TW, scales
        )  # fmt: skip

    def _attention(self, block: TrainingBlock, kept: SavedActivations, grad_out: torch.Tensor) -> torch.Tensor:
        qkv_grad, heads = torch.empty_like(kept.qkv), self.forward.heads
        attention_grad_kernel.attention_grad(
            heads(kept.qkv), heads(block.qkv.scale_N), heads(block.qkv.bias_N), kept.context, kept.logsumexp, grad_out, heads(qkv_grad),
            start_T=self.forward.start_T, end_T=self.forward.end_T, slopes_H=self.stack.slopes_H, order=block.dense.column_order,
        )  # fmt: skip
        return qkv_grad

    def _qkv(
        self, index: int, block: TrainingBlock, kept: SavedActivations, qkv_grad: torch.Tensor, scaled_grad_TW: torch.Tensor
    ) -> LoraGrads:  # fmt: skip
        """The residual stream's gradient goes on, below the first block to the stage before, if there is one."""
        grad_out: torch.Tensor | None = None
        if index or self.wants_input_grad:
            grad_out, x_at_grad = self.matmuls.backward(block.qkv, qkv_grad)
        else:
            # its input's gradient would be the largest product here, and for nothing
            x_at_grad = self.matmuls.lora_x_at_grad(block.qkv, qkv_grad)
        # for block 0 the index of -1 is any block's: what is written then is not read
        next_scale_W = self.stack.blocks[index - 1].down.scale_N
        if not index and self.wants_input_grad:
            # The kernel writes in place, so in float32, and times 1: the stage before knows its scale, and rounds once.
            self.input_grad_TW = scaled_grad_TW = scaled_grad_TW.float()
            next_scale_W = self.stack.ones_W
        scales = block.dense.scale_N, next_scale_W
        return self._norm(
            block.norm1, block.qkv, kept.input, grad_out, x_at_grad, qkv_grad, kept.lora_x_at.qkv, scaled_grad_TW, scales
        )  # fmt: skip

    def _norm(
        self, norm: torch.nn.LayerNorm, linear: QuantizedLinear, saved_TW: torch.Tensor, grad_out: torch.Tensor | None,
        x_at_grad: torch.Tensor | None, out_grad: torch.Tensor, x_at: torch.Tensor | None, scaled_grad_TW: torch.Tensor,
        scales: tuple[torch.Tensor, torch.Tensor],
    ) -> LoraGrads:  # fmt: skip
        """Through a norm and the adapter on the linear after it. `grad_out`: the gradient of the norm's output without
        the adapter's part; None where nobody asks for that of its input."""
        if x_at_grad is None or x_at is None:
            if grad_out is not None:
                norm_kernel.residual_norm_grad(scaled_grad_TW, grad_out, saved_TW, norm, *scales)
            return []
        lora_input = torch.empty_like(saved_TW)
        # cuBLAS: a product of 16 by W is bound by what it writes
        lora_grad = torch.mm(x_at_grad, self.matmuls.lora_a[id(linear)])
        # In the last call of all only `lora_input` is read of what it writes: a kernel without the rest would be one
        # more to compile.
        norm_kernel.residual_norm_grad(
            scaled_grad_TW, lora_grad if grad_out is None else grad_out, saved_TW, norm, *scales,
            lora_grad_TW=lora_grad, lora_input_TW=lora_input, dropout=self.forward.dropout(linear),
        )  # fmt: skip
        return list(lora_gradients(lora_input, x_at_grad, out_grad, x_at, linear.lora_b_rescale_N))
