"""A Qwen2 teacher out of its GGUF file, dequantised where it will run.

Transformers reads GGUF too, one tensor at a time in NumPy: a minute and more for 1.5 billion parameters. Here the packed
bytes go to the device as they are and are unpacked there, in the layouts of llama.cpp's `ggml-quants.c`:

    Q4_K   256 weights in 144 bytes: d, dmin (float16), eight 6-bit scales and minima (12 bytes), 128 bytes of nibbles
           weight = d * scale * nibble - dmin * minimum
    Q6_K   256 weights in 210 bytes: low nibbles (128), upper two bits (64), sixteen int8 scales, d (float16)
           weight = d * scale * (six bits - 32)

Qwen2.5-Coder-1.5B ties its head to its embedding; a file that holds both is read from the finer one, the head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

LAYER_NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip


def _halves(packed_N2: torch.Tensor) -> torch.Tensor:
    """float16 numbers out of their bytes, `[N, 1]` float32."""
    return packed_N2.contiguous().view(torch.float16).float()


def unpack_q4_k(packed_NB: torch.Tensor) -> torch.Tensor:
    """`[N, 144]` bytes to `[N, 256]` float32."""
    d, dmin, packed, nibbles = torch.split(packed_NB, [2, 2, 12, 128], 1)
    low, middle, high = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scale = torch.cat([low & 63, (high & 15) | ((low >> 6) << 4)], 1).float()
    minimum = torch.cat([middle & 63, (high >> 4) | ((middle >> 6) << 4)], 1).float()
    four = nibbles.view(-1, 4, 1, 32)  # 64 weights in 32 bytes: the first 32 in the low halves
    codes = torch.cat([four & 15, four >> 4], 2).view(-1, 8, 32).float()
    return ((_halves(d) * scale)[:, :, None] * codes - (_halves(dmin) * minimum)[:, :, None]).flatten(1)


def unpack_q6_k(packed_NB: torch.Tensor) -> torch.Tensor:
    """`[N, 210]` bytes to `[N, 256]` float32."""
    low, high, scales, d = torch.split(packed_NB, [128, 64, 16, 2], 1)
    low = low.view(-1, 2, 1, 64)
    nibbles = torch.cat([low & 15, low >> 4], 2).view(-1, 2, 4, 32)
    upper = torch.stack([(high.view(-1, 2, 32) >> shift) & 3 for shift in (0, 2, 4, 6)], 2)
    codes = (nibbles | (upper << 4)).view(-1, 16, 16).float() - 32.0
    return (codes * (_halves(d) * scales.contiguous().view(torch.int8).float())[:, :, None]).flatten(1)


def unpack(tensor: Any, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """One tensor of a GGUF file, rows first."""
    from gguf import GGMLQuantizationType as Kind
    from gguf import dequantize

    ways = {Kind.Q4_K: (unpack_q4_k, 144), Kind.Q6_K: (unpack_q6_k, 210)}
    shape = [int(size) for size in tensor.shape[::-1]]
    if tensor.tensor_type in ways:
        way, block = ways[tensor.tensor_type]
        packed = torch.tensor(tensor.data, device=device).view(-1, block)
        pieces = [way(piece).to(dtype) for piece in torch.split(packed, 1 << 18)]  # the float32 between stays small
        return torch.cat(pieces).view(shape)
    return torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).view(shape).to(device, dtype)


def name_in_model(name: str) -> str:
    if name == "output_norm.weight":
        return "model.norm.weight"
    if not name.startswith("blk."):
        return "lm_head.weight" if name == "output.weight" else "model.embed_tokens.weight"
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.{kind}"


def config_of(fields: Any) -> Any:
    from transformers import Qwen2Config

    def read(name: str) -> Any:
        return fields[f"qwen2.{name}"].contents()

    return Qwen2Config(
        vocab_size=len(fields["tokenizer.ggml.tokens"].data), hidden_size=read("embedding_length"),
        intermediate_size=read("feed_forward_length"), num_hidden_layers=read("block_count"),
        num_attention_heads=read("attention.head_count"), num_key_value_heads=read("attention.head_count_kv"),
        rms_norm_eps=read("attention.layer_norm_rms_epsilon"), max_position_embeddings=read("context_length"),
        rope_parameters={"rope_type": "default", "rope_theta": read("rope.freq_base")}, tie_word_embeddings=True,
    )  # fmt: skip


def load_qwen2(path: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """A `Qwen2ForCausalLM` with its head tied, in `dtype` on `device`."""
    from gguf import GGUFReader
    from transformers import Qwen2ForCausalLM

    reader = GGUFReader(path)
    config = config_of(reader.fields)
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    weights = {name_in_model(t.name): unpack(t, device, dtype) for t in reader.tensors}
    head = weights.pop("lm_head.weight", None)
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"] if head is None else head
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)  # its buffer is computed, not stored
    return model.eval()
