"""A model of another family through its layers: the fused forwards put into its modules, and the model run on packed rows.

    layers = FusedLayers(backbone, torch.bfloat16, longest, parts_of(device))
    with layers.through(start_T, end_T, number_T, seed):        around forward and backward: activations may be recomputed
        hidden_TW = layers(tokens_T, position_T)

Modules that are not recognised stay Transformers', so a family that says nothing still trains; whether what comes out is
the family's own is tried before a run (`model/document_packing.py`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn

from florilegium.fast.layers import gated_mlp, lora_linear, rms_norm
from florilegium.fast.layers.cpu_parts import ON_CPU
from florilegium.fast.layers.document_attention import attending
from florilegium.fast.layers.packed_rows import PackedRows, here_and_again, through
from florilegium.fast.layers.parts import LayerParts
from florilegium.fast.support import card_unsupported_reason


def parts_of(device: torch.device) -> LayerParts:
    # Triton's interpreter is for tests, which choose the kernels themselves
    if device.type == "cpu":
        return ON_CPU
    # here and not above: it imports Triton
    from florilegium.fast.layers.kernel_parts import KERNELS

    return KERNELS


def unsupported_reason(backbone: nn.Module, device: torch.device, compute: torch.dtype) -> str:
    """What keeps the layers of this model from being fused, of what can be seen without running it; or an empty string."""
    if device.type != "cpu" and (reason := card_unsupported_reason(device, compute)):
        return reason
    from peft.tuners.lora import LoraLayer

    config: Any = backbone.config
    parts = parts_of(device)
    named = [(name, module) for name, module in backbone.named_modules() if isinstance(module, LoraLayer)]
    layers = [layer for _, layer in named]
    for name, layer in named:
        if reason := lora_linear.unsupported_reason(layer, parts):
            return f"{name}: {reason}"
    adapters = {id(dropout) for layer in layers for dropout in layer.lora_dropout.values()}
    # PEFT's own is drawn by the token; a base's would be drawn by torch, once, when the step is recorded
    dropouts = [m for m in backbone.modules() if isinstance(m, nn.Dropout) and id(m) not in adapters]
    if any(dropout.p for dropout in dropouts) or (getattr(config, "attention_dropout", None) or 0) > 0:
        return "this model has dropout, which is not drawn by a token's number"
    return ""


class FusedLayers:
    """`longest`: no document that will come has more tokens."""

    checkpoint_contexts = staticmethod(here_and_again)

    def __init__(self, backbone: nn.Module, dtype: torch.dtype, longest: int, parts: LayerParts) -> None:
        self.backbone, self.longest, self.parts = backbone, longest, parts
        # before the linears: what a norm or an MLP computes is asked of them as they are, and without an adapter's dropout
        with _evaluating(backbone):
            norms, mlps = rms_norm.rms_norms(backbone), gated_mlp.gated_mlps(backbone, dtype)
        linears = lora_linear.lora_linears(backbone, dtype, parts)
        self.linears = [linear for _, linear in linears]
        changed = [*norms, *(mlp for mlp, _ in mlps), *(layer for layer, _ in linears)]
        # a linear without an adapter may have a forward of ours already (`frozen_linear.py`), which stays beneath
        self._before = [(module, module.__dict__.get("forward")) for module in changed]
        # instances and not classes: another model of the family in this process stays as it is
        for norm in norms:
            rms_norm.install(norm, parts)
        for mlp, act in mlps:
            gated_mlp.install(mlp, act, parts)
        for layer, linear in linears:
            lora_linear.install(layer, linear)

    def remove(self) -> None:
        """Every module is what it was."""
        for module, forward in self._before:
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward
        self._before = []

    @contextlib.contextmanager
    def through(
        self, start_T: torch.Tensor, end_T: torch.Tensor, number_T: torch.Tensor, seed: torch.Tensor | None
    ) -> Iterator[None]:
        """Around a forward pass and what comes back of it, on packed rows (`PackedRows`)."""
        # a kernel would leave a tail of tokens out in silence
        multiple = self.parts.multiple
        assert len(start_T) % multiple == 0, (
            f"{len(start_T)} tokens: rows are packed in multiples of {multiple} (`PackPlan`)"
        )
        # no tensor of these is made anew while a step is recorded: they are the graph's inputs
        rows = PackedRows(start_T, end_T, number_T, seed, self.longest)
        with through(rows), attending(cast(Any, self.backbone).config, self.parts):
            yield

    def __call__(self, tokens_T: torch.Tensor, position_T: torch.Tensor) -> torch.Tensor:
        """The last layer's normed output [T, W], inside `through`."""
        lora_linear.begin_pass(self.linears)
        # one row: a family may treat rows of a batch as strangers to one another in ways of its own
        found: Any = self.backbone(input_ids=tokens_T[None], position_ids=position_T[None].long(), use_cache=False)
        hidden: torch.Tensor = found.last_hidden_state
        return hidden[0]


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, nothing is dropped; then each module is in the mode that it was in: a fresh adapter's is its own."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
