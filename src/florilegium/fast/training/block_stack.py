"""BLOOM's blocks over packed rows, forward and backward by hand, on a frozen quantised base with LoRA on
any of a block's linears.

autograd would keep what it is shown: dequantised weights, float32 casts, each step of a GELU. Only the adapter is
trained here, so nearly nothing need be kept, and only the gradients of A, B and the residual stream are ever made. One
function runs all blocks:

    forward    residual -> norm -> qkv -> attention -> dense -> residual -> norm -> h_to_4h -> GELU -> 4h_to_h -> the next block
    backward   the same from the last to the first; what was not saved is recomputed on the way

Between the matmuls stand the kernels of `norm_kernel.py`, `gelu_kernel.py` and `attention_kernel.py`, which apply
scales, biases and residuals as they pass. What is saved of a token and block is a matter of memory
(`saved_activations.py`). docs/kernels/training-step.md draws a step with its shapes and bytes.

Where several GPUs hold the blocks in turn, each has a stack of its own. Between them goes the residual stream, in
float32, and its gradient back (`residual_kernel.py`). A stack keeps nothing of a pass but its buffer for one weight, so
several may be forward before the first of them comes back.

The reference is `packed_forward.py` over the same modules with autograd. Shapes: T packed tokens, W width, H heads, D
head dimension, F = 4W."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from florilegium.fast.host_blocks import HostBlocks
from florilegium.fast.modules import Bloom, blocks_of, linears, lora_of
from florilegium.fast.support import shared_unsupported_reason, supports_int8_matmul
from florilegium.fast.training.backward_pass import BackwardPass
from florilegium.fast.training.forward_pass import ForwardPass, TrainingBlock
from florilegium.fast.training.lora_kernel import MAX_RANK
from florilegium.fast.training.matmuls import compile_int8_matmuls
from florilegium.fast.training.quantized_linear import QuantizedLinear, quantized_linear
from florilegium.fast.training.saved_activations import ActivationPlan, Saved
from florilegium.fast.training.warm_up import WARM_UP_TOKENS, warm_up
from florilegium.reference import alibi_slopes


def unsupported_reason(bloom: Bloom, device: torch.device, compute: torch.dtype) -> str:
    """Why the block stack cannot run this model, or an empty string."""
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    found = shared_unsupported_reason(bloom, device, compute)
    if found:
        return found
    for layer in bloom.h:
        # the adapter's dropout is the only one that the kernels make
        if layer.hidden_dropout or layer.self_attention.hidden_dropout:
            return "this BLOOM has dropout"
        for wrapped in (layer.self_attention.dense, layer.mlp.dense_4h_to_h):
            if (lora := lora_of(wrapped)) and len(lora.A_RK) > MAX_RANK:
                return f"an adapter on dense or dense_4h_to_h may have a rank of at most {MAX_RANK}"
        for module in linears(layer):
            if not isinstance(module, (Linear8bitLt, Linear4bit)):
                return "the base is not quantised to 8 or 4 bits"
            state = getattr(module.weight, "quant_state", None)
            # a group of weights with one scale must not lie across two rows
            if state is not None and (state.quant_type != "nf4" or module.in_features % state.blocksize):
                return "the 4-bit weights are not NF4 in whole groups"
    return ""


class BlockStackContext(Protocol):
    """autograd's context, with what one pass leaves on it for the backward pass."""

    needs_input_grad: tuple[bool, ...]
    forward_pass: ForwardPass
    saved: list[Saved]
    last: torch.Tensor | None


