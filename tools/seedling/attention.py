"""Attention for one new token a row: the fast kernel and its plain twin, with one signature.

Every row is at its own position. Row `b` holds keys and values of positions `0 .. position_B[b] - 1` in the cache; both
functions write the new key and value at `position_B[b]` and return the mix over all `position_B[b] + 1` of them.
Several query heads share a key head (grouped queries), so the kernel reads each key once for all queries of its group
and stops at the row's own position: the padded rest of the cache costs nothing. The new key never goes through memory:
it opens the running softmax.

The first `shared_1` positions are the same in every row (what all requests begin with, ten times as long as what follows).
A first kernel mixes them for all rows at once, out of row 0, as a matrix product; the second goes on from there (Juravsky
et al. 2024, arXiv:2402.05099).

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
    keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor, position_B: torch.Tensor, shared_1: torch.Tensor,
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
    def _shared_kernel(
        query, keys, values, shared, mix, top, total, L, scale, queries,
        K: tl.constexpr, G: tl.constexpr, E: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        k = tl.program_id(1)
        r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # a query of this key head: row * G + g
        e = tl.arange(0, E)
        at = (r // G * K + k) * G + r % G
        real = r < queries
        query_re = tl.load(query + at[:, None] * E + e[None, :], mask=real[:, None], other=0.0)
        length = tl.load(shared)
        top_r = tl.full((ROWS,), -1e30, tl.float32)
        total_r = tl.zeros((ROWS,), tl.float32)
        mix_re = tl.zeros((ROWS, E), tl.float32)
        for start in range(0, length, BLOCK):
            n = start + tl.arange(0, BLOCK)
            known = n < length
            block_ne = (k * L + n[:, None]) * E + e[None, :]
            keys_ne = tl.load(keys + block_ne, mask=known[:, None], other=0.0)
            values_ne = tl.load(values + block_ne, mask=known[:, None], other=0.0)
            scores_rn = tl.where(known[None, :], tl.dot(query_re, tl.trans(keys_ne)) * scale, float("-inf"))
            new_top_r = tl.maximum(top_r, tl.max(scores_rn, 1))
            weights_rn = tl.exp(scores_rn - new_top_r[:, None])
            shrink_r = tl.exp(top_r - new_top_r)
            total_r = total_r * shrink_r + tl.sum(weights_rn, 1)
            mix_re = mix_re * shrink_r[:, None] + tl.dot(weights_rn.to(values_ne.dtype), values_ne)
            top_r = new_top_r
        tl.store(mix + at[:, None] * E + e[None, :], mix_re, mask=real[:, None])
        tl.store(top + at, top_r, mask=real)
        tl.store(total + at, total_r, mask=real)

    @triton.jit
    def _attend_kernel(
        query, key, value, keys, values, position, shared, mix, top, total, out, L, scale,
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

        where_ge = (pair * G + g[:, None]) * E + e[None, :]
        shared_top_g = tl.load(top + pair * G + g, mask=g < G, other=0.0)
        own_g = tl.sum(query_ge.to(tl.float32) * key_e[None, :].to(tl.float32), 1) * scale
        top_g = tl.maximum(shared_top_g, own_g)
        own_g = tl.exp(own_g - top_g)
        shrink_g = tl.exp(shared_top_g - top_g)
        total_g = tl.load(total + pair * G + g, mask=g < G, other=0.0) * shrink_g + own_g
        mix_ge = tl.load(mix + where_ge, mask=g[:, None] < G, other=0.0) * shrink_g[:, None]
        mix_ge += own_g[:, None] * value_e[None, :].to(tl.float32)
        for start in range(tl.load(shared), here, BLOCK):
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
        tl.store(out + where_ge, (mix_ge / total_g[:, None]).to(out.dtype.element_ty), mask=g[:, None] < G)


def attend_fast(
    query_BHE: torch.Tensor, key_BKE: torch.Tensor, value_BKE: torch.Tensor,
    keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor, position_B: torch.Tensor, shared_1: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """The same by two kernels. All tensors contiguous; E a power of two; no row stands before `shared_1` (int64)."""
    B, H, E = query_BHE.shape
    K, L = keys_BKLE.shape[1:3]
    mix_BHE = torch.empty(B, H, E, dtype=torch.float32, device=query_BHE.device)
    top_BH, total_BH = (torch.empty(B, H, dtype=torch.float32, device=query_BHE.device) for _ in range(2))
    queries, rows = B * (H // K), 64
    _shared_kernel[((queries + rows - 1) // rows, K)](
        query_BHE, keys_BKLE, values_BKLE, shared_1, mix_BHE, top_BH, total_BH, L, E**-0.5, queries,
        K=K, G=H // K, E=E, ROWS=rows, BLOCK=64, num_warps=4,
    )  # fmt: skip
    out_BHE = torch.empty_like(query_BHE)
    _attend_kernel[(B * K,)](
        query_BHE, key_BKE, value_BKE, keys_BKLE, values_BKLE, position_B, shared_1, mix_BHE, top_BH, total_BH, out_BHE,
        L, E**-0.5, K=K, G=H // K, G_PAD=16, E=E, BLOCK=32, num_warps=4,
    )  # fmt: skip
    return out_BHE
