"""A queue of requests over the slots of the fast decoder (`fast/decoding/decoder.py`): a text that ends makes room for the next
at once.

Every step writes one token of each text under way and reads what fits of the prompts that wait, in one pass over the
weights. The GPU is always one step ahead: a step is asked for, then the tokens of the one before it are looked at. So a
text that has ended, or was cancelled, costs one row of one step more, and nothing waits for the host.

Texts of one prompt read it once. The first of them in the queue reads it, and they all draw their first tokens from the
scores at its end. One that comes later (the slots were full, or it was asked for a moment later) has the prompt copied from a
text of it that is still being written, and reads its last token alone, whose scores nobody kept; where there is no such
text it reads the whole prompt.

    writer = ContinuousBatcher(decoder)
    number = writer.add(request)          at any time; writer.cancel(number) as well
    while writer.busy:
        for written in writer.step(): ...
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from florilegium.generation.request import Request, TokenEvent, check_fits
from florilegium.generation.sampling import uniform_draws
from florilegium.model import LoadedModel, fast_paths
from florilegium.model.kernel_protocols import DecodeStep, SlotDecoder


@dataclass
class _Text:
    """A request in a slot: prompt tokens read, tokens asked for and written; `ended` is known a step late."""

    number: int
    request: Request
    slot: int
    read: int = 0
    asked: int = 0
    written: int = 0
    ended: bool = False


class ContinuousBatcher:
    def __init__(self, decoder: SlotDecoder) -> None:
        self.decoder = decoder
        self.waiting: deque[tuple[int, Request]] = deque()
        self.active: list[_Text] = []
        self.free = list(range(decoder.num_slots))
        self.in_flight: deque[tuple[DecodeStep, list[_Text]]] = deque()
        self.count = 0

    def add(self, request: Request) -> int:
        """Queues a request and returns its number, from 0 on. Raises UsageError when prompt and limit do not fit the
        decoder's capacity."""
        check_fits(request, self.decoder.capacity)
        self.waiting.append((self.count, request))
        self.count += 1
        return self.count - 1

    def add_adapter(self, loaded: LoadedModel) -> int:
        return fast_paths.add_adapter(self.decoder, loaded)

    def remove_adapter(self, number: int) -> None:
        self.decoder.remove_adapter(number)

    def cancel(self, number: int) -> None:
        """No further token of that request is written."""
        self.waiting = deque(item for item in self.waiting if item[0] != number)
        for text in [t for t in self.active if t.number == number]:
            self._end(text)

    @property
    def slots(self) -> int:
        return self.decoder.num_slots

    @property
    def capacity(self) -> int:
        return self.decoder.capacity

    @property
    def running(self) -> int:
        return len(self.active)

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.active or self.in_flight)

    def step(self) -> list[TokenEvent]:
        """Asks for one more step, and returns what the step before it wrote."""
        rows, wanted, texts = self._plan()
        if rows:
            self.in_flight.append((self.decoder.step(rows, wanted, [t.slot for t in texts]), texts))
        if self.in_flight and (not rows or len(self.in_flight) > 1):
            return self._collect(*self.in_flight.popleft())
        return []

    def _plan(self) -> tuple[list[tuple[int, int, int]], list[int], list[_Text]]:
        """The rows of the next step: texts that write on, then prompts, as many of their tokens as fit. And which rows'
        next tokens are wanted, for which texts."""
        writing = [t for t in self.active if t.asked and t.asked < t.request.settings.max_new_tokens]
        rows = [(t.slot, self.decoder.NEXT, self.decoder.NEXT) for t in writing]
        wanted, texts = list(range(len(rows))), list(writing)
        for text in writing:
            text.asked += 1
        self._admit()
        for text in [t for t in self.active if not t.asked]:
            if text.asked:  # in this loop, beside another of its prompt
                continue
            prompt = text.request.token_ids
            part = prompt[text.read : text.read + self.decoder.rows[-1] - len(rows)]
            rows += [(text.slot, token, text.read + i) for i, token in enumerate(part)]
            text.read += len(part)
            if text.read < len(prompt):
                break
            # Not before its end: where this text is cancelled half-way, the next of its prompt reads it from the start.
            drawing = [t for t in self.active if not t.asked and t.request.prompt == text.request.prompt]
            for one in drawing:
                one.asked = 1
            wanted += [len(rows) - 1] * len(drawing)
            texts += drawing
        return rows, wanted, texts

    def _admit(self) -> None:
        new: list[_Text] = []
        while self.waiting and self.free:
            number, request = self.waiting.popleft()
            new.append(_Text(number, request, self.free.pop(0)))
        if not new:
            return
        self.active += new
        requests = [text.request for text in new]
        self.decoder.admit(
            [text.slot for text in new],
            [r.settings.max_new_tokens for r in requests],
            [uniform_draws(r.settings, r.number) for r in requests],
            [r.settings for r in requests],
            [r.adapter for r in requests],
            [r.token_ids for r in requests],
        )
        for text in new:
            self._copy_prompt(text)

    def _copy_prompt(self, text: _Text) -> None:
        """All but its last token, from a text that has it: its steps were asked for before this one."""
        prompt = text.request.prompt
        source = next((t for t in self.active if t.asked and t.request.prompt == prompt), None)
        if source is not None:
            text.read = len(text.request.token_ids) - 1
            self.decoder.copy_prompt(source.slot, text.slot, text.read)

    def _collect(self, step: DecodeStep, texts: list[_Text]) -> list[TokenEvent]:
        out = []
        for text, token in zip(texts, step.tokens(), strict=True):
            if text.ended:
                continue
            if token < 0:
                self._end(text)
                out.append(TokenEvent(text.number, None, ended=True, broken=True))
                continue
            text.written += 1
            stopped = token == self.decoder.eos
            if stopped or text.written == text.request.settings.max_new_tokens:
                self._end(text)
            out.append(TokenEvent(text.number, None if stopped else token, text.ended))
        return out

    def _end(self, text: _Text) -> None:
        text.ended = True
        self.active.remove(text)
        self.free.append(text.slot)