class BlockStackFunction(torch.autograd.Function):
    """All blocks as one function of what the first of them reads and the adapters."""

    @staticmethod
    def forward(
        ctx: BlockStackContext, stack: BlockStack, stream: torch.Tensor, start: torch.Tensor, end: torch.Tensor,
        number: torch.Tensor, seed: torch.Tensor | None, *lora: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        forward = ForwardPass(stack, start, end, number, seed)
        out, saved, last = forward.run(stream, save=any(ctx.needs_input_grad))
        # Not by save_for_backward: these are buffers of our own, which the backward pass empties one block at a time.
        ctx.forward_pass, ctx.saved, ctx.last = forward, saved, last
        return out

    @staticmethod
    def backward(ctx: BlockStackContext, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # the embedding asks for none: nothing below the first block of all is trained
        backward = BackwardPass(ctx.forward_pass, wants_input_grad=ctx.needs_input_grad[1])
        gradients = backward.run(grads[0], ctx.saved, ctx.last)
        del ctx.saved
        return (None, backward.input_grad_TW, None, None, None, None, *gradients)  # for starts, ends, numbers, seed


# From this width on the int8 matmuls that do GELU and its gradient are used even where there are bf16 copies: at 2,560
# cuBLAS with a copy, and a kernel for GELU, take no longer.
FUSED_GELU_WIDTH = 4096


class BlockStack:
    """The blocks of a BloomModel, or some in a row, ready to run. Buffers and copies live as long as it does."""

    def __init__(
        self,
        bloom: Bloom,
        plan: ActivationPlan | None = None,
        dtype: torch.dtype = torch.bfloat16,
        lengths: Sequence[int] = (),
        held: range | None = None,
        host: HostBlocks | None = None,
    ) -> None:
        """`lengths`: numbers of tokens that will come, in order, whose kernels are compiled with the rest. `held`: the
        numbers of these blocks, where others lie elsewhere; None: all. `host` brings the weights of those that lie in host
        memory."""
        self.bloom, self.plan, self.dtype, self.host = bloom, plan or ActivationPlan(), dtype, host
        num_layers = len(blocks_of(bloom))
        self.held = range(num_layers) if held is None else held
        assert 0 <= self.held.start < self.held.stop <= num_layers and self.held.step == 1
        self.has_head = self.held.stop == num_layers  # the last norm and the head come after these blocks
        self.layers = blocks_of(bloom, self.held)
        self.blocks = [
            TrainingBlock(
                layer.input_layernorm,
                quantized_linear(layer.self_attention.query_key_value),
                quantized_linear(layer.self_attention.dense),
                layer.post_attention_layernorm,
                quantized_linear(layer.mlp.dense_h_to_4h),
                quantized_linear(layer.mlp.dense_4h_to_h),
            )
            for layer in self.layers
        ]
        for number, block in zip(self.held, self.blocks, strict=True):
            # the first linear of all blocks, then the second: `query_key_value` draws as it did when it was alone.
            # Of all: wherever a block lies, it draws the same.
            for kind, linear in enumerate(block.linears):
                linear.stream = number + kind * num_layers
        self.heads = bloom.num_heads
        first = self.blocks[0].qkv.scale_N
        self.slopes_H = alibi_slopes(self.heads, first.device)
        self.ones_W = torch.ones_like(self.blocks[0].dense.scale_N)
        # One buffer for all weights: each is dequantised into it just before its matmul, and overwritten by the next.
        self.buffer = first.new_empty(self._choose_matmuls(first), dtype=dtype)
        for length in (WARM_UP_TOKENS, *lengths):
            self.compile_in_background(length)
        if first.is_cuda:  # the interpreter, on a CPU, compiles nothing
            warm_up(self)
        self.fill_bf16_copies()

    def _choose_matmuls(self, like: torch.Tensor) -> int:
        """Says of each linear how its matmuls read it; returns the numbers of the largest weight that is dequantised
        for one product at a time."""
        largest = 0
        for index, (block, layer) in enumerate(zip(self.blocks, self.layers, strict=True)):
            int8, copied = supports_int8_matmul(layer), index < self.plan.blocks_bf16
            fused_gelu = block.up.K >= FUSED_GELU_WIDTH
            for linear in block.linears:
                # With a copy cuBLAS is a little faster, but for the two matmuls that do GELU or its gradient as well.
                linear.int8_forward = int8 and (not copied or (fused_gelu and linear is block.up))
                linear.int8_backward = int8 and (not copied or (fused_gelu and linear is block.down))
                if copied:
                    linear.bf16_copy = linear.weight_view(like.new_empty(linear.num_elements, dtype=self.dtype))
                # int8 that is read as it is stored never comes into the buffer
                elif not int8:
                    largest = max(largest, linear.num_elements)
        return largest

    def host_rejoined(self) -> contextlib.AbstractContextManager[None]:
        """Around a pass: see `HostBlocks.rejoined`."""
        return contextlib.nullcontext() if self.host is None else self.host.rejoined()

    def all_linears(self) -> list[QuantizedLinear]:
        """In the order of blocks, and in a block of the forward pass."""
        return [linear for block in self.blocks for linear in block.linears]

    def fill_bf16_copies(self) -> None:
        for linear in self.all_linears():
            if linear.bf16_copy is not None:
                linear.dequantize_into(linear.bf16_copy)

    def compile_in_background(self, T: int) -> None:
        """Has the kernels of int8 matmuls on T tokens compiled by threads of their own."""
        for block in (self.blocks[0], self.blocks[-1]):  # copies are the first blocks'
            compile_int8_matmuls(block.linears, T, recompute=self.plan.blocks_full < len(self.blocks))

    @property
    def parameters(self) -> list[torch.Tensor]:
        """A and B of each linear that has them, in order: what autograd must know the function depends on."""
        loras = [linear.lora for linear in self.all_linears()]
        return [p for lora in loras if lora is not None for p in (lora.A_RK, lora.B_NR)]

    def __call__(
        self,
        stream_TW: torch.Tensor,
        start_T: torch.Tensor,
        end_T: torch.Tensor,
        number_T: torch.Tensor,
        seed: torch.Tensor | None,
    ) -> torch.Tensor:
        """The last norm's output [T, W] in bfloat16, or, where the last block lies elsewhere, the residual stream in
        float32. `stream_TW` is what the first block reads. Token t's document lies at start_T[t] .. end_T[t]
        (exclusive), int32; `number_T`, int32, are the tokens' numbers in the step and `seed`, int64 [1] there, the step's: what
        the adapter's dropout is drawn by. None: there is none."""
        T, W = stream_TW.shape
        assert T % 64 == 0, f"{T} tokens: rows are packed in multiples of 64 (`PackPlan`)"
        assert stream_TW.is_contiguous() and self.bloom.embed_dim == W
        assert seed is None or seed.dtype == torch.int64
        # The parameters are for autograd to see: the pass itself reads them where they live.
        apply: Any = BlockStackFunction.apply
        out: torch.Tensor = apply(self, stream_TW, start_T, end_T, number_T, seed, *self.parameters)
        return out
