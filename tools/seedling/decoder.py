"""Many answers at once from a Llama: our own decoder with a static cache, one CUDA graph a step.

The batch has B slots. Each slot holds one request and stands at its own position; a finished slot is given the next
request while the others go on, so the batch stays full. A step takes the token at each slot's position, runs the model,
and writes the next token: the request's own next token while the slot is still inside it (so there is no separate
prefill), a sampled one after that.

All requests begin with the same words (the system message). Their keys and values are computed once, in every slot, and
a refilled slot starts behind them.

Everything lives at fixed addresses on the GPU, so a step is recorded once as a CUDA graph and replayed; the CPU looks
in only every `STEPS_BETWEEN_LOOKS` steps. Sampling is by min-p (Nguyen et al. 2024, arXiv:2407.01082): tokens less
probable than `min_p` times the most probable one are dropped, then one exponential draw a token decides (the Gumbel
trick). A token that the answer already holds loses `presence` from its logit, which keeps a small teacher from going
round in circles.

    B slots   L cache length   D hidden size   V vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from .attention import attend_fast, attend_plain

STEPS_BETWEEN_LOOKS = 16


@dataclass(frozen=True)
class Request:
    """`token_ids` after the shared beginning; the answer starts at `answer_start` in them (its opening words are
    given)."""

    token_ids: list[int]
    answer_start: int
    max_new: int
    one_line: bool  # stop at the first line break


@dataclass(frozen=True)
class Sampling:
    temperature: float = 0.8  # 0 is greedy
    min_p: float = 0.1
    presence: float = 0.9


def rms_norm(hidden_BD: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    wide_BD = hidden_BD.float()
    return (wide_BD * torch.rsqrt(wide_BD.pow(2).mean(-1, keepdim=True) + eps)).to(hidden_BD.dtype) * weight_D


def rotate(heads_BHE: torch.Tensor, cos_BE: torch.Tensor, sin_BE: torch.Tensor) -> torch.Tensor:
    wide_BHE = heads_BHE.float()
    first, second = wide_BHE.chunk(2, -1)
    turned_BHE = torch.cat((-second, first), -1)
    return (wide_BHE * cos_BE[:, None] + turned_BHE * sin_BE[:, None]).to(heads_BHE.dtype)


def before_attention(
    hidden_BD: torch.Tensor, norm_D: torch.Tensor, qkv: torch.Tensor, cos_BE: torch.Tensor, sin_BE: torch.Tensor,
    heads: int, key_heads: int, eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Query, key and value of the new token, turned to its position."""
    B, E = hidden_BD.shape[0], cos_BE.shape[-1]
    mixed = F.linear(rms_norm(hidden_BD, norm_D, eps), qkv).view(B, heads + 2 * key_heads, E)
    query, key, value = torch.split(mixed, [heads, key_heads, key_heads], 1)
    return rotate(query, cos_BE, sin_BE).contiguous(), rotate(key, cos_BE, sin_BE).contiguous(), value.contiguous()


def after_attention(
    hidden_BD: torch.Tensor, mix_BD: torch.Tensor, output: torch.Tensor, norm_D: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor,
    eps: float,
) -> torch.Tensor:  # fmt: skip
    """The rest of the block."""
    hidden_BD = hidden_BD + F.linear(mix_BD, output)
    gate, up = F.linear(rms_norm(hidden_BD, norm_D, eps), gate_up).chunk(2, -1)
    return hidden_BD + F.linear(F.silu(gate) * up, down)


