"""By what the layers of another family are computed: Triton's kernels on a GPU (`kernel_parts.py`), torch's own operations on
a CPU (`cpu_parts.py`). The layers do not know which.

Shapes: T tokens, N outputs, K inputs, R the adapter's rank rounded up to 8, F the MLP's width, H heads, G of them to a key,
D head dimension."""

from __future__ import annotations

from typing import Protocol

import torch

from florilegium.fast.layers.packed_rows import PackedRows
from florilegium.fast.modules import Linear, LoraLayer
from florilegium.reference import Dropout

SILU, GELU_TANH = 0, 1  # of a gated MLP


class LayerParts(Protocol):
    # two names, so that a model on the card and one on the CPU may train at once in one process
    attention_name: str  # as Transformers knows it
    widest_head: int
    takes_windows: bool  # narrower than a document
    multiple: int  # of tokens: a batch has no tail

    def linear_unsupported(self, layer: LoraLayer) -> str:
        """Why this layer of PEFT's, whose adapter is plain, stays PEFT's; or an empty string."""

    def product(self, x_TK: torch.Tensor, linear: Linear, buffer: torch.Tensor) -> torch.Tensor:
        """x W^T + bias [T, N], in the dtype of x and `buffer`, which may hold the weight for as long as it takes."""

    def product_grad(self, grad_TN: torch.Tensor, linear: Linear, buffer: torch.Tensor) -> torch.Tensor:
        """grad W [T, K]."""

    def kept(self, dropout: Dropout | None, width: int) -> torch.Tensor | None:
        """What of a dropout's draws is kept for the backward pass; None: it draws them again."""

    def down_projection(
        self, x_TK: torch.Tensor, a_RK: torch.Tensor, columns: int, dropout: Dropout | None, kept: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """dropout(x) A^T, [T, rank] and, with zeros beyond the rank, [T, columns]."""

    def down_projection_grad(self, grad_TN: torch.Tensor, b_NR: torch.Tensor, rank: int) -> torch.Tensor:
        """grad B [T, rank], of B's R columns the first."""

    def lora_gradients(
        self, x_TK: torch.Tensor, down_grad: torch.Tensor, grad_TN: torch.Tensor, down: torch.Tensor, rescale_N: torch.Tensor,
        dropout: Dropout | None, kept: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Of A [rank, K] and B [N, rank], float32; `down` is dropout(x) A^T, `down_grad` its gradient [T, rank]."""

    def add_input_grad(
        self, grad_TK: torch.Tensor, down_grad: torch.Tensor, a_RK: torch.Tensor, dropout: Dropout | None, kept: torch.Tensor | None
    ) -> None:  # fmt: skip
        """Adds the adapter's part to the gradient of x, in place."""

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, epsilon: float | None) -> torch.Tensor: ...

    def gate(self, gate: torch.Tensor, up: torch.Tensor, act: int) -> torch.Tensor:
        """act(gate) * up."""

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: PackedRows, window: int | None
    ) -> torch.Tensor:
        """Causal attention inside documents: q [T, H, D], k and v [T, H / G, D] to [T, H, D], scores over D**0.5; to the
        last `window` tokens, where there is one."""
