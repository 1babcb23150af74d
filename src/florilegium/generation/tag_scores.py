"""How likely each of many tags is next behind a quote: one reading of the quote, and then of the tags as one tree.

    Be kind. ->:      | love              log p(love) + log( p(end-of-text) + p(comma) )
                      | kind | ness       read once with what is common: tags that begin alike share a path
    Be kind. ->: love | , | life          with tags there already: the next one

A tag's probability is that of all its tokens and of what may follow a tag, the next one's comma or the end: of the list
continuing with this tag and no longer word. These exclude one another, so they can be compared whatever the tags' length
in tokens, and shared out over the known tags they are a distribution."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from florilegium.data import Quote, Template
from florilegium.generation.decode import BatchDecoder, PackedDecoder, StockDecoder
from florilegium.model import LoadedModel, fast_paths
from florilegium.model.families import packs
from florilegium.tokens import end_of_text, text_ids

AT_ONCE = 256  # tags whose caches are held at once
MOST_WRITTEN = 12  # tags of a quote


@dataclass(frozen=True)
class TagContext:
    """`prompt` token ids, and behind it for each tag the ids that it adds, and the one that goes on to another tag."""

    prompt: list[int]
    tails: list[list[int]]
    commas: list[int]


@dataclass(frozen=True)
class NextTag:
    """`tags_T`: log-probability of each tag; at the prompt's end, `stop` of end-of-text and `more` of the tags' first
    token that is most likely."""

    tags_T: np.ndarray
    stop: float
    more: float


def tag_context(
    loaded: LoadedModel, template: Template, quote: Quote, tags: Sequence[str], written: Sequence[str] = ()
) -> TagContext:
    """Where `tags` stand behind `quote` (of which the last column is not read) and the tags `written` so far. Raises
    DataError for a quote or tag that the template cannot hold."""
    tokenizer, column = loaded.base.tokenizer, template.columns[-1]

    def ids(*lists: list[str]) -> list[list[int]]:
        return text_ids(tokenizer, [template.render({**quote, column: own}) for own in lists])

    once = ids(*([*written, tag] for tag in tags))
    twice = ids(*([*written, tag, _other(tag, written)] for tag in tags))
    before = {name: quote[name] for name in template.columns[:-1]}
    (start,) = ids(list(written)) if written else text_ids(tokenizer, [template.prompt(before)])
    shared = min(min(_common(start, own), len(own) - 1) for own in once)
    commas = [longer[min(len(own), len(longer) - 1)] for own, longer in zip(once, twice, strict=True)]
    return TagContext(start[:shared], [own[shared:] for own in once], commas)


class TagScorer:
    """Reads contexts one after the other; `tag_scorer` makes one."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.decoder: BatchDecoder = PackedDecoder(loaded) if packs(loaded.family) else StockDecoder(loaded)
        self.eos, self.device = end_of_text(loaded.base.tokenizer), loaded.base.device

    @torch.inference_mode()
    def score(self, context: TagContext) -> NextTag:
        tags_T, stop, more = np.zeros(len(context.tails)), 0.0, -np.inf
        for start in range(0, len(context.tails), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            tags_T[part], stop, first = self._tree(context.prompt, context.tails[part], context.commas[part])
            more = max(more, first)
        return NextTag(tags_T, stop, more)

    def _tree(
        self, prompt: list[int], tails: Sequence[list[int]], commas: Sequence[int]
    ) -> tuple[np.ndarray, float, float]:
        longest = max(map(len, tails))
        logprob_NV = self.decoder.read([prompt], longest).log_softmax(-1)
        stop, found_T = float(logprob_NV[0, self.eos]), np.zeros(len(tails))
        more = float(logprob_NV[0, [tail[0] for tail in tails]].max())
        nodes: dict[tuple[int, ...], int] = {(): 0}
        for depth in range(longest):
            alive = [t for t, tail in enumerate(tails) if len(tail) > depth]
            places = [nodes[tuple(tails[t][:depth])] for t in alive]
            found_T[alive] += _picked(logprob_NV, places, [tails[t][depth] for t in alive])
            paths = list(dict.fromkeys(tuple(tails[t][: depth + 1]) for t in alive))
            self.decoder.keep(torch.tensor([nodes[path[:-1]] for path in paths], device=self.device))
            written_N = torch.tensor([path[-1] for path in paths], device=self.device)
            logprob_NV = self.decoder.write(written_N).log_softmax(-1)
            nodes = {path: n for n, path in enumerate(paths)}
            ended = [t for t in alive if len(tails[t]) == depth + 1]
            places = [nodes[tuple(tails[t])] for t in ended]
            ends, goes_on = (
                _picked(logprob_NV, places, ids) for ids in ([self.eos] * len(ended), [commas[t] for t in ended])
            )
            found_T[ended] += np.logaddexp(ends, goes_on)
        return found_T, stop, more


@contextlib.contextmanager
def tag_scorer(loaded: LoadedModel, adapter: bool = True) -> Iterator[TagScorer]:
    """On the CPU, weights that fit are dequantised once for all that is scored within."""
    on_cpu = loaded.base.device.type == "cpu"
    with contextlib.ExitStack() as stack:
        stack.enter_context(loaded.evaluating())
        if on_cpu:
            stack.enter_context(fast_paths.dequantized_once(loaded.model, loaded.base.compute_dtype))
        if not adapter:
            stack.enter_context(loaded.adapter_off())
        yield TagScorer(loaded)


@dataclass(frozen=True)
class KnownTags:
    """`written`: the tags of a quote, greedily. `likely_T`: how likely each known tag is somewhere in its list, float64."""

    written: list[str]
    likely_T: np.ndarray


def known_tags_of(
    scorer: TagScorer, loaded: LoadedModel, template: Template, quote: Quote, tags: Sequence[str]
) -> KnownTags:
    """The most likely of `tags` next, each once, until end-of-text is more likely than another tag.

    A list's first tag is not its most likely: where training rows name tags in the alphabet's order, `zest` never comes
    first. So a tag's likelihood is summed over the places of the list as it is written, each weighed by how likely the
    list reaches it."""
    written: list[str] = []
    likely_T, reached = np.zeros(len(tags)), 1.0
    numbers = {tag: t for t, tag in enumerate(tags)}
    while len(written) < min(MOST_WRITTEN, len(tags)):
        left = [tag for tag in tags if tag not in written]
        found = scorer.score(tag_context(loaded, template, quote, left, written))
        if written:
            reached *= 1 - math.exp(found.stop)
        share_T = np.exp(found.tags_T - found.tags_T.max())
        likely_T[[numbers[tag] for tag in left]] += reached * share_T / share_T.sum()
        if written and found.stop >= found.more:
            break
        written.append(left[int(found.tags_T.argmax())])
    return KnownTags(written, likely_T)


def _picked(logprob_NV: torch.Tensor, places: Sequence[int], ids: Sequence[int]) -> np.ndarray:
    return np.array(logprob_NV[list(places), list(ids)].tolist(), dtype=np.float64)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _other(tag: str, written: Sequence[str]) -> str:
    """Any tag that is not there yet."""
    return next(name for name in ("a", "b", *(f"a{i}" for i in range(len(written) + 1))) if name not in (tag, *written))
