"""Text out of a tuned model, and back into quotes: the way in (`data`, `tokens`) walked in reverse.

The template that rendered the training rows makes the prompts and parses what comes back, so the two cannot drift
apart. A quote from nothing has no token to begin with, and BLOOM was taught none: its first word is drawn from how the
training rows begin, which the adapter's folder remembers."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from florilegium.config import SamplingSettings
from florilegium.data import Quote, Template
from florilegium.errors import ResourceError, UsageError
from florilegium.generation.completions import completions
from florilegium.generation.decode import broken_scores, write_batch
from florilegium.generation.decoder_room import make_decoder
from florilegium.generation.engine import decodes_fast
from florilegium.generation.recorded_decode import batch_decoder
from florilegium.generation.request import Completion, Request, TokenEvent
from florilegium.generation.sampling import uniform_draws
from florilegium.generation.scheduler import ContinuousBatcher
from florilegium.generation.telling import Tell
from florilegium.model import Base, LoadedModel, fast_paths
from florilegium.model.families.other import position_table_size
from florilegium.model.kernel_protocols import SlotDecoder
from florilegium.storage.library_errors import is_out_of_memory
from florilegium.tokens import end_of_text, text_ids, text_of

BATCH_ROWS = {"cpu": 16, "cuda": 64}
PLACES = 64  # the cache's length is a multiple of it
RESERVED = {
    "text",
    "finished",
    "novel",
    "columns",
    "base",
    "model",
}  # keys of a row, and those that `show` and the page add


@dataclass(frozen=True)
class Generated:
    """What the model wrote: the whole text, the quote in it (None if it does not parse), whether the model stopped by
    itself, and whether the quote is new (None when there is nothing to compare with)."""

    text: str
    quote: Quote | None
    finished: bool
    novel: bool | None = None

    def columns(self, template: Template) -> dict[str, object]:
        """The template's columns by name. Without a parse, text columns are None, lists empty."""
        empty: dict[str, object] = {name: [] if name in template.list_columns else None for name in template.columns}
        return empty | dict(self.quote or {})

    def as_row(self, template: Template) -> dict[str, object]:
        """One JSON object: the template's columns, then text, finished, novel. Where a column is called as one of
        RESERVED, all columns stand under `columns` too."""
        columns = self.columns(template)
        again = {"columns": columns} if RESERVED & columns.keys() else {}
        return {**columns, "text": self.text, "finished": self.finished, "novel": self.novel, **again}


def generate_texts(
    loaded: LoadedModel,
    template: Template,
    prompts: Sequence[str],
    settings: SamplingSettings,
    *,
    first_words: Mapping[str, int] | None = None,
    first_row: int = 0,
    with_base: bool = False,
    tell: Tell | None = None,
) -> list[Generated]:
    """One text for each prompt, in order. An empty prompt begins with a word drawn from `first_words` (word -> count).
    With `with_base` as many texts of the base model follow, from the same beginnings with the same draws. `tell`
    hears how much of it is written, of several processes of its own share.

    Row i's draws depend on `settings.seed` and `first_row + i` alone. Raises UsageError for an empty prompt without
    first_words, ResourceError when memory runs out."""
    numbers = [first_row + i for i in range(len(prompts))]
    pairs = zip(prompts, numbers, strict=True)
    beginnings = [prompt or draw_first_word(first_words, settings, number) for prompt, number in pairs]
    ids = text_ids(loaded.base.tokenizer, beginnings)
    requests = [fitting(loaded, Request(row, number, settings)) for row, number in zip(ids, numbers, strict=True)]
    requests += [replace(request, adapter=None) for request in requests] if with_base else []
    written = completions(loaded, requests, write, tell)
    return [_generated(loaded.base, template, r.token_ids, done) for r, done in zip(requests, written, strict=True)]


def stream_text(
    loaded: LoadedModel,
    prompt: str,
    settings: SamplingSettings,
    *,
    first_words: Mapping[str, int] | None = None,
    adapter: bool = True,
    row: int = 0,
) -> Generator[str, None, bool]:
    """One text in pieces as it is written, what it begins with first: that of `generate_texts` with this number of a
    row. Returns whether the model stopped by itself. Closing it stops the work. Raises as `generate_texts`."""
    base = loaded.base
    (ids,) = text_ids(base.tokenizer, [prompt or draw_first_word(first_words, settings, row)])
    shown = _decoded(base, ids)
    yield shown
    so_far, finished = list(ids), False
    with contextlib.closing(
        write(loaded, [fitting(loaded, Request(ids, row, settings, 0 if adapter else None))])
    ) as tokens:
        for written in tokens:
            so_far += [] if written.token_id is None else [written.token_id]
            text = _decoded(base, so_far)
            # A letter may be several tokens; it is shown when it is whole, or when no more will come.
            if len(text) > len(shown) and (written.ended or not text.endswith("\ufffd")):
                yield text[len(shown) :]
                shown = text
            finished = written.token_id is None
    return finished


