"""One pass through the blocks, forward and backward: what `block_stack.py` tells the story of, in order.

Names of tensors: `normed` a LayerNorm's output, `grad_out` the gradient of what the step at hand gave, `scaled_grad`
the residual stream's gradient times the scale of the linear that reads it next, `lora_x_at` the adapter's x A^T.
Shapes: T packed tokens, W width, H heads, D head dimension, F = 4W.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from florilegium.fast.training import attention_grad_kernel, attention_kernel, lora_kernel, norm_kernel
from florilegium.fast.training.norm_kernel import PendingUpdate, Residual
from florilegium.fast.training.quantized_linear import Matmuls, QuantizedLinear
from florilegium.fast.training.saved_activations import Saved, SavedActivations, SavedInputs

if TYPE_CHECKING:
    from florilegium.fast.training.block_stack import BlockStack


@dataclass
class TrainingBlock:
    """One BloomBlock's parts."""

    norm1: torch.nn.LayerNorm
    qkv: QuantizedLinear
    dense: QuantizedLinear
    norm2: torch.nn.LayerNorm
    up: QuantizedLinear
    down: QuantizedLinear

    @property
    def linears(self) -> tuple[QuantizedLinear, QuantizedLinear, QuantizedLinear, QuantizedLinear]:
        return self.qkv, self.dense, self.up, self.down


class BlockStackContext(Protocol):
    """autograd's context, with what one pass leaves on it for the backward pass."""

    needs_input_grad: tuple[bool, ...]
    this_pass: BlockStackPass
    saved: list[Saved]
    last: torch.Tensor


