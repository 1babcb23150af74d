"""One walk through the trunk's blocks, forward and the road home: what `block_stack.py` tells the story of.

Shapes: T packed tokens, W width, H heads, D head dimension, F = 4W.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from florilegium.fast.training import attention_kernel
from florilegium.fast.training import lora_kernel as adapter_kernel
from florilegium.fast.training import norm_gelu_kernel as block_kernel
from florilegium.fast.training.quantized_linear import Frozen, Products


@dataclass
class Block:
    """One BloomBlock's parts."""

    norm1: Any
    qkv: Frozen
    dense: Frozen
    norm2: Any
    up: Frozen
    down: Frozen

    @property
    def linears(self) -> tuple[Frozen, Frozen, Frozen, Frozen]:
        return self.qkv, self.dense, self.up, self.down


@dataclass
class Saved:
    """What a block's backward pass needs, or None where it is made again: [T, W] each, qkv [T, 3W], gelu (its input or
    its slope: `Products.forward_gelu`) [T, F], lse [H, T], thin (the adapter's x A^T) [T, rank]. The context's columns
    lie as `dense` wants them (`Frozen.form`)."""

    input: torch.Tensor
    middle: Any = None
    qkv: Any = None
    context: Any = None
    lse: Any = None
    gelu: Any = None
    thin: Any = None


# The residual stream: what is saved of it, and what that rounding left (`norm_gelu_kernel.py`); None: nothing. It
# begins as the embedding, in float32, which the first norm splits in two.
Stream = tuple[torch.Tensor, torch.Tensor | None]


class Walk(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, trunk: Any, embedded: torch.Tensor, start: torch.Tensor, end: torch.Tensor, seed: Any, *lora: Any
    ) -> torch.Tensor:
        walk = Steps(trunk, start, end, seed)
        keeps = any(ctx.needs_input_grad)
        out, saved, last = walk.forward(embedded, keeps)
        ctx.walk, ctx.saved, ctx.last = walk, saved, last
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        gradients = ctx.walk.backward(grads[0], ctx.saved, ctx.last)
        del ctx.saved
        return (None, None, None, None, None, *gradients)


