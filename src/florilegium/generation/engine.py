"""One engine for all that is written in a process: requests come and go while others run, and each step writes one
token of every text under way.

    engine = make_engine(loaded, slots=16, capacity=1024)
    number = engine.add(request)          at any time; engine.cancel(number) as well
    while engine.busy:
        for written in engine.step(): ...

On CUDA BLOOM's engine is the fast decoder's queue (`scheduler.py`), made once. Here is that of the CPU and of other
families: new prompts are read as a batch of their own, which then joins the batch under way. A text depends on its
prompt, its adapter, its settings and its number alone, not on what is beside it. An engine belongs to one thread.

Of a model without an adapter the engine takes in those of others over the same weights (`add_adapter`), and texts of all
of them are rows of one batch. Of a model with one it writes with that (number 0) and without, in a batch each."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from florilegium.config import SamplingSettings
from florilegium.generation.decode import BatchDecoder, PackedDecoder, StockDecoder
from florilegium.generation.decoder_room import make_decoder
from florilegium.generation.request import Prompt, Request, TokenEvent, check_fits
from florilegium.generation.sampling import next_tokens_of_rows, uniform_draws
from florilegium.generation.scheduler import ContinuousBatcher
from florilegium.model import LoadedModel, fast_paths
from florilegium.model.row_adapters import RowAdapters
from florilegium.tokens import end_of_text

READ_AT_ONCE = 1024  # tokens of new prompts a step: texts under way wait for them
FAST_READ_ROWS = 256


class Engine(Protocol):
    """What writes. A text is at most `capacity` tokens, prompt and all; `slots` texts run at once, others wait."""

    @property
    def slots(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    @property
    def running(self) -> int: ...
    @property
    def busy(self) -> bool: ...
    def add(self, request: Request) -> int:
        """Queues a request; its number is that of its tokens. Raises UsageError for one that does not fit."""

    def cancel(self, number: int) -> None:
        """No further token of it is written; its slot is free in the next step."""

    def add_adapter(self, loaded: LoadedModel) -> int:
        """The number by which requests ask for that model's adapter; it is not `row_adapters.unsupported`."""

    def remove_adapter(self, number: int) -> None:
        """When no request asks for it any more."""

    def step(self) -> list[TokenEvent]: ...


def decodes_fast(loaded: LoadedModel) -> bool:
    """Whether the fast decoder was selected and can read the model as it is now (an adapter may have been merged or
    changed since)."""
    return "fast-decode" in loaded.kernels and not fast_paths.unsupported("fast-decode", loaded)


def make_engine(loaded: LoadedModel, *, slots: int, capacity: int, places: int = 1) -> Engine:
    """With as many slots as were asked for, of the fast decoder as many of them as find room (`decoder_room.py`); and
    places for so many adapters, or more when they come."""
    if not decodes_fast(loaded):
        return BatchEngine(loaded, slots=slots, capacity=capacity)
    rows, eos = max(slots, FAST_READ_ROWS), end_of_text(loaded.base.tokenizer)
    return ContinuousBatcher(
        make_decoder(loaded, slots=slots, capacity=capacity, max_rows=rows, eos=eos, places=places)
    )


@contextlib.contextmanager
def ready(loaded: LoadedModel) -> Iterator[None]:
    """Inside, the model is as an engine needs it: without dropout, and on the CPU with weights dequantized once, not at
    every token."""
    once = fast_paths.dequantized_once(loaded.model, loaded.base.compute_dtype)
    with loaded.evaluating(), once if loaded.base.device.type == "cpu" else contextlib.nullcontext():
        yield


@dataclass
class _Text:
    """A request under way: its chances, how many tokens were written."""

    number: int
    request: Request
    chance_N: torch.Tensor
    written: int = 0
    ended: bool = False

    @property
    def rules(self) -> SamplingSettings:
        """Its settings but for what is each text's own: texts of the same rules are sampled together."""
        return replace(self.request.settings, seed=0, max_new_tokens=1)


@dataclass
class _Batch:
    """Texts that are decoded together: text i is row i of the scores, of the tokens that were seen, and of the
    decoder's cache. `tokens_B` were chosen and not yet read by the model."""

    decoder: BatchDecoder
    base_alone: bool
    texts: list[_Text]
    scores_BV: torch.Tensor
    seen_BV: torch.Tensor
    tokens_B: torch.Tensor | None = None

    def keep(self, rows: list[int]) -> None:
        kept = torch.tensor(rows, device=self.seen_BV.device)
        self.decoder.keep(kept)
        self.texts = [self.texts[i] for i in rows]
        self.seen_BV = self.seen_BV[kept]
        self.tokens_B = None if self.tokens_B is None else self.tokens_B[kept]

    def join(self, other: _Batch) -> bool:
        if self.base_alone != other.base_alone or not self.decoder.join(other.decoder):
            return False
        self.texts += other.texts
        self.scores_BV = torch.cat([self.scores_BV, other.scores_BV])
        self.seen_BV = torch.cat([self.seen_BV, other.seen_BV])
        return True


