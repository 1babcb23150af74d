"""BLOOM's blocks over packed rows, forward and backward by hand, on a frozen quantised base with LoRA on
`query_key_value`.

autograd would keep what it is shown: dequantised weights, float32 casts, each step of a GELU. Only the adapter learns
here, so nearly nothing need be kept, and only the gradients of A, B and the residual stream are ever made. One function
walks all blocks:

    forward    residual -> norm -> qkv -> attention -> dense -> residual -> norm -> h_to_4h -> GELU -> 4h_to_h -> the next block
    backward   the same road home; what was not saved is made again on the way

Between the products stand the kernels of `norm_gelu_kernel.py` and `attention_kernel.py`, which apply scales, biases
and residuals as they pass. What is saved a token and block, in the compute dtype (W = width), is a matter of memory
(`Plan`):

    fast    80 kB at W = 4096: input, middle (the residual after attention), qkv, context, the input of GELU or its slope
    lean    16 kB: input and middle; qkv, attention and the first half of the MLP are made again (7/12 of a forward pass)
    least    8 kB: the input alone

The twin is `packed_forward.py`'s walk over the same modules with autograd. Shapes: T packed tokens, W width, H heads, D
head dimension, F = 4W."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from florilegium.fast.head_loss import chunk_losses
from florilegium.fast.parallel_compile import together
from florilegium.fast.support import common_obstacle, linears, reads_codes
from florilegium.fast.training.block_passes import Block, Steps, Walk
from florilegium.fast.training.quantized_linear import frozen, prepare
from florilegium.reference import alibi_slopes


@dataclass(frozen=True)
class Plan:
    """How much memory the trunk may use: blocks that keep all activations, blocks that keep input and middle (the rest
    keep their input), blocks whose wide weights are kept. Counted from the first block."""

    full: int = 10**6
    middle: int = 10**6
    copies: int = 0


def obstacle(bloom: Any, device: torch.device, compute: torch.dtype) -> str:
    """Why the trunk cannot walk this model, or an empty string."""
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    found = common_obstacle(bloom, device, compute)
    if found:
        return found
    for layer in bloom.h:
        if layer.hidden_dropout or layer.self_attention.hidden_dropout:
            return "this BLOOM has dropout"
        for module in linears(layer):
            if not isinstance(module, (Linear8bitLt, Linear4bit)):
                return "the base is not held in 8 or 4 bits"
            state = getattr(module.weight, "quant_state", None)
            if state is not None and (state.quant_type != "nf4" or module.in_features % state.blocksize):
                return "its 4-bit weights are not NF4 in whole groups"
    return ""


# From this width on GELU and its gradient ride along with stored codes even where there are copies: at 2,560 cuBLAS
# with a copy, and a kernel for GELU, take no longer.
RIDES = 4096
REHEARSED = 64  # tokens of the step that compiles


class Trunk:
    """The blocks of a BloomModel, ready to walk. Buffers and copies live as long as it does."""

    def __init__(
        self, bloom: Any, plan: Plan = Plan(), dtype: torch.dtype = torch.bfloat16, lengths: Sequence[int] = ()
    ) -> None:
        """`lengths`: numbers of tokens that will come, in order, whose kernels are compiled with the rest."""
        self.bloom, self.plan, self.dtype = bloom, plan, dtype
        self.blocks = [
            Block(
                layer.input_layernorm,
                frozen(layer.self_attention.query_key_value),
                frozen(layer.self_attention.dense),
                layer.post_attention_layernorm,
                frozen(layer.mlp.dense_h_to_4h),
                frozen(layer.mlp.dense_4h_to_h),
            )
            for layer in bloom.h
        ]
        self.heads = bloom.num_heads
        first = self.blocks[0].qkv.scale_N
        self.slopes_H = alibi_slopes(self.heads, first.device)
        widest = 0  # of the weights that are made wide one at a time
        for number, (block, layer) in enumerate(zip(self.blocks, bloom.h, strict=True)):
            stored, copied, rides = reads_codes(layer), number < plan.copies, block.up.K >= RIDES
            for linear in block.linears:
                # With a copy cuBLAS is a little faster, but for the two products that GELU or its gradient rides along
                # with.
                linear.stored_forward = stored and (not copied or (rides and linear is block.up))
                linear.stored_backward = stored and (not copied or (rides and linear is block.down))
                if copied:
                    linear.copy = linear.room(first.new_empty(linear.elements, dtype=dtype))
                elif not stored:
                    widest = max(widest, linear.elements)
        self.buffer = first.new_empty(widest, dtype=dtype)
        for length in (REHEARSED, *lengths):
            self.compile_soon(length)
        if first.is_cuda:
            self._rehearse()
        self._fill_copies()

    def _fill_copies(self) -> None:
        for linear in (linear for block in self.blocks for linear in block.linears):
            if linear.copy is not None:
                linear.expand(linear.copy)

    def compile_soon(self, T: int) -> None:
        """Has the kernels of products with stored codes on T tokens compiled by threads of their own."""
        for block in (self.blocks[0], self.blocks[-1]):  # copies are the first blocks'
            prepare(block.linears, T, again=self.plan.full < len(self.blocks))

    def _rehearse(self) -> None:
        """Has the kernels of a step and of an evaluation compiled at once, the loss's with them."""
        T, device = REHEARSED, self.slopes_H.device
        embedded_TW = torch.zeros(T, self.bloom.embed_dim, device=device)
        start_T, end_T = (torch.full((T,), place, dtype=torch.int32, device=device) for place in (0, T))
        seed = torch.zeros(1, dtype=torch.int64, device=device)
        with together(), torch.no_grad():
            self._fill_copies()
            Steps(self, start_T, end_T, None).forward(embedded_TW, keeps=False)
            walk = Steps(self, start_T, end_T, seed)
            out_TW, saved, last_TW = walk.forward(embedded_TW, keeps=True)
            walk.backward(out_TW, saved, last_TW)
            head, targets_T = self.bloom.word_embeddings.weight, torch.zeros(T, dtype=torch.int64, device=device)
            for grad_TW in (None, torch.empty_like(out_TW)):
                chunk_losses(out_TW, head, targets_T, grad_TW)

    @property
    def parameters(self) -> list[torch.Tensor]:
        loras = [block.qkv.lora for block in self.blocks]
        return [p for lora in loras if lora is not None for p in (lora.A_RK, lora.B_NR)]

    def __call__(
        self, embedded_TW: torch.Tensor, start_T: torch.Tensor, end_T: torch.Tensor, seed: torch.Tensor | None
    ) -> torch.Tensor:
        """The last norm's output [T, W] in bfloat16. Token t's document lies at start_T[t] .. end_T[t] (exclusive),
        int32. `seed`, int64 [1] there, is that of the adapter's dropout; None: none."""
        apply: Any = Walk.apply
        out: torch.Tensor = apply(self, embedded_TW, start_T, end_T, seed, *self.parameters)
        return out