class Steps:
    """One walk: the tensors that all blocks share."""

    def __init__(self, trunk: Any, start_T: torch.Tensor, end_T: torch.Tensor, seed: torch.Tensor | None) -> None:
        self.trunk, self.start_T, self.end_T, self.seed = trunk, start_T, end_T, seed
        self.products = Products(trunk.buffer)
        trunk.compile_soon(len(start_T))
        loras = [block.qkv.lora for block in trunk.blocks]
        self.drop = 0.0 if seed is None or loras[0] is None else loras[0].drop
        # The adapter's A, in one launch: float32 to bfloat16.
        parts = [lora.A_RK.detach() for lora in loras if lora is not None]
        self.A16 = [a.new_empty(a.shape, dtype=trunk.dtype) for a in parts]
        if parts:
            torch._foreach_copy_(self.A16, parts)

    def forward(self, embedded_TW: torch.Tensor, keeps: bool) -> tuple[torch.Tensor, list[Saved], torch.Tensor]:
        """The normed end, what each block saved, and the residual stream before the last norm."""
        trunk = self.trunk
        stream: Stream = embedded_TW, None
        saved, pending = [], None
        for number, block in enumerate(trunk.blocks):
            kept, stream, pending = self._block(number, block, stream, pending)
            if keeps:
                saved.append(self._thinned(number, kept))
        out_TW = torch.empty_like(embedded_TW, dtype=trunk.dtype)
        last_TW, _ = block_kernel.add_norm(*stream, pending, trunk.bloom.ln_f, out_TW)
        return out_TW, saved, last_TW

    def _block(self, number: int, block: Block, stream: Stream, pending: Any) -> tuple[Saved, Stream, Any]:
        normed, thin, stream = self._enter(number, block, stream, pending)
        kept = Saved(stream[0], thin=thin)
        kept.qkv = self.products.forward(block.qkv, normed)
        kept.context, kept.lse = self._attend(block, kept.qkv)
        attended = self.products.forward(block.dense, kept.context)
        normed2, stream = self._turn(block, stream, (attended, block.dense.scale_N, block.dense.bias_N))
        kept.middle = stream[0]
        kept.gelu, active = self.products.forward_gelu(block.up, block.down, normed2)
        return kept, stream, (self.products.forward(block.down, active), block.down.scale_N, block.down.bias_N)

    def _enter(
        self, number: int, block: Block, stream: Stream, pending: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None, Stream]:
        """The first norm, with the adapter's x A^T in the columns beyond; those columns; the stream there."""
        T, W = stream[0].shape
        qkv = block.qkv
        normed = stream[0].new_empty(T, qkv.stride, dtype=self.trunk.dtype)[:, : W + qkv.R]
        # The adapter reads the norm's output with dropout, or where that lies in another order, a copy.
        dropped = normed.new_empty(T, W) if qkv.lora and (self.drop or qkv.stored_forward) else None
        stream = block_kernel.add_norm(
            *stream, pending, block.norm1, normed, dropped, self.seed, number, self.drop, qkv.form
        )
        if qkv.lora is None:
            return normed, None, stream
        source = normed[:, :W] if dropped is None else dropped
        return normed, adapter_kernel.thin(source, self.A16[number], normed[:, W:]), stream

    def _turn(self, block: Block, stream: Stream, pending: Any) -> tuple[torch.Tensor, Stream]:
        """The second norm, and the stream there."""
        normed = torch.empty_like(stream[0])
        return normed, block_kernel.add_norm(*stream, pending, block.norm2, normed, form=block.up.form)

    def _heads(self, fused: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return fused.view(*fused.shape[:-1], self.trunk.heads, 3, -1).unbind(-2)

    def _attend(self, block: Block, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale, bias = self._heads(block.qkv.scale_N), self._heads(block.qkv.bias_N)
        context, lse = attention_kernel.forward(
            self._heads(qkv), scale, bias, self.start_T, self.trunk.slopes_H, block.dense.form
        )
        return context.view(len(qkv), -1), lse

    def _thinned(self, number: int, kept: Saved) -> Saved:
        plan = self.trunk.plan
        if number < plan.full:
            return kept
        return Saved(kept.input, kept.middle if number < plan.middle else None)

    # The road home.

    def backward(self, above_TW: torch.Tensor, saved: list[Saved], last_TW: torch.Tensor) -> list[torch.Tensor]:
        """Gradients of A and B of each block, float32, in order."""
        trunk = self.trunk
        # the residual stream's gradient, times the scale of the linear that reads it next
        scaled_TW = torch.empty_like(last_TW)
        last_scale = trunk.blocks[-1].down.scale_N
        block_kernel.add_norm_grad(scaled_TW, above_TW.contiguous(), last_TW, trunk.bloom.ln_f, None, last_scale)
        self.products.home = True
        gradients: list[torch.Tensor] = []
        for number in reversed(range(len(saved))):
            gradients[:0] = self._block_grad(number, saved.pop(), scaled_TW)
        return gradients

    def _again(self, number: int, block: Block, kept: Saved) -> None:
        """Makes what was not saved again, as the forward pass did, but without the low part of what came in."""
        normed, kept.thin, _ = self._enter(number, block, (kept.input, None), None)
        kept.qkv = self.products.forward(block.qkv, normed)
        kept.context, kept.lse = self._attend(block, kept.qkv)
        if kept.middle is None:
            pending = self.products.forward(block.dense, kept.context), block.dense.scale_N, block.dense.bias_N
            normed2, (kept.middle, _) = self._turn(block, (kept.input, None), pending)
        else:
            normed2, _ = self._turn(block, (kept.middle, None), None)
        kept.gelu = self.products.gelu_again(block.up, normed2)

    def _block_grad(self, number: int, kept: Saved, scaled_TW: torch.Tensor) -> list[torch.Tensor]:
        block = self.trunk.blocks[number]
        if kept.qkv is None:
            self._again(number, block, kept)
        above = self.products.backward_gelu(block.up, block.down, scaled_TW, kept.gelu)
        kept.gelu = None
        above, _ = self.products.backward(block.up, above)
        block_kernel.add_norm_grad(scaled_TW, above, kept.middle, block.norm2, block.down.scale_N, block.dense.scale_N)
        above, _ = self.products.backward(block.dense, scaled_TW)
        qkv_grad = self._attend_grad(block, kept, above)
        kept.qkv = kept.context = None
        return self._enter_grad(number, block, kept, qkv_grad, scaled_TW)

    def _attend_grad(self, block: Block, kept: Saved, above: torch.Tensor) -> torch.Tensor:
        qkv_grad = torch.empty_like(kept.qkv)
        heads = self._heads(kept.qkv)
        shape = heads[0].shape
        attention_kernel.backward(
            heads,
            self._heads(block.qkv.scale_N),
            self._heads(block.qkv.bias_N),
            kept.context.view(shape),
            kept.lse,
            above.view(shape),
            self._heads(qkv_grad),
            self.start_T,
            self.end_T,
            self.trunk.slopes_H,
            block.dense.form,
        )
        return qkv_grad

    def _enter_grad(
        self, number: int, block: Block, kept: Saved, qkv_grad: torch.Tensor, scaled_TW: torch.Tensor
    ) -> list[torch.Tensor]:
        """Gradients of the block's A and B; the residual stream's gradient goes on, but not below the first block."""
        qkv, norm = block.qkv, block.norm1
        above: torch.Tensor | None = None
        if number:
            above, thin_grad = self.products.backward(qkv, qkv_grad)
        else:  # nothing learns below
            thin_grad = self.products.thin_grad(qkv, qkv_grad)
        scales = block.dense.scale_N, self.trunk.blocks[number - 1].down.scale_N
        if thin_grad is None:
            if above is not None:
                block_kernel.add_norm_grad(scaled_TW, above, kept.input, norm, *scales)
            return []
        dropped = torch.empty_like(scaled_TW)
        more = torch.mm(thin_grad, self.A16[number])
        # The last call is for `dropped`; what else it writes is read no more, and a kernel without that would be one
        # more to compile.
        block_kernel.add_norm_grad(
            scaled_TW, more if above is None else above, kept.input, norm, *scales,
            thin_TW=more, dropped_TW=dropped, seed=self.seed, number=number, drop=self.drop,
        )  # fmt: skip
        return list(adapter_kernel.gradients(dropped, thin_grad, qkv_grad, kept.thin, qkv.unfolding_N))
