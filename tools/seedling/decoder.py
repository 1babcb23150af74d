"""Many answers at once from a Llama or a Qwen2: our own decoder with a static cache, one CUDA graph a step.

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

The teacher may be held to a part of its vocabulary (`kept_V`): three quarters of a code model's tokens are no English,
and choosing among 28,000 instead of 152,000 is most of what a step spends outside its matrices. Inside, tokens have
the numbers of that part.

Each answer comes with what the teacher thought of it: the mean log-probability of its tokens, at temperature 1, and the
lead of one token over another (`lead`, "Yes" over "No") where its last token was chosen: a verdict, if that was asked;
with `keeps_states` also the hidden state that the last token was chosen from.

    B slots   L cache length   D hidden size   V kept vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from .attention import attend_fast, attend_plain
from .teacher_block import after_attention, before_attention, block_weights, rms_norm

STEPS_BETWEEN_LOOKS = 8


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


@dataclass(frozen=True)
class Answer:
    index: int  # of the request
    token_ids: list[int]  # without the stop token; with the line break that ended it: it may hold the full stop
    stopped: bool  # by itself
    likelihood: float  # mean log-probability a token, nats
    lead: float  # logit of the first of `lead` minus that of the second, at the last token
    state_D: torch.Tensor | None = None  # float16, on the CPU; after the last norm


def choose(logits_BV: torch.Tensor, seen_BV: torch.Tensor, noise_BV: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """One token a slot. `noise_BV` holds draws from Exp(1): argmax(log p - log noise) is a draw from p."""
    scores_BV = logits_BV.float() - sampling.presence * seen_BV
    if sampling.temperature == 0:
        return scores_BV.argmax(-1)
    scores_BV = scores_BV / sampling.temperature
    floor_B1 = scores_BV.amax(-1, keepdim=True) + math.log(sampling.min_p)
    return torch.where(scores_BV >= floor_B1, scores_BV - noise_BV.log(), float("-inf")).argmax(-1)


def log_probability(logits_BV: torch.Tensor, token_B: torch.Tensor) -> torch.Tensor:
    """Of the token chosen in each slot, at temperature 1 and without any penalty."""
    wide_BV = logits_BV.float()
    return wide_BV.gather(1, token_B[:, None])[:, 0] - wide_BV.logsumexp(-1)


class Decoder:
    """Answers requests in bulk with a `LlamaForCausalLM` or `Qwen2ForCausalLM` (weights are shared with it, in its dtype
    and on its device). `stop_V`, `line_break_V` and `kept_V` are marks over the model's whole vocabulary; `lead` are two
    tokens of it. A request may hold kept tokens only."""

    def __init__(
        self, model: Any, slots: int, length: int, sampling: Sampling, stop_V: torch.Tensor, line_break_V: torch.Tensor,
        kept_V: torch.Tensor | None = None, lead: tuple[int, int] = (0, 0),
    ) -> None:  # fmt: skip
        config, self.sampling = model.config, sampling
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.eps = config.rms_norm_eps
        embedding_VD = model.model.embed_tokens.weight.detach()
        self.device, dtype = embedding_VD.device, embedding_VD.dtype
        kept = torch.arange(len(embedding_VD)) if kept_V is None else kept_V.nonzero()[:, 0]
        self.outer, self.inner = kept.tolist(), {outer: inner for inner, outer in enumerate(kept.tolist())}
        E, V = model.model.layers[0].self_attn.head_dim, len(kept)
        self.embedding_VD = embedding_VD[kept.to(self.device)]
        self.head_VD = model.lm_head.weight.detach()[kept.to(self.device)]
        self.lead = (self.inner[lead[0]], self.inner[lead[1]])
        self.norm_D = model.model.norm.weight.detach()
        self.layers = [block_weights(layer) for layer in model.model.layers]
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
        self.likelihood_B, self.lead_B = (new(slots, dtype=torch.float32) for _ in range(2))
        self.state_BD, self.keeps_states = new(slots, len(self.norm_D), dtype=dtype), False
        self.one_line_B, self.done_B = new(slots, dtype=torch.bool), new(slots, dtype=torch.bool)
        self.seen_BV, self.noise_BV = new(slots, V, dtype=torch.bool), new(slots, V, dtype=torch.float32)
        self.stop_V, self.line_break_V = stop_V[kept].to(self.device), line_break_V[kept].to(self.device)
        self.stops, self.line_breaks = self.stop_V.tolist(), self.line_break_V.tolist()
        self.slots, self.length, self.shared, self.steps = slots, length, 0, 0
        self.shared_1 = new(1, dtype=torch.int64)  # what `attend_fast` may take from row 0
        on_gpu = self.device.type == "cuda"
        ready = torch.compile if on_gpu else lambda function: function
        self._before, self._after, self._choose = ready(before_attention), ready(after_attention), ready(choose)
        self._log_probability = ready(log_probability)
        self._attend = attend_fast if on_gpu else attend_plain
        self.done_B.fill_(True)
        self._step = self._record() if on_gpu else self._step_once

    @torch.no_grad()
    def _step_once(self) -> None:
        token_B = self.tokens_BL.gather(1, self.position_B[:, None])[:, 0]
        hidden_BD = self.embedding_VD[token_B]
        cos_BE, sin_BE = self.cos_LE[self.position_B], self.sin_LE[self.position_B]
        for weights, (keys, values) in zip(self.layers, self.cache, strict=True):
            query, key, value = self._before(
                hidden_BD, weights["norm"], weights["qkv"], weights["qkv_bias"], cos_BE, sin_BE,
                self.heads, self.key_heads, self.eps,
            )  # fmt: skip
            mix_BD = self._attend(query, key, value, keys, values, self.position_B, self.shared_1).flatten(1)
            hidden_BD = self._after(
                hidden_BD, mix_BD, weights["output"], weights["norm_mlp"], weights["gate_up"], weights["down"], self.eps
            )
        hidden_BD = rms_norm(hidden_BD, self.norm_D, self.eps)
        logits_BV = F.linear(hidden_BD, self.head_VD)
        self.noise_BV.exponential_()
        chosen_B = self._choose(logits_BV, self.seen_BV, self.noise_BV, self.sampling)
        lead_B = (logits_BV[:, self.lead[0]] - logits_BV[:, self.lead[1]]).float()
        self._advance(chosen_B, self._log_probability(logits_BV, chosen_B), lead_B, hidden_BD)

    def _advance(
        self, chosen_B: torch.Tensor, likelihood_B: torch.Tensor, lead_B: torch.Tensor, hidden_BD: torch.Tensor
    ) -> None:
        """Write the next token of each slot and move on; a finished slot stands still until it is refilled."""
        next_B = self.position_B + 1
        given_B, existing_B = next_B < self.request_end_B, self.tokens_BL.gather(1, next_B[:, None])[:, 0]
        token_B = torch.where(given_B | self.done_B, existing_B, chosen_B)
        answering_B = ~given_B & ~self.done_B
        self.likelihood_B.add_(torch.where(answering_B, likelihood_B, 0.0))
        self.lead_B.copy_(torch.where(answering_B, lead_B, self.lead_B))
        self.state_BD.copy_(torch.where(answering_B[:, None], hidden_BD, self.state_BD))
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
        self.tokens_BL[:, : self.shared] = torch.tensor([self.inner[i] for i in shared_ids], device=self.device)
        self.position_B.fill_(0)
        self.shared_1.fill_(0)
        self.request_end_B.fill_(self.length)  # every token is given
        self.done_B.fill_(False)
        for _ in range(self.shared):
            self._step()
        self.done_B.fill_(True)
        self.shared_1.fill_(self.shared)

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
        inner = [[self.inner[i] for i in r.token_ids] for r in requests]
        padded = torch.tensor([ids + [0] * (width - len(ids)) for ids in inner], dtype=torch.int64)
        ends = torch.tensor([self.shared + len(r.token_ids) for r in requests])
        limits = torch.tensor([min(self.length, self.shared + len(r.token_ids) + r.max_new) for r in requests])
        self.tokens_BL[rows, self.shared :] = padded.to(self.device)
        self.request_end_B[rows], self.limit_B[rows] = ends.to(self.device), limits.to(self.device)
        self.one_line_B[rows] = torch.tensor([r.one_line for r in requests], device=self.device)
        self.position_B[rows] = self.shared
        self.seen_BV[rows], self.done_B[rows], self.likelihood_B[rows] = False, False, 0.0

    def answers(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """The answers as they finish."""
        waiting = iter(range(len(requests)))
        in_slot: dict[int, int] = {}
        self.done_B.fill_(True)
        while True:
            done = self.done_B.tolist()
            finished = [slot for slot in in_slot if done[slot]]
            yield from self._read(finished, [in_slot.pop(slot) for slot in finished], requests)
            free = [slot for slot in range(self.slots) if slot not in in_slot]
            pairs = list(zip(free, waiting))  # noqa: B905  (zip takes a slot first, so no request is lost)
            if pairs:
                self._refill([slot for slot, _ in pairs], [requests[index] for _, index in pairs])
                in_slot.update(pairs)
            if not in_slot:
                return
            for _ in range(STEPS_BETWEEN_LOOKS):
                self._step()
            self.steps += STEPS_BETWEEN_LOOKS

    def _read(self, slots: list[int], indices: list[int], requests: Sequence[Request]) -> Iterator[Answer]:
        """What stands in these finished slots."""
        if not slots:
            return
        rows = torch.tensor(slots, device=self.device)
        columns = (self.tokens_BL, self.position_B, self.likelihood_B, self.lead_B)
        states = self.state_BD[rows].half().cpu() if self.keeps_states else [None] * len(slots)
        for index, tokens, position, likelihood, lead, state_D in zip(
            indices, *(c[rows].tolist() for c in columns), states, strict=True
        ):
            last = position + 1  # the slot stood still before its last token
            stopped = self.stops[tokens[last]] or (requests[index].one_line and self.line_breaks[tokens[last]])
            first = self.shared + requests[index].answer_start
            chosen = last + 1 - self.shared - len(requests[index].token_ids)  # the opening was given, not chosen
            ids = [self.outer[i] for i in tokens[first : last if self.stops[tokens[last]] else last + 1]]
            yield Answer(index, ids, stopped, likelihood / chosen, lead, state_D)
