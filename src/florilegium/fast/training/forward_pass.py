"""A pass through the blocks, forward: what `block_stack.py` tells the story of, in order; and the same of one block
again, where its activations were not kept.

Names of tensors: `normed` a LayerNorm's output, `active` GELU's, `x_at` the adapter's x A^T. Shapes: T packed tokens, W
width, H heads, D head dimension, F = 4W, R an adapter's columns beside its linear's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from florilegium.fast.training import attention_kernel, lora_kernel, norm_kernel, residual_kernel
from florilegium.fast.training.matmuls import Matmuls
from florilegium.fast.training.norm_kernel import PendingUpdate, Residual
from florilegium.fast.training.quantized_linear import QuantizedLinear
from florilegium.fast.training.saved_activations import LoraXAt, Saved, SavedActivations, SavedInputs
from florilegium.reference import Dropout

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


class ForwardPass:
    """One pass: the tensors that all blocks share."""

    def __init__(
        self,
        stack: BlockStack,
        start_T: torch.Tensor,
        end_T: torch.Tensor,
        number_T: torch.Tensor,
        seed: torch.Tensor | None,
    ) -> None:
        self.stack, self.start_T, self.end_T, self.number_T, self.seed = stack, start_T, end_T, number_T, seed
        self.matmuls = Matmuls(stack.buffer, stack.all_linears())
        stack.compile_in_background(len(start_T))

    def run(self, stream_TW: torch.Tensor, *, save: bool) -> tuple[torch.Tensor, list[Saved], torch.Tensor | None]:
        """The normed end, what each block saved, and the residual stream before the last norm; where others hold the
        last block, the residual stream in float32, what was saved, and None. `stream_TW` is what the first block reads."""
        stack = self.stack
        # It begins as the embedding, or as another stage left it, in float32: the first norm splits it in two.
        residual = Residual(stream_TW, None)
        saved: list[Saved] = []
        pending: PendingUpdate | None = None
        with stack.host_rejoined():
            if stack.host is not None:
                stack.host.begin()
            for index, block in enumerate(stack.blocks):
                if stack.host is not None:
                    stack.host.need(stack.held[index])
                # what a block's last product adds is left to the next norm, which reads the stream anyway
                activations, residual, pending = self._block(block, residual, pending)
                if save:
                    saved.append(self._drop_saved(index, activations))
        assert pending is not None, "a stage has a block at least"
        if not stack.has_head:
            return residual_kernel.residual_sum(residual, pending), saved, None
        # in 16 bits, as the head reads it
        out_TW = torch.empty_like(stream_TW, dtype=stack.dtype)
        last_TW, _ = norm_kernel.residual_norm(residual, pending, stack.bloom.ln_f, out_TW)
        return out_TW, saved, last_TW

    def _block(
        self, block: TrainingBlock, residual: Residual, pending: PendingUpdate | None
    ) -> tuple[SavedActivations, Residual, PendingUpdate]:
        normed, qkv_x_at, residual = self._norm(block.norm1, block.qkv, residual, pending)
        block_input = residual.rounded
        qkv = self.matmuls.forward(block.qkv, normed)
        context, logsumexp, dense_x_at = self._attend(block, qkv)  # from here on qkv holds q' for q
        # a kernel of its own for dropout(context) A^T: attention works head by head, and this sums over all heads
        update = self._pending(block.dense, context)
        normed2, up_x_at, residual = self._norm(block.norm2, block.up, residual, update)
        slope_or_input, active = self.matmuls.forward_gelu(block.up, block.down, normed2)
        x_at = LoraXAt(qkv_x_at, dense_x_at, up_x_at, self._down_projection(block.down, active))
        saved = SavedActivations(
            block_input, residual.rounded, qkv, context, logsumexp, slope_or_input, active if block.down.lora else None, x_at
        )  # fmt: skip
        return saved, residual, self._pending(block.down, active)

    def _pending(self, linear: QuantizedLinear, x: torch.Tensor) -> PendingUpdate:
        """`dense` and `down` add nothing themselves: the next norm reads their raw product, and saves a pass over
        memory."""
        return PendingUpdate(self.matmuls.forward(linear, x), linear.scale_N, linear.bias_N)

    def dropout(self, linear: QuantizedLinear) -> Dropout | None:
        """Without a seed, in evaluation, nothing is dropped."""
        if self.seed is None or linear.lora is None or not linear.lora.dropout:
            return None
        return Dropout(self.seed, self.number_T, linear.stream, linear.lora.dropout)

    def _norm(
        self, norm: torch.nn.LayerNorm, linear: QuantizedLinear, residual: Residual, pending: PendingUpdate | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, Residual]:
        """A norm as the linear after it wants its input, the adapter's x A^T in the columns beyond; those columns; the
        residual stream there."""
        T, W = residual.rounded.shape
        normed = residual.rounded.new_empty(T, linear.row_stride, dtype=self.stack.dtype)[:, : W + linear.R]
        # Dropout here and not as `down_projection` reads: a row's program draws once, and fills the card.
        # The adapter reads the norm's output with dropout, or where that lies in another order, a copy.
        dropout = self.dropout(linear)
        lora_input = normed.new_empty(T, W) if linear.lora and (dropout or linear.int8_forward) else None
        residual = norm_kernel.residual_norm(
            residual, pending, norm, normed, lora_input, dropout=dropout, order=linear.column_order
        )
        if linear.lora is None:
            return normed, None, residual
        source = normed[:, :W] if lora_input is None else lora_input
        return normed, lora_kernel.down_projection(source, self.matmuls.lora_a[id(linear)], normed[:, W:]), residual

    def _down_projection(self, linear: QuantizedLinear, x: torch.Tensor) -> torch.Tensor | None:
        """The adapter's x A^T of an input [T, K + R] that comes from no norm, and into its columns beyond K."""
        if linear.lora is None:
            return None
        a_RK, beside = self.matmuls.lora_a[id(linear)], x[:, linear.K :]
        return lora_kernel.down_projection(
            x[:, : linear.K], a_RK, beside, order=linear.column_order, dropout=self.dropout(linear)
        )

    def heads(self, fused: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Query, key and value as views: BLOOM's fused projection holds them head by head."""
        return fused.view(*fused.shape[:-1], self.stack.heads, 3, -1).unbind(-2)

    def _attend(
        self, block: TrainingBlock, qkv: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Context [T, W + R], log-sum-exp, and the adapter's x A^T."""
        scale, bias = self.heads(block.qkv.scale_N), self.heads(block.qkv.bias_N)
        context = block.dense.new_input(qkv)  # with room for x A^T beside
        logsumexp = attention_kernel.attention(
            self.heads(qkv), scale, bias, self.start_T, self.stack.slopes_H, context, block.dense.column_order
        )
        return context, logsumexp, self._down_projection(block.dense, context)

    def _drop_saved(self, index: int, activations: SavedActivations) -> Saved:
        plan = self.stack.plan
        if index < plan.blocks_full:
            return activations
        # With the second residual kept, attention's `dense` need not be run again.
        keeps_second = index < plan.blocks_partial
        return SavedInputs(activations.input, activations.post_attention_residual if keeps_second else None)

    def recompute(self, block: TrainingBlock, saved: SavedInputs) -> SavedActivations:
        """Makes what was not saved again, as the forward pass did, but without the residual's rounding error."""
        normed, qkv_x_at, _ = self._norm(block.norm1, block.qkv, Residual(saved.input, None), None)
        qkv = self.matmuls.forward(block.qkv, normed)
        context, logsumexp, dense_x_at = self._attend(block, qkv)
        second = saved.post_attention_residual
        if second is None:
            residual, pending = Residual(saved.input, None), self._pending(block.dense, context)
        else:
            residual, pending = Residual(second, None), None
        normed2, up_x_at, (second, _) = self._norm(block.norm2, block.up, residual, pending)
        active = down_x_at = None
        if block.down.lora:  # the gradient of its A reads GELU's output
            slope_or_input, active = self.matmuls.forward_gelu(block.up, block.down, normed2)
            down_x_at = self._down_projection(block.down, active)
        else:  # nothing in backward reads the output of GELU or of `down`
            slope_or_input = self.matmuls.recompute_gelu_slope_or_input(block.up, normed2)
        x_at = LoraXAt(qkv_x_at, dense_x_at, up_x_at, down_x_at)
        return SavedActivations(saved.input, second, qkv, context, logsumexp, slope_or_input, active, x_at)
