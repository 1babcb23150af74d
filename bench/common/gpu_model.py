"""A BLOOM of a real size with random quantised weights, made on the card in a second: for timing, not for learning."""

from __future__ import annotations

from typing import Any

import torch

SIZES = {
    "tiny": (64, 2, 1),  # to try a benchmark without a GPU
    "560m": (1024, 16, 24),
    "1b1": (1536, 16, 24),
    "1b7": (2048, 16, 24),
    "3b": (2560, 32, 30),
    "7b1": (4096, 32, 30),
    "176b": (14336, 112, 70),
}
VOCABULARY = 250_880


def random_base(size: str, bits: int = 8) -> Any:
    """A `florilegium.model.Base` without a tokenizer: linears in bitsandbytes' int8 or NF4, the rest in bfloat16."""
    import bitsandbytes as bnb
    from transformers import BloomConfig, BloomForCausalLM

    from florilegium.model import Base

    width, heads, layers = SIZES[size]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.device("meta"):
        model = BloomForCausalLM(
            BloomConfig(
                vocab_size=512 if size == "tiny" else VOCABULARY, hidden_size=width, n_head=heads, n_layer=layers
            )
        ).to(torch.bfloat16)
    torch.manual_seed(0)
    for module in [
        m for m in model.transformer.h.modules() if any(isinstance(c, torch.nn.Linear) for c in m.children())
    ]:
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(module, name, _quantised(bnb, child.in_features, child.out_features, bits, device))
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                value = torch.randn(parameter.shape, device=device, dtype=torch.bfloat16) * 0.02
                if "layernorm" in type(module).__name__.lower() and name == "weight":
                    value += 1
                setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
    model.tie_weights()
    model.is_loaded_in_8bit, model.is_loaded_in_4bit = bits == 8, bits == 4
    model.eval().requires_grad_(False)
    return Base(model, None, size, bits, device, torch.bfloat16, "", "")  # type: ignore[arg-type]


def _quantised(bnb: Any, K: int, N: int, bits: int, device: torch.device) -> Any:
    weight = torch.randn(N, K, dtype=torch.bfloat16, device=device) * 0.02
    if bits == 8:
        linear = bnb.nn.Linear8bitLt(K, N, has_fp16_weights=False, device="meta")
        codes, scale, _ = bnb.functional.int8_vectorwise_quant(weight.half())
        linear.weight = bnb.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scale)
    else:
        linear = bnb.nn.Linear4bit(K, N, quant_type="nf4", compute_dtype=torch.bfloat16, device="meta")
        packed, state = bnb.functional.quantize_4bit(weight, quant_type="nf4", blocksize=64, compress_statistics=True)
        linear.weight = bnb.nn.Params4bit(
            packed, requires_grad=False, quant_state=state, quant_type="nf4", bnb_quantized=True, module=linear
        )
        linear.quant_state = state
    linear.bias = torch.nn.Parameter(torch.zeros(N, dtype=torch.bfloat16, device=device), requires_grad=False)
    return linear