def choose(logits_BV: torch.Tensor, seen_BV: torch.Tensor, noise_BV: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """One token a slot. `noise_BV` holds draws from Exp(1): argmax(log p - log noise) is a draw from p."""
    scores_BV = logits_BV.float() - sampling.presence * seen_BV
    if sampling.temperature == 0:
        return scores_BV.argmax(-1)
    scores_BV = scores_BV / sampling.temperature
    floor_B1 = scores_BV.amax(-1, keepdim=True) + math.log(sampling.min_p)
    return torch.where(scores_BV >= floor_B1, scores_BV - noise_BV.log(), float("-inf")).argmax(-1)


class Decoder:
    """Answers requests in bulk with a `LlamaForCausalLM` (weights are shared with it, in its dtype and on its
    device)."""

    def __init__(
        self, model: Any, slots: int, length: int, sampling: Sampling, stop_V: torch.Tensor, line_break_V: torch.Tensor
    ) -> None:
        config, self.sampling = model.config, sampling
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.eps = config.rms_norm_eps
        embedding_VD = model.model.embed_tokens.weight.detach()
        self.device, dtype = embedding_VD.device, embedding_VD.dtype
        E, V = model.model.layers[0].self_attn.head_dim, embedding_VD.shape[0]
        self.embedding_VD, self.head_VD = embedding_VD, model.lm_head.weight.detach()
        self.norm_D = model.model.norm.weight.detach()
        self.layers = [self._layer_weights(layer) for layer in model.model.layers]
        with torch.no_grad():
            cos_1LE, sin_1LE = model.model.rotary_emb(
                torch.zeros(1, device=self.device), torch.arange(length, device=self.device)[None]
            )
        self.cos_LE, self.sin_LE = cos_1LE[0].float(), sin_1LE[0].float()

        def new(*shape: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=self.device)

        self.cache = [tuple(new(slots, self.key_heads, length, E, dtype=dtype) for _ in "kv") for _ in self.layers]
        self.tokens_BL = new(slots, length, dtype=torch.int64)
        self.position_B, self.request_end_B, self.limit_B = (new(slots, dtype=torch.int64) for _ in range(3))
        self.one_line_B, self.done_B = new(slots, dtype=torch.bool), new(slots, dtype=torch.bool)
        self.seen_BV, self.noise_BV = new(slots, V, dtype=torch.bool), new(slots, V, dtype=torch.float32)
        self.stops, self.line_breaks = stop_V.tolist(), line_break_V.tolist()
        self.stop_V, self.line_break_V = stop_V.to(self.device), line_break_V.to(self.device)
        self.slots, self.length, self.shared = slots, length, 0
        on_gpu = self.device.type == "cuda"
        ready = torch.compile if on_gpu else lambda function: function
        self._before, self._after, self._choose = ready(before_attention), ready(after_attention), ready(choose)
        self._attend = attend_fast if on_gpu else attend_plain
        self.done_B.fill_(True)
        self._step = self._record() if on_gpu else self._step_once

    @staticmethod
    def _layer_weights(layer: Any) -> dict[str, torch.Tensor]:
        attention, mlp = layer.self_attn, layer.mlp
        return {
            "norm": layer.input_layernorm.weight.detach(),
            "qkv": torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]).detach(),
            "output": attention.o_proj.weight.detach(),
            "norm_mlp": layer.post_attention_layernorm.weight.detach(),
            "gate_up": torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).detach(),
            "down": mlp.down_proj.weight.detach(),
        }

    @torch.no_grad()
    def _step_once(self) -> None:
        token_B = self.tokens_BL.gather(1, self.position_B[:, None])[:, 0]
        hidden_BD = self.embedding_VD[token_B]
        cos_BE, sin_BE = self.cos_LE[self.position_B], self.sin_LE[self.position_B]
        for weights, (keys, values) in zip(self.layers, self.cache, strict=True):
            query, key, value = self._before(
                hidden_BD, weights["norm"], weights["qkv"], cos_BE, sin_BE, self.heads, self.key_heads, self.eps
            )
            mix_BD = self._attend(query, key, value, keys, values, self.position_B).flatten(1)
            hidden_BD = self._after(
                hidden_BD, mix_BD, weights["output"], weights["norm_mlp"], weights["gate_up"], weights["down"], self.eps
            )
        logits_BV = F.linear(rms_norm(hidden_BD, self.norm_D, self.eps), self.head_VD)
        self.noise_BV.exponential_()
        self._advance(self._choose(logits_BV, self.seen_BV, self.noise_BV, self.sampling))

    def _advance(self, chosen_B: torch.Tensor) -> None:
        """Write the next token of each slot and move on; a finished slot stands still until it is refilled."""
        next_B = self.position_B + 1
        given_B, existing_B = next_B < self.request_end_B, self.tokens_BL.gather(1, next_B[:, None])[:, 0]
        token_B = torch.where(given_B | self.done_B, existing_B, chosen_B)
        answering_B = ~given_B & ~self.done_B
        self.tokens_BL.scatter_(1, next_B[:, None], token_B[:, None])
        was_seen_B = self.seen_BV.gather(1, token_B[:, None])[:, 0]
        self.seen_BV.scatter_(1, token_B[:, None], (was_seen_B | answering_B)[:, None])
        ended_B = self.stop_V[token_B] | (self.line_break_V[token_B] & self.one_line_B) | (next_B + 1 >= self.limit_B)
        stop_B = answering_B & ended_B
        self.position_B.copy_(torch.where(stop_B | self.done_B, self.position_B, next_B))
        self.done_B.logical_or_(stop_B)

    def share(self, shared_ids: Sequence[int]) -> None:
        """Compute the beginning that all following requests have in common."""
        self.shared = len(shared_ids)
        self.tokens_BL[:, : self.shared] = torch.tensor(list(shared_ids), device=self.device)
        self.position_B.fill_(0)
        self.request_end_B.fill_(self.length)  # every token is given
        self.done_B.fill_(False)
        for _ in range(self.shared):
            self._step()
        self.done_B.fill_(True)

    def _record(self) -> Callable[[], None]:
        """Record a step as a CUDA graph. The slots are all done here, so the rehearsal changes nothing."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._step_once()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step_once()
        return graph.replay

    def _refill(self, slots: list[int], requests: list[Request]) -> None:
        rows = torch.tensor(slots, device=self.device)
        width = self.length - self.shared
        padded = torch.tensor([r.token_ids + [0] * (width - len(r.token_ids)) for r in requests], dtype=torch.int64)
        ends = torch.tensor([self.shared + len(r.token_ids) for r in requests])
        limits = torch.tensor([min(self.length, self.shared + len(r.token_ids) + r.max_new) for r in requests])
        self.tokens_BL[rows, self.shared :] = padded.to(self.device)
        self.request_end_B[rows], self.limit_B[rows] = ends.to(self.device), limits.to(self.device)
        self.one_line_B[rows] = torch.tensor([r.one_line for r in requests], device=self.device)
        self.position_B[rows] = self.shared
        self.seen_BV[rows], self.done_B[rows] = False, False

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, list[int], bool]]:
        """Yield `(index of the request, ids of the answer without its stop token, stopped by itself)` as they
        finish."""
        waiting = iter(range(len(requests)))
        in_slot: dict[int, int] = {}
        self.done_B.fill_(True)
        while True:
            done, position = self.done_B.tolist(), self.position_B.tolist()
            finished = [slot for slot in in_slot if done[slot]]
            for slot, tokens in zip(finished, self.tokens_BL[finished].tolist() if finished else [], strict=True):
                index = in_slot.pop(slot)
                last = position[slot] + 1  # the slot stood still before its last token
                stopped = self.stops[tokens[last]] or (requests[index].one_line and self.line_breaks[tokens[last]])
                answer_start = self.shared + requests[index].answer_start
                yield index, tokens[answer_start : last if stopped else last + 1], stopped
            free = [slot for slot in range(self.slots) if slot not in in_slot]
            pairs = list(zip(free, waiting))  # noqa: B905  (zip takes a slot first, so no request is lost)
            if pairs:
                self._refill([slot for slot, _ in pairs], [requests[index] for _, index in pairs])
                in_slot.update(pairs)
            if not in_slot:
                return
            for _ in range(STEPS_BETWEEN_LOOKS):
                self._step()
