"""From prompts to tokens, a batch at a time: read the prompts at once, then write a token a row, with what was read
kept.

`PackedDecoder` calls the modules of a family that packs, as training does (`packed_forward.py`), with a static cache of
keys and values. Rows of different length lie in one batch without padding errors, since each has its own positions: row
b's next token goes to its own place, and its attention ends there. `StockDecoder` gives any other family's own forward
the same three methods. On CUDA BLOOM has `fast/decoding/decoder.py`, which `scheduler.py` drives.

    scores_BV = decoder.read(prompts)        the scores of the first new token of each prompt
    scores_BV = decoder.write(tokens_B)      and of the next
    decoder.keep(rows)                       drops the rows that are done
    decoder.join(other)                      takes the rows of another in, behind its own; False where it cannot

Shapes: B rows, S places in the cache, H heads, D head dimension, W width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, Self, cast

import torch
import torch.nn.functional as F
from transformers.cache_utils import Cache, DynamicLayer, LinearAttentionCacheLayerMixin

from florilegium import reference
from florilegium.errors import DivergedError
from florilegium.generation.request import Request, TokenEvent
from florilegium.generation.sampling import next_tokens, uniform_draws
from florilegium.model import LoadedModel
from florilegium.model.families import head_weight, packs

HEAD_COPY_BYTES = 2 * 2**30


class BatchDecoder(Protocol):
    def read(self, prompts: Sequence[Sequence[int]], room: int) -> torch.Tensor: ...
    def write(self, tokens_B: torch.Tensor) -> torch.Tensor: ...
    def keep(self, rows: torch.Tensor) -> None: ...
    def join(self, other: Self) -> bool: ...


def broken_scores() -> DivergedError:
    return DivergedError(
        "the model produced NaN or infinite logits",
        "The files of the base model or of the adapter are probably damaged: download or train them again",
    )


@torch.inference_mode()
def write_batch(decoder: BatchDecoder, requests: Sequence[Request], eos: int) -> Generator[TokenEvent]:
    """Writes on after each prompt until end-of-text or `max_new_tokens`. The requests share their settings but for the
    number. Nothing is computed before it is asked for: closing the iterator stops at once. Raises DivergedError for
    scores that are no numbers."""
    settings = requests[0].settings
    prompts = [request.token_ids for request in requests]
    scores_BV = decoder.read(prompts, settings.max_new_tokens)
    if not bool(torch.isfinite(scores_BV.amax(-1)).all()):
        raise broken_scores()
    device = scores_BV.device
    seen_BV = torch.zeros_like(scores_BV, dtype=torch.bool)
    for b, prompt in enumerate(prompts):
        seen_BV[b, torch.tensor(list(prompt), device=device)] = True
    chance_BN = torch.stack([uniform_draws(settings, request.number) for request in requests])
    alive = list(range(len(prompts)))
    for step in range(settings.max_new_tokens):
        tokens_B = next_tokens(scores_BV, seen_BV, chance_BN[alive, step + 1], settings)
        last = step + 1 == settings.max_new_tokens
        tokens = tokens_B.tolist()
        stays = [place for place, token in enumerate(tokens) if token != eos]
        for row, token in zip(alive, tokens, strict=True):
            yield TokenEvent(row, None if token == eos else token, last or token == eos)
        if not stays or last:
            return
        seen_BV.scatter_(1, tokens_B[:, None], True)
        if len(stays) < len(alive):
            kept = torch.tensor(stays, device=device)
            decoder.keep(kept)
            seen_BV, tokens_B = seen_BV[kept], tokens_B[kept]
            alive = [alive[place] for place in stays]
        scores_BV = decoder.write(tokens_B)


class PackedDecoder:
    """A static cache around the model's own modules, for a family that packs."""

    def __init__(self, loaded: LoadedModel) -> None:
        assert packs(loaded.family)
        self.model, self.family = loaded.model, loaded.family
        self.dtype, self.device = loaded.base.compute_dtype, loaded.base.device
        self.slopes_H = self.family.alibi_slopes(self.model, self.device)
        head = head_weight(self.model).detach()
        # In float32 scores of a batch and of a single row agree to rounding; in bfloat16 thousands of tokens would tie.
        small = head.numel() * 4 <= HEAD_COPY_BYTES
        self.head_VW = head.float() if self.dtype == torch.float32 and small else head

    def read(self, prompts: Sequence[Sequence[int]], room: int) -> torch.Tensor:
        B, longest = len(prompts), max(len(p) for p in prompts)
        self.length_B = torch.tensor([len(p) for p in prompts], device=self.device)
        tokens_BT = torch.zeros(B, longest, dtype=torch.int64)
        for b, prompt in enumerate(prompts):
            tokens_BT[b, : len(prompt)] = torch.tensor(list(prompt))
        index_T = torch.arange(longest, device=self.device)
        document_BT = torch.where(index_T[None] < self.length_B[:, None], 0, -1)
        attend = reference.sdpa_attention(document_BT, self.slopes_H, self.dtype)
        config, heads = self.model.config, len(self.slopes_H)
        shape = (2, config.num_hidden_layers, B, heads, longest + room, config.hidden_size // heads)
        self.cache = torch.zeros(shape, dtype=self.dtype, device=self.device)

        def keeping(layer: int) -> reference.Attend:
            def attend_and_keep(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
                self.cache[0, layer, :, :, :longest] = key
                self.cache[1, layer, :, :, :longest] = value
                return attend(query, key, value)

            return attend_and_keep

        hidden_BTW = self._run_blocks(tokens_BT.to(self.device), keeping)
        last_BW = hidden_BTW[torch.arange(B, device=self.device), self.length_B - 1]
        return self._scores(last_BW)

    def write(self, tokens_B: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(len(tokens_B), device=self.device)
        place_B = self.length_B
        until = int(place_B.max()) + 1
        distance_BS = torch.arange(until, device=self.device)[None] - place_B[:, None]
        bias_BH1S = (self.slopes_H[:, None, None] * distance_BS[:, None, None]).masked_fill(
            distance_BS[:, None, None] > 0, -math.inf
        )
        bias_BH1S = bias_BH1S.to(self.dtype)

        def keeping(layer: int) -> reference.Attend:
            def attend_and_keep(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
                self.cache[0, layer, rows, :, place_B] = key[:, :, 0]
                self.cache[1, layer, rows, :, place_B] = value[:, :, 0]
                keys, values = self.cache[0, layer, :, :, :until], self.cache[1, layer, :, :, :until]
                return F.scaled_dot_product_attention(query, keys, values, attn_mask=bias_BH1S)

            return attend_and_keep

        hidden_B1W = self._run_blocks(tokens_B[:, None], keeping)
        self.length_B = place_B + 1
        return self._scores(hidden_B1W[:, 0])

    def keep(self, rows: torch.Tensor) -> None:
        self.cache, self.length_B = self.cache[:, :, rows], self.length_B[rows]

    def join(self, other: PackedDecoder) -> bool:
        places = max(self.cache.shape[4], other.cache.shape[4])
        # Places beyond a row's end are hidden from it, so what fills them does not matter.
        caches = [F.pad(one.cache, (0, 0, 0, places - one.cache.shape[4])) for one in (self, other)]
        self.cache = torch.cat(caches, 2)
        self.length_B = torch.cat([self.length_B, other.length_B])
        return True

    def _run_blocks(self, tokens_BT: torch.Tensor, attention: Callable[[int], reference.Attend]) -> torch.Tensor:
        # as in training: float16 is too short for a residual stream
        residual = torch.float32 if self.dtype == torch.float16 else self.dtype
        hidden_BTW = self.family.embed(self.model, tokens_BT, residual)
        for number, block in enumerate(self.family.blocks(self.model)):
            hidden_BTW = self.family.apply_block(block, hidden_BTW, attention(number), self.dtype)
        return self.family.final_norm(self.model, hidden_BTW).to(self.dtype)

    def _scores(self, hidden_BW: torch.Tensor) -> torch.Tensor:
        if self.head_VW.dtype == hidden_BW.dtype:
            return F.linear(hidden_BW, self.head_VW).float()
        starts = range(0, len(self.head_VW), 32_768)
        parts = [F.linear(hidden_BW, self.head_VW[i : i + 32_768].to(hidden_BW.dtype)) for i in starts]
        return torch.cat(parts, -1).float()


class StockDecoder:
    """Any causal LM of Transformers, left-padded, with its own growing cache."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.model, self.device = loaded.model, loaded.base.device

    def read(self, prompts: Sequence[Sequence[int]], room: int) -> torch.Tensor:
        longest = max(len(p) for p in prompts)
        tokens_BT = torch.zeros(len(prompts), longest, dtype=torch.int64)
        self.mask_BT = torch.zeros_like(tokens_BT)
        for b, prompt in enumerate(prompts):
            tokens_BT[b, longest - len(prompt) :] = torch.tensor(list(prompt))
            self.mask_BT[b, longest - len(prompt) :] = 1
        self.mask_BT = self.mask_BT.to(self.device)
        self.cache: Any = None
        return self._forward(tokens_BT.to(self.device))

    def write(self, tokens_B: torch.Tensor) -> torch.Tensor:
        self.mask_BT = F.pad(self.mask_BT, (0, 1), value=1)
        return self._forward(tokens_B[:, None])

    def keep(self, rows: torch.Tensor) -> None:
        self.mask_BT = self.mask_BT[rows]
        _keep_rows(self.cache, rows)

    def join(self, other: StockDecoder) -> bool:
        both = (self, other)
        if not all(type(layer) is DynamicLayer for one in both for layer in one.cache.layers):
            return False  # a sliding window or a recurrent state: its places are not those of the mask
        # Rows end together at the right. Columns that no row uses go, or those of texts long gone would stay.
        longest = max(int(one.mask_BT.sum(-1).max()) for one in both)
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            mine.keys = torch.cat([_last(mine.keys, longest), _last(theirs.keys, longest)])
            mine.values = torch.cat([_last(mine.values, longest), _last(theirs.values, longest)])
        masks = [_last(one.mask_BT[:, None, :, None], longest)[:, 0, :, 0] for one in both]
        self.mask_BT = torch.cat(masks)
        return True

    def _forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        position_BT = (self.mask_BT.cumsum(-1) - 1).clamp(min=0)[:, -tokens_BT.shape[1] :]
        out = self.model(
            input_ids=tokens_BT,
            attention_mask=self.mask_BT,
            position_ids=position_BT,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = out.past_key_values
        scores_BV: torch.Tensor = out.logits[:, -1].float()
        return scores_BV


def _keep_rows(cache: Cache, rows: torch.Tensor) -> None:
    """Layers with a state (convolutions, linear attention) choose rows by `reorder_cache` alone."""
    if type(cache).batch_select_indices is not Cache.batch_select_indices:
        cache.batch_select_indices(rows)
        return
    for layer in cache.layers:
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            layer.reorder_cache(cast("torch.LongTensor", rows))
        else:
            layer.batch_select_indices(rows)  # type: ignore[union-attr]  # every other layer of a growing cache has it


def _last(x_BHSD: torch.Tensor, places: int) -> torch.Tensor:
    """The last `places` of S; where there are fewer, zeros in front."""
    has = x_BHSD.shape[2]
    return x_BHSD[:, :, has - places :] if has >= places else F.pad(x_BHSD, (0, 0, places - has, 0))