class BlockStackFunction(torch.autograd.Function):
    """All blocks as one function of the embedding and the adapters."""

    @staticmethod
    def forward(
        ctx: BlockStackContext, stack: BlockStack, embedded: torch.Tensor, start: torch.Tensor, end: torch.Tensor,
        seed: torch.Tensor | None, *lora: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        this_pass = BlockStackPass(stack, start, end, seed)
        out, saved, last = this_pass.forward(embedded, save=any(ctx.needs_input_grad))
        # Not by save_for_backward: these are buffers of our own, which the backward pass empties one block at a time.
        ctx.this_pass, ctx.saved, ctx.last = this_pass, saved, last
        return out

    @staticmethod
    def backward(ctx: BlockStackContext, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients = ctx.this_pass.backward(grads[0], ctx.saved, ctx.last)
        del ctx.saved
        # none for stack, embedding, starts, ends, seed: nothing below the first block is trained
        return (None, None, None, None, None, *gradients)


class BlockStackPass:
    """One pass: the tensors that all blocks share."""

    def __init__(
        self, stack: BlockStack, start_T: torch.Tensor, end_T: torch.Tensor, seed: torch.Tensor | None
    ) -> None:
        self.stack, self.start_T, self.end_T, self.seed = stack, start_T, end_T, seed
        self.matmuls = Matmuls(stack.buffer)
        stack.compile_in_background(len(start_T))
        loras = [block.qkv.lora for block in stack.blocks]
        # without a seed, in evaluation, nothing is dropped
        self.dropout = 0.0 if seed is None or loras[0] is None else loras[0].dropout
        # The adapter's A, in one launch: float32 to bfloat16.
        parts = [lora.A_RK.detach() for lora in loras if lora is not None]
        self.lora_a = [a.new_empty(a.shape, dtype=stack.dtype) for a in parts]
        if parts:
            torch._foreach_copy_(self.lora_a, parts)

    def forward(self, embedded_TW: torch.Tensor, *, save: bool) -> tuple[torch.Tensor, list[Saved], torch.Tensor]:
        """The normed end, what each block saved, and the residual stream before the last norm."""
        stack = self.stack
        # It begins as the embedding, in float32, which the first norm splits in two.
        residual = Residual(embedded_TW, None)
        saved: list[Saved] = []
        pending: PendingUpdate | None = None
        for index, block in enumerate(stack.blocks):
            activations, residual, pending = self._block(index, block, residual, pending)
            if save:
                saved.append(self._drop_saved(index, activations))
        out_TW = torch.empty_like(embedded_TW, dtype=stack.dtype)
        last_TW, _ = norm_kernel.residual_norm(residual, pending, stack.bloom.ln_f, out_TW)
        return out_TW, saved, last_TW

    def _block(
        self, index: int, block: TrainingBlock, residual: Residual, pending: PendingUpdate | None
    ) -> tuple[SavedActivations, Residual, PendingUpdate]:
        normed, lora_x_at, residual = self._input_norm(index, block, residual, pending)
        block_input = residual.rounded
        qkv = self.matmuls.forward(block.qkv, normed)
        context, logsumexp = self._attend(block, qkv)  # from here on qkv holds q' for q
        attended = self.matmuls.forward(block.dense, context)
        update = PendingUpdate(attended, block.dense.scale_N, block.dense.bias_N)
        normed2, residual = self._post_attention_norm(block, residual, update)
        slope_or_input, active = self.matmuls.forward_gelu(block.up, block.down, normed2)
        saved = SavedActivations(block_input, residual.rounded, qkv, context, logsumexp, slope_or_input, lora_x_at)
        # `down` adds nothing itself: the next block's norm reads its raw product, and saves a pass over memory.
        raw = self.matmuls.forward(block.down, active)
        return saved, residual, PendingUpdate(raw, block.down.scale_N, block.down.bias_N)

    def _input_norm(
        self, index: int, block: TrainingBlock, residual: Residual, pending: PendingUpdate | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, Residual]:
        """The first norm, with the adapter's x A^T in the columns beyond; those columns; the residual stream there."""
        T, W = residual.rounded.shape
        qkv = block.qkv
        normed = residual.rounded.new_empty(T, qkv.row_stride, dtype=self.stack.dtype)[:, : W + qkv.R]
        # The adapter reads the norm's output with dropout, or where that lies in another order, a copy.
        lora_input = normed.new_empty(T, W) if qkv.lora and (self.dropout or qkv.int8_forward) else None
        residual = norm_kernel.residual_norm(
            residual, pending, block.norm1, normed, lora_input,
            seed=self.seed, block_index=index, dropout=self.dropout, order=qkv.column_order,
        )  # fmt: skip
        if qkv.lora is None:
            return normed, None, residual
        source = normed[:, :W] if lora_input is None else lora_input
        return normed, lora_kernel.down_projection(source, self.lora_a[index], normed[:, W:]), residual

    def _post_attention_norm(
        self, block: TrainingBlock, residual: Residual, pending: PendingUpdate | None
    ) -> tuple[torch.Tensor, Residual]:
        """The second norm, and the residual stream there."""
        normed = torch.empty_like(residual.rounded)
        return normed, norm_kernel.residual_norm(residual, pending, block.norm2, normed, order=block.up.column_order)

    def _heads(self, fused: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Query, key and value as views: BLOOM's fused projection holds them head by head."""
        return fused.view(*fused.shape[:-1], self.stack.heads, 3, -1).unbind(-2)

    def _attend(self, block: TrainingBlock, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale, bias = self._heads(block.qkv.scale_N), self._heads(block.qkv.bias_N)
        context, logsumexp = attention_kernel.attention(
            self._heads(qkv), scale, bias, self.start_T, self.stack.slopes_H, block.dense.column_order
        )
        return context.view(len(qkv), -1), logsumexp

    def _drop_saved(self, index: int, activations: SavedActivations) -> Saved:
        plan = self.stack.plan
        if index < plan.blocks_full:
            return activations
        # With the second residual kept, attention's `dense` need not be run again.
        keeps_second = index < plan.blocks_partial
        return SavedInputs(activations.input, activations.post_attention_residual if keeps_second else None)

    # Backward: the same steps from the last to the first.

    def backward(self, grad_out_TW: torch.Tensor, saved: list[Saved], last_TW: torch.Tensor) -> list[torch.Tensor]:
        """Gradients of A and B of each block, float32, in order."""
        stack = self.stack
        # One buffer for all blocks, written in place: the residual stream's gradient, times the scale of the linear
        # that reads it next.
        scaled_grad_TW = torch.empty_like(last_TW)
        last_scale = stack.blocks[-1].down.scale_N
        norm_kernel.residual_norm_grad(
            scaled_grad_TW, grad_out_TW.contiguous(), last_TW, stack.bloom.ln_f, None, last_scale
        )
        self.matmuls.in_backward = True
        gradients: list[torch.Tensor] = []
        for index in reversed(range(len(saved))):
            # popped, so that a block's activations are free once it is done
            gradients[:0] = self._block_grad(index, saved.pop(), scaled_grad_TW)
        return gradients

    def _recompute(self, index: int, block: TrainingBlock, saved: SavedInputs) -> SavedActivations:
        """Makes what was not saved again, as the forward pass did, but without the residual's rounding error."""
        normed, lora_x_at, _ = self._input_norm(index, block, Residual(saved.input, None), None)
        qkv = self.matmuls.forward(block.qkv, normed)
        context, logsumexp = self._attend(block, qkv)
        second = saved.post_attention_residual
        if second is None:
            raw = self.matmuls.forward(block.dense, context)
            pending = PendingUpdate(raw, block.dense.scale_N, block.dense.bias_N)
            normed2, (second, _) = self._post_attention_norm(block, Residual(saved.input, None), pending)
        else:
            normed2, _ = self._post_attention_norm(block, Residual(second, None), None)
        # `down` is not run again: nothing in backward reads its output
        slope_or_input = self.matmuls.recompute_gelu_slope_or_input(block.up, normed2)
        return SavedActivations(saved.input, second, qkv, context, logsumexp, slope_or_input, lora_x_at)

    def _block_grad(self, index: int, saved: Saved, scaled_grad_TW: torch.Tensor) -> list[torch.Tensor]:
        block = self.stack.blocks[index]
        kept = saved if isinstance(saved, SavedActivations) else self._recompute(index, block, saved)
        grad_out = self.matmuls.backward_gelu(block.up, block.down, scaled_grad_TW, kept.gelu_slope_or_input)
        del kept.gelu_slope_or_input  # the largest tensor of a block: room for the gradients below
        grad_out, _ = self.matmuls.backward(block.up, grad_out)
        norm_kernel.residual_norm_grad(
            scaled_grad_TW, grad_out, kept.post_attention_residual, block.norm2, block.down.scale_N, block.dense.scale_N
        )
        grad_out, _ = self.matmuls.backward(block.dense, scaled_grad_TW)
        qkv_grad = self._attend_grad(block, kept, grad_out)
        # Read for the last time: room for the gradient of the block's input.
        del kept.qkv, kept.context
        return self._input_norm_grad(index, block, kept, qkv_grad, scaled_grad_TW)

    def _attend_grad(self, block: TrainingBlock, kept: SavedActivations, grad_out: torch.Tensor) -> torch.Tensor:
        qkv_grad = torch.empty_like(kept.qkv)
        heads = self._heads(kept.qkv)
        shape = heads[0].shape
        attention_grad_kernel.attention_grad(
            heads, self._heads(block.qkv.scale_N), self._heads(block.qkv.bias_N), kept.context.view(shape), kept.logsumexp,
            grad_out.view(shape), self._heads(qkv_grad),
            start_T=self.start_T, end_T=self.end_T, slopes_H=self.stack.slopes_H, order=block.dense.column_order,
        )  # fmt: skip
        return qkv_grad

    def _input_norm_grad(
        self, index: int, block: TrainingBlock, kept: SavedActivations, qkv_grad: torch.Tensor, scaled_grad_TW: torch.Tensor
    ) -> list[torch.Tensor]:  # fmt: skip
        """Gradients of the block's A and B; the residual stream's gradient goes on, but not below the first block."""
        qkv, norm = block.qkv, block.norm1
        grad_out: torch.Tensor | None = None
        if index:
            grad_out, lora_x_at_grad = self.matmuls.backward(qkv, qkv_grad)
        else:  # nothing is trained below, so nobody asks for the gradient of its input
            lora_x_at_grad = self.matmuls.lora_x_at_grad(qkv, qkv_grad)
        # for block 0 the index of -1 is any block's: what is written then is not read
        scales = block.dense.scale_N, self.stack.blocks[index - 1].down.scale_N
        if lora_x_at_grad is None or kept.lora_x_at is None:
            if grad_out is not None:
                norm_kernel.residual_norm_grad(scaled_grad_TW, grad_out, kept.input, norm, *scales)
            return []
        lora_input = torch.empty_like(scaled_grad_TW)
        lora_grad = torch.mm(lora_x_at_grad, self.lora_a[index])
        # The last call is for `lora_input`; what else it writes is read no more, and a kernel without that would be one
        # more to compile.
        norm_kernel.residual_norm_grad(
            scaled_grad_TW, lora_grad if grad_out is None else grad_out, kept.input, norm, *scales,
            lora_grad_TW=lora_grad, lora_input_TW=lora_input, seed=self.seed, block_index=index, dropout=self.dropout,
        )  # fmt: skip
        return list(
            lora_kernel.lora_gradients(lora_input, lora_x_at_grad, qkv_grad, kept.lora_x_at, qkv.lora_b_rescale_N)
        )
