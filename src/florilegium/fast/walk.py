"""One walk through the trunk's blocks, forward and the road home: what `trunk.py` tells the story of.

Shapes: T packed tokens, W width, H heads, D head dimension, F = 4W.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from florilegium.fast import adapter_kernel, attention_kernel, block_kernel
from florilegium.fast.expand import Feed, Frozen


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
    """What a block's backward pass needs, or None where it is made again: [T, W] each, qkv [T, 3W], raw (the input of GELU) [T, F],
    lse [H, T], thin (the adapter's x A^T) [T, rank]."""

    input: torch.Tensor
    middle: Any = None
    qkv: Any = None
    context: Any = None
    lse: Any = None
    raw: Any = None
    thin: Any = None


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
        residual_TW = embedded_TW.to(torch.float32, copy=True)
        feed = Feed([linear for block in trunk.blocks for linear in block.linears], trunk.buffer)
        saved, pending = [], None
        for number, block in enumerate(trunk.blocks):
            kept, pending = self._block(number, block, residual_TW, pending, feed)
            if keeps:
                saved.append(self._thinned(number, kept))
        last_TW = residual_TW.new_empty(residual_TW.shape, dtype=trunk.dtype)
        out_TW = torch.empty_like(last_TW)
        block_kernel.add_norm(residual_TW, pending, trunk.bloom.ln_f, last_TW, out_TW)
        return out_TW, saved, last_TW

    def _block(self, number: int, block: Block, residual_TW: torch.Tensor, pending: Any, feed: Feed) -> tuple[Saved, Any]:
        kept = Saved(torch.empty_like(residual_TW, dtype=self.trunk.dtype))
        normed, kept.thin = self._enter(number, block, residual_TW, pending, kept.input)
        kept.qkv = torch.mm(normed, feed.take().T)
        kept.context, kept.lse = self._attend(block, kept.qkv)
        attended = torch.mm(kept.context, feed.take().T)
        kept.middle = torch.empty_like(kept.input)
        normed2 = torch.empty_like(kept.input)
        block_kernel.add_norm(residual_TW, (attended, block.dense.scale_N, block.dense.bias_N), block.norm2, kept.middle, normed2)
        kept.raw = torch.mm(normed2, feed.take().T)
        active = block_kernel.gelu(kept.raw, block.up.scale_N, block.up.bias_N)
        return kept, (torch.mm(active, feed.take().T), block.down.scale_N, block.down.bias_N)

    def _enter(
        self, number: int, block: Block, residual_TW: torch.Tensor, pending: Any, saved_TW: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The first norm, with the adapter's x A^T in the columns beyond; and those columns."""
        T, W = residual_TW.shape
        qkv = block.qkv
        normed = saved_TW.new_empty(T, W + qkv.R)
        dropped = torch.empty_like(saved_TW) if self.drop and qkv.lora else None
        block_kernel.add_norm(residual_TW, pending, block.norm1, saved_TW, normed, dropped, self.seed, number, self.drop)
        if qkv.lora is None:
            return normed, None
        source = normed[:, :W] if dropped is None else dropped
        return normed, adapter_kernel.thin(source, self.A16[number], normed[:, W:])

    def _heads(self, fused: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return fused.view(*fused.shape[:-1], self.trunk.heads, 3, -1).unbind(-2)

    def _attend(self, block: Block, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale, bias = self._heads(block.qkv.scale_N), self._heads(block.qkv.bias_N)
        context, lse = attention_kernel.forward(self._heads(qkv), scale, bias, self.start_T, self.trunk.slopes_H)
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
        grad_TW = torch.empty_like(last_TW)
        scaled_TW = torch.empty_like(last_TW)
        last_scale = trunk.blocks[-1].down.scale_N
        block_kernel.add_norm_grad(grad_TW, above_TW.contiguous(), last_TW, trunk.bloom.ln_f, last_scale, scaled_TW, first=True)
        order = [linear for number in reversed(range(len(saved))) for linear in self._order(number, saved[number])]
        feed = Feed(order, trunk.buffer, folded=True)
        gradients: list[torch.Tensor] = []
        for number in reversed(range(len(saved))):
            gradients[:0] = self._block_grad(number, saved.pop(), grad_TW, scaled_TW, feed)
        return gradients

    def _order(self, number: int, kept: Saved) -> list[Frozen]:
        """The linears whose weights a block's backward pass reads, in order."""
        block = self.trunk.blocks[number]
        again = [] if kept.qkv is not None else [block.qkv, *([] if kept.middle is not None else [block.dense]), block.up]
        return [*again, block.down, block.up, block.dense, block.qkv]

    def _again(self, number: int, block: Block, kept: Saved, feed: Feed) -> None:
        """Makes what was not saved again, as the forward pass did."""
        residual_TW = kept.input.to(torch.float32, copy=True)  # the kernel adds to it
        again = torch.empty_like(kept.input)
        normed, kept.thin = self._enter(number, block, residual_TW, None, again)
        kept.qkv = torch.mm(normed, feed.take().T)
        kept.context, kept.lse = self._attend(block, kept.qkv)
        normed2 = torch.empty_like(kept.input)
        if kept.middle is None:
            pending: Any = (torch.mm(kept.context, feed.take().T), block.dense.scale_N, block.dense.bias_N)
            kept.middle = torch.empty_like(kept.input)
        else:
            pending, residual_TW = None, kept.middle.float()
        block_kernel.add_norm(residual_TW, pending, block.norm2, kept.middle, normed2)
        kept.raw = torch.mm(normed2, feed.take().T)

    def _block_grad(self, number: int, kept: Saved, grad_TW: torch.Tensor, scaled_TW: torch.Tensor, feed: Feed) -> list[torch.Tensor]:
        block = self.trunk.blocks[number]
        if kept.qkv is None:
            self._again(number, block, kept, feed)
        above = torch.mm(scaled_TW, feed.take())
        block_kernel.gelu_grad(kept.raw, block.up.scale_N, block.up.bias_N, above)
        kept.raw = None
        above = torch.mm(above, feed.take())
        block_kernel.add_norm_grad(grad_TW, above, kept.middle, block.norm2, block.dense.scale_N, scaled_TW)
        above = torch.mm(scaled_TW, feed.take())
        qkv_grad = self._attend_grad(block, kept, above)
        kept.qkv = kept.context = None
        return self._enter_grad(number, block, kept, qkv_grad, grad_TW, scaled_TW, feed.take())

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
        )
        return qkv_grad

    def _enter_grad(
        self,
        number: int,
        block: Block,
        kept: Saved,
        qkv_grad: torch.Tensor,
        grad_TW: torch.Tensor,
        scaled_TW: torch.Tensor,
        wide: torch.Tensor,
    ) -> list[torch.Tensor]:
        """Gradients of the block's A and B; the residual stream's gradient goes on, but not below the first block."""
        qkv, W = block.qkv, grad_TW.shape[1]
        last = number == 0
        # Below the first block nothing learns: of the product only the adapter's columns are wanted.
        above = torch.mm(qkv_grad, wide[:, W:] if last else wide)
        thin_grad = above[:, above.shape[1] - qkv.R :][:, : len(qkv.lora.A_RK)] if qkv.lora else None
        next_scale = self.trunk.blocks[number - 1].down.scale_N
        norm = block.norm1
        if thin_grad is None or qkv.lora is None:
            if not last:
                block_kernel.add_norm_grad(grad_TW, above, kept.input, norm, next_scale, scaled_TW)
            return []
        dropped = torch.empty_like(scaled_TW)
        more = torch.mm(thin_grad, self.A16[number])
        # The last call is for `dropped`; what else it writes is read no more, and a kernel without that would be one more to compile.
        block_kernel.add_norm_grad(
            grad_TW, above if not last else more, kept.input, norm, next_scale, scaled_TW,
            thin_TW=more, dropped_TW=dropped, seed=self.seed, number=number, drop=self.drop,
        )  # fmt: skip
        return list(adapter_kernel.gradients(dropped, thin_grad, qkv_grad, kept.thin, qkv.unfolding_N))
