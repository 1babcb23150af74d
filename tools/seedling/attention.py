"""Attention for one new token a row: the fast kernel and its plain twin, with one signature.

Every row is at its own position. Row `b` holds keys and values of positions `0 .. position_B[b] - 1` in the cache; both
functions write the new key and value at `position_B[b]` and return the mix over all `position_B[b] + 1` of them.
Several query heads share a key head (grouped queries), so the kernel reads each key once for all queries of its group
and stops at the row's own position: the padded rest of the cache costs nothing. The new key never goes through memory:
it opens the running softmax.

    B rows   H query heads   K key heads   G = H / K   L cache length   E head size
"""

from __future__ import annotations

import torch

try:
    import triton  # type: ignore[import-not-found]
    import triton.language as tl  # type: ignore[import-not-found]
except ImportError:  # a machine without a GPU takes the plain twin
    triton = None


def attend_plain(
    query_BHE: torch.Tensor, key_BKE: torch.Tensor, value_BKE: torch.Tensor,
    keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor, position_B: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """The definition: write the new key and value, mask what lies after each row's position, softmax in fp32."""
    B, H, E = query_BHE.shape
    K, L = keys_BKLE.shape[1:3]
    rows_B = torch.arange(B, device=query_BHE.device)
    keys_BKLE[rows_B, :, position_B] = key_BKE
    values_BKLE[rows_B, :, position_B] = value_BKE
    query_BKGE = query_BHE.view(B, K, H // K, E)
    scores_BKGL = torch.einsum("bkge,bkle->bkgl", query_BKGE, keys_BKLE).float() * E**-0.5
    later_BL = torch.arange(L, device=query_BHE.device) > position_B[:, None]
    weights_BKGL = scores_BKGL.masked_fill(later_BL[:, None, None], float("-inf")).softmax(-1)
    return torch.einsum("bkgl,bkle->bkge", weights_BKGL.to(values_BKLE.dtype), values_BKLE).reshape(B, H, E)


if triton is not None:

    @triton.jit
    def _attend_kernel(
        query, key, value, keys, values, position, out, L, scale,
        K: tl.constexpr, G: tl.constexpr, G_PAD: tl.constexpr, E: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        pair = tl.program_id(0)  # row * K + key head
        here = tl.load(position + pair // K)
        e = tl.arange(0, E)
        g = tl.arange(0, G_PAD)
        query_ge = tl.load(query + (pair * G + g[:, None]) * E + e[None, :], mask=g[:, None] < G, other=0.0)
        key_e = tl.load(key + pair * E + e)
        value_e = tl.load(value + pair * E + e)
        base = pair.to(tl.int64) * L * E
        tl.store(keys + base + here * E + e, key_e)
        tl.store(values + base + here * E + e, value_e)

        top_g = tl.sum(query_ge.to(tl.float32) * key_e[None, :].to(tl.float32), 1) * scale
        total_g = tl.full((G_PAD,), 1.0, tl.float32)
        mix_ge = tl.zeros((G_PAD, E), tl.float32) + value_e[None, :].to(tl.float32)
        for start in range(0, here, BLOCK):
            n = start + tl.arange(0, BLOCK)
            known = n < here
            block_ne = n[:, None] * E + e[None, :]
            keys_ne = tl.load(keys + base + block_ne, mask=known[:, None], other=0.0)
            values_ne = tl.load(values + base + block_ne, mask=known[:, None], other=0.0)
            scores_gn = tl.where(known[None, :], tl.dot(query_ge, tl.trans(keys_ne)) * scale, float("-inf"))
            new_top_g = tl.maximum(top_g, tl.max(scores_gn, 1))
            weights_gn = tl.exp(scores_gn - new_top_g[:, None])
            shrink_g = tl.exp(top_g - new_top_g)
            total_g = total_g * shrink_g + tl.sum(weights_gn, 1)
            mix_ge = mix_ge * shrink_g[:, None] + tl.dot(weights_gn.to(values_ne.dtype), values_ne)
            top_g = new_top_g
        where_ge = (pair * G + g[:, None]) * E + e[None, :]
        tl.store(out + where_ge, (mix_ge / total_g[:, None]).to(out.dtype.element_ty), mask=g[:, None] < G)


def attend_fast(
    query_BHE: torch.Tensor, key_BKE: torch.Tensor, value_BKE: torch.Tensor,
    keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor, position_B: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """The same with one program for each row and key head. All tensors contiguous; E a power of two."""
    B, H, E = query_BHE.shape
    K, L = keys_BKLE.shape[1:3]
    out_BHE = torch.empty_like(query_BHE)
    _attend_kernel[(B * K,)](
        query_BHE, key_BKE, value_BKE, keys_BKLE, values_BKLE, position_B, out_BHE, L, E**-0.5,
        K=K, G=H // K, G_PAD=16, E=E, BLOCK=64, num_warps=4,
    )  # fmt: skip
    return out_BHE