class BatchEngine:
    """The engine of plain PyTorch: `decode.py`'s decoders, with rows that come and go."""

    def __init__(self, loaded: LoadedModel, *, slots: int, capacity: int) -> None:
        self.loaded, self.slots, self.capacity = loaded, slots, capacity
        self.eos = end_of_text(loaded.base.tokenizer)
        self.adapters = RowAdapters(loaded.model) if loaded.model is loaded.base.model else None
        self.waiting: deque[tuple[int, Request]] = deque()
        self.batches: list[_Batch] = []
        self.count = 0

    @property
    def running(self) -> int:
        return sum(not text.ended for batch in self.batches for text in batch.texts)

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> int:
        check_fits(request, self.capacity)
        self.waiting.append((self.count, request))
        self.count += 1
        return self.count - 1

    def add_adapter(self, loaded: LoadedModel) -> int:
        assert self.adapters is not None, "the engine's own model has an adapter"
        return self.adapters.add(loaded)

    def remove_adapter(self, number: int) -> None:
        assert self.adapters is not None
        self.adapters.remove(number)

    def cancel(self, number: int) -> None:
        self.waiting = deque(item for item in self.waiting if item[0] != number)
        for batch in self.batches:
            for text in batch.texts:
                text.ended = text.ended or text.number == number

    @torch.inference_mode()
    def step(self) -> list[TokenEvent]:
        """One token of every text under way, and the first of those that find a slot now."""
        for batch in self.batches:
            self._write_on(batch)
        self.batches = [batch for batch in self.batches if batch.texts]
        for base_alone in (False, True):
            new = self._admit(base_alone)
            if new and not any(batch.join(new) for batch in self.batches):
                self.batches.append(new)
        return [written for batch in self.batches for written in self._sample(batch)]

    def _write_on(self, batch: _Batch) -> None:
        """Drops the texts that have ended; the model reads the last token of the others."""
        stays = [i for i, text in enumerate(batch.texts) if not text.ended]
        if not stays:
            batch.texts = []
            return
        if len(stays) < len(batch.texts):
            batch.keep(stays)
        assert batch.tokens_B is not None
        with self._adapters([text.request.adapter for text in batch.texts], batch.base_alone):
            batch.scores_BV = batch.decoder.write(batch.tokens_B)

    def _admit(self, base_alone: bool) -> _Batch | None:
        """The prompts that wait and find a slot, read: not more at once than others should wait for."""
        free, tokens, prompts = self.slots - self.running, 0, set[Prompt]()
        texts: list[_Text] = []
        for item in list(self.waiting):
            number, request = item
            if base_alone != (self.adapters is None and request.adapter is None):
                continue
            tokens += 0 if request.prompt in prompts else len(request.token_ids)
            prompts.add(request.prompt)
            if len(texts) == free or (texts and tokens > READ_AT_ONCE):
                break
            self.waiting.remove(item)
            texts.append(_Text(number, request, uniform_draws(request.settings, request.number)))
        return self._read(texts, base_alone) if texts else None

    def _read(self, texts: list[_Text], base_alone: bool) -> _Batch:
        """Several texts from one prompt: it is read once, and its keys and values are copied."""
        decoder = PackedDecoder(self.loaded) if self.loaded.base.packs else StockDecoder(self.loaded)
        requests = [text.request for text in texts]
        rows: dict[Prompt, int] = {}
        row_of_text = [rows.setdefault(request.prompt, len(rows)) for request in requests]
        with self._adapters([adapter for _, adapter in rows], base_alone):
            room = max(r.settings.max_new_tokens for r in requests)
            scores_BV = decoder.read([token_ids for token_ids, _ in rows], room)
        if len(rows) < len(texts):
            copied = torch.tensor(row_of_text, device=scores_BV.device)
            decoder.keep(copied)
            scores_BV = scores_BV[copied]
        seen_BV = torch.zeros_like(scores_BV, dtype=torch.bool)
        for b, request in enumerate(requests):
            seen_BV[b, torch.tensor(list(request.token_ids), device=seen_BV.device)] = True
        return _Batch(decoder, base_alone, texts, scores_BV, seen_BV)

    def _sample(self, batch: _Batch) -> list[TokenEvent]:
        chance_B = torch.stack([text.chance_N[text.written + 1] for text in batch.texts])
        rules = [text.rules for text in batch.texts]
        batch.tokens_B = next_tokens_of_rows(batch.scores_BV, batch.seen_BV, chance_B, rules)
        batch.seen_BV.scatter_(1, batch.tokens_B[:, None], True)
        finite = torch.isfinite(batch.scores_BV.amax(-1)).tolist()
        out = []
        for text, token, sound in zip(batch.texts, batch.tokens_B.tolist(), finite, strict=True):
            text.written += 1
            stopped = token == self.eos or not sound
            text.ended = stopped or text.written == text.request.settings.max_new_tokens
            out.append(TokenEvent(text.number, None if stopped else token, text.ended, broken=not sound))
        return out

    def _adapters(self, adapters: Sequence[int | None], base_alone: bool) -> contextlib.AbstractContextManager[None]:
        """Inside, the model writes each row with its own."""
        if self.adapters is not None:
            self.adapters.use(adapters)
        return self.loaded.adapter_off() if base_alone else contextlib.nullcontext()