def fitting(loaded: LoadedModel, request: Request) -> Request:
    """The request within the positions that the model has, where they are learned: no more tokens than there are left,
    and of a prompt that leaves less than a quarter its end (a row was cut likewise). Raises UsageError for no token."""
    if not request.token_ids:
        raise UsageError("the prompt holds nothing but the end-of-text token", "Give it a word")
    positions = None if loaded.base.packs else position_table_size(loaded.model)
    most = request.settings.max_new_tokens
    if positions is None or len(request.token_ids) + most <= positions:
        return request
    kept = request.token_ids[-(positions - min(most, positions // 4)) :]
    return replace(request, token_ids=kept, settings=replace(request.settings, max_new_tokens=positions - len(kept)))


def check_prompts(loaded: LoadedModel, texts: Iterable[str]) -> None:
    """Raises UsageError for a prompt that is longer than what the model can read."""
    positions = None if loaded.base.packs else position_table_size(loaded.model)
    if positions is None:
        return
    for ids in text_ids(loaded.base.tokenizer, sorted(set(texts))):
        if len(ids) >= positions:
            raise UsageError(
                f"the prompt has {len(ids):,} tokens, and {loaded.base.name} reads {positions:,}", "Shorten it"
            )


def write(loaded: LoadedModel, requests: Sequence[Request]) -> Generator[TokenEvent]:
    """The tokens of all requests as they come, those of many requests interleaved. Nothing is computed ahead but one
    token each on a GPU; closing the iterator stops the work. Raises ResourceError when memory runs out."""
    if not requests:
        return
    if loaded.base.stage is not None:
        cause = f"this process has blocks {loaded.base.stage} of {loaded.base.name} alone, and cannot write texts"
        raise ResourceError(cause, "Load the adapter in one process: florilegium generate --run RUN")
    try:
        with loaded.evaluating():
            if decodes_fast(loaded):
                yield from _in_slots(loaded, requests)
            else:
                yield from _in_batches(loaded, requests)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            "generation does not fit in memory", "Ask for fewer at once, or lower --max-new-tokens"
        ) from error


def _in_slots(loaded: LoadedModel, requests: Sequence[Request]) -> Iterator[TokenEvent]:
    """By the fast decoder, in as many slots as there is use or room for."""
    writer = ContinuousBatcher(_decoder(loaded, requests))
    for request in requests:
        writer.add(request)
    while writer.busy:
        for written in writer.step():
            if written.broken:
                raise broken_scores()
            yield written


def _decoder(loaded: LoadedModel, requests: Sequence[Request]) -> SlotDecoder:
    """A power of two of slots: as many as there are texts, at most 64, and fewer where keys and values find no room."""
    capacity = -(-max(len(r.token_ids) + r.settings.max_new_tokens for r in requests) // PLACES) * PLACES
    read = sum(len(token_ids) for token_ids, _ in {r.prompt for r in requests})
    # A few short prompts are read 16 rows at a time: kernels for more rows would have to be compiled for one step.
    max_rows = max(len(requests), read if read > 64 else 16)
    slots = min(BATCH_ROWS["cuda"], 1 << (len(requests) - 1).bit_length())
    eos = end_of_text(loaded.base.tokenizer)
    return make_decoder(loaded, slots=slots, capacity=capacity, max_rows=max_rows, eos=eos)


def _in_batches(loaded: LoadedModel, requests: Sequence[Request]) -> Iterator[TokenEvent]:
    """A batch after the other, rows of like length together; on the CPU, weights that fit are dequantised once, not at
    every token."""
    base = loaded.base
    eos, size = end_of_text(base.tokenizer), BATCH_ROWS[base.device.type]
    kinds = sorted({(r.adapter, r.settings) for r in requests}, key=repr)
    on_cpu = base.device.type == "cpu"
    with fast_paths.dequantized_once(loaded.model, base.compute_dtype) if on_cpu else contextlib.nullcontext():
        for adapter, settings in kinds:
            rows = [i for i, r in enumerate(requests) if (r.adapter, r.settings) == (adapter, settings)]
            rows.sort(key=lambda i: len(requests[i].token_ids))
            for start in range(0, len(rows), size):
                batch = rows[start : start + size]
                with loaded.adapter_off() if adapter is None else contextlib.nullcontext():
                    for written in _stepping_down(loaded, [requests[i] for i in batch], eos):
                        yield replace(written, request=batch[written.request])


def _stepping_down(loaded: LoadedModel, requests: Sequence[Request], eos: int) -> Iterator[TokenEvent]:
    """`write_batch`; where memory runs out each half of the rows by itself, from its beginning: what was written before
    comes again, since a row's chances are its own, and is not given twice."""
    sent = [0] * len(requests)
    try:
        for written in write_batch(batch_decoder(loaded, requests), requests, eos):
            sent[written.request] += 1
            yield written
        return
    except (RuntimeError, MemoryError) as error:
        if len(requests) == 1 or not is_out_of_memory(error):
            raise
    half = len(requests) // 2  # here, where the error's traceback no longer holds the batch that failed
    for begin, part in ((0, requests[:half]), (half, requests[half:])):
        seen = [0] * len(part)
        for written in _stepping_down(loaded, part, eos):
            seen[written.request] += 1
            if seen[written.request] > sent[begin + written.request]:
                yield replace(written, request=begin + written.request)


def draw_first_word(first_words: Mapping[str, int] | None, settings: SamplingSettings, number: int) -> str:
    """The first word of a text from nothing, by how often training rows began with it."""
    if not first_words:
        raise UsageError(
            "there is no prompt, and the model has no record of how its training rows start", "Give a prompt"
        )
    goal = float(uniform_draws(settings, number)[0]) * sum(first_words.values())
    for word, count in first_words.items():
        goal -= count
        if goal < 0:
            return word
    return next(iter(first_words))


def _generated(base: Base, template: Template, prompt: Sequence[int], completion: Completion) -> Generated:
    text = _decoded(base, [*prompt, *completion.token_ids])
    return Generated(text, template.parse(text), completion.finished)


def _decoded(base: Base, ids: Sequence[int]) -> str:
    return text_of(base.tokenizer, ids)
