"""Texts of one prompt, which read it once: to the bit what each writes that reads it itself. Without a CUDA device Triton
interprets the kernels (`TRITON_INTERPRET=1 pytest tests/fast/decoding`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from florilegium.config import SamplingSettings
from florilegium.fast.decoding.decoder import Decoder
from florilegium.generation import Completion, ContinuousBatcher, Request, TokenEvent, collect, decoder_room, engine
from florilegium.generation.sampling import uniform_draws
from florilegium.model import LoadedModel, fast_paths, load_base
from florilegium.model.families import head_weight
from florilegium.model.families.bloom import bloom_model
from tests.fast.decoding.interpreted import CUDA, DEVICE, runs_kernels
from tests.fast.decoding.test_decoder import all_steps, with_adapter
from tests.tiny import save_tiny

pytestmark = runs_kernels
LENGTH = 24 if CUDA else 3
PROMPT = [12, 40, 7, 99, 3, 56, 21]
NEVER = -5  # as the token that ends a text: how long each is does not depend on the card
DRAWN = SamplingSettings(max_new_tokens=LENGTH, temperature=0.9, top_p=0.9 if CUDA else 1.0, seed=3)
PENALISED = replace(DRAWN, max_new_tokens=2, repetition_penalty=1.3, **({"top_k": 20} if CUDA else {}))
ASKED = [
    Request(PROMPT, 0, DRAWN),
    Request(PROMPT, 1, replace(DRAWN, max_new_tokens=1)),
    Request(PROMPT, 2, PENALISED),
    Request(PROMPT, 3, replace(DRAWN, temperature=0.0)),
    Request(PROMPT, 4, DRAWN, adapter=None),
    Request(PROMPT[:4], 5, DRAWN),
]


class CountingDecoder(Decoder):
    prompt_tokens = 0

    def step(self, rows: Any, sample_rows: Any, slots: Any = None) -> Any:
        self.prompt_tokens += sum(position != self.NEXT for _, _, position in rows)
        return super().step(rows, sample_rows, slots)


def counting_decoder(bloom: Any, head_VW: torch.Tensor, **sizes: Any) -> CountingDecoder:
    return CountingDecoder(bloom, head_VW if CUDA else head_VW.float(), cuda_graphs=CUDA, **sizes)


@pytest.fixture(scope="module", params=[8, 16])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LoadedModel, CountingDecoder]:
    """A model with an adapter, and its decoder of four slots, which reads PROMPT in two steps and has no place to spare
    behind the longest text."""
    folder = save_tiny(tmp_path_factory.mktemp("m") / "m", heads=2, head_dim=32)
    base = load_base(str(folder), bits=request.param, device=DEVICE, **({} if CUDA else {"compute": "float32"}))
    model = with_adapter(base, 1, rank=4)
    sizes = {"slots": 4, "max_rows": 4, "capacity": len(PROMPT) + LENGTH, "eos": NEVER}
    return LoadedModel(base, model), counting_decoder(bloom_model(model), head_weight(model).detach(), **sizes)


@pytest.fixture(scope="module")
def decoder(made: tuple[LoadedModel, CountingDecoder]) -> CountingDecoder:
    return made[1]


@pytest.fixture(scope="module")
def alone(decoder: CountingDecoder) -> list[Completion]:
    """What each of ASKED writes that reads its own prompt."""
    texts = []
    for request in ASKED:
        texts += finish(writer_of(decoder, [request]), 1)
        assert decoder.prompt_tokens == len(request.token_ids)
    assert len({tuple(text.token_ids) for text in texts}) == len(ASKED)
    return texts


def writer_of(decoder: CountingDecoder, asked: Iterable[Request]) -> ContinuousBatcher:
    """Nothing that an earlier text left in the cache can be read without notice."""
    decoder.cache.fill_(float("nan"))
    decoder.prompt_tokens = 0
    writer = ContinuousBatcher(decoder)
    for request in asked:
        writer.add(request)
    return writer


def finish(writer: Any, count: int, written: Iterable[TokenEvent] = ()) -> list[Completion]:
    return collect([*written, *all_steps(writer)], count)


def test_the_slots_of_a_row_are_as_if_they_had_read_its_prompt(decoder: CountingDecoder) -> None:
    """Three draw from one row, the fourth reads by itself with the settings and random numbers of the second."""
    writer_of(decoder, [])
    prompt, draws = PROMPT[:4], [uniform_draws(DRAWN, number) for number in (0, 1, 2, 1)]
    decoder.admit(range(4), [LENGTH] * 4, draws, [DRAWN] * 4, [0] * 4, [prompt] * 4)
    read = [[(slot, token, i) for i, token in enumerate(prompt)] for slot in (0, 3)]
    shared, own = decoder.step(read[0], [3, 3, 3], [2, 0, 1]).tokens(), decoder.step(read[1], [3]).tokens()
    assert len(set(shared)) > 1 and shared[2] == own[0]
    cached = decoder.cache[:, :, :, :, :4]
    assert all(torch.equal(cached[:, :, slot], cached[:, :, 3]) for slot in range(3)) and bool(cached.isfinite().all())
    assert bool(decoder.cache[:, :, :, :, 4:].isnan().all())
    going_on = [(slot, decoder.NEXT, decoder.NEXT) for slot in range(4)]
    after = decoder.step(going_on, range(4)).tokens()
    assert after[1] == after[3] and min(after) >= 0


def test_texts_of_one_prompt_are_those_that_read_it_themselves(
    decoder: CountingDecoder, alone: list[Completion]
) -> None:
    """Four settings, the base beside the adapter, another prompt, and fewer slots than texts: the last of the prompt comes
    when the first slot is free, and has it copied from the first, which is still being written."""
    order = [0, 1, 4, 2, 3, 5]
    assert finish(writer_of(decoder, [ASKED[i] for i in order]), 6) == [alone[i] for i in order]
    assert decoder.prompt_tokens == len(PROMPT) + len(PROMPT) + 1 + 4, (
        "the adapter's, the base's, the last's, the other"
    )


def test_a_text_that_comes_later_reads_the_last_token_alone(decoder: CountingDecoder, alone: list[Completion]) -> None:
    """Or the prompt, where nobody has it any more."""
    writer = writer_of(decoder, ASKED[:1])
    written = [event for _ in range(2) for event in writer.step()]
    for request in ASKED[1:3]:
        writer.add(request)
    assert finish(writer, 3, written) == alone[:3]
    assert decoder.prompt_tokens == len(PROMPT) + 1
    writer.add(ASKED[3])
    assert finish(writer, 4)[3] == alone[3]
    assert decoder.prompt_tokens == 2 * len(PROMPT) + 1


@pytest.mark.parametrize(("steps", "read"), [(1, 4 + len(PROMPT)), (2, len(PROMPT)), (3, len(PROMPT))])
def test_a_first_text_that_is_cancelled_spoils_no_other(
    decoder: CountingDecoder, alone: list[Completion], steps: int, read: int
) -> None:
    """Half-way through the prompt, where the next begins it again; at its end; and behind it, where another prompt takes
    the slot."""
    writer = writer_of(decoder, [ASKED[i] for i in (0, 1, 2, 3, 5)])
    written = [event for _ in range(steps) for event in writer.step()]
    writer.cancel(0)
    assert finish(writer, 5, written)[1:] == [alone[i] for i in (1, 2, 3, 5)]
    assert decoder.prompt_tokens == read + 4


def test_the_engine_reads_the_prompt_of_n_texts_once(
    made: tuple[LoadedModel, CountingDecoder], alone: list[Completion], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoders: list[CountingDecoder] = []

    def keeping(*args: Any, **sizes: Any) -> CountingDecoder:
        decoders.append(counting_decoder(*args, **sizes | {"eos": NEVER}))
        return decoders[-1]

    monkeypatch.setattr(engine, "decodes_fast", lambda loaded: True)
    monkeypatch.setattr(decoder_room, "free_memory", lambda: 2**30)
    monkeypatch.setattr(fast_paths.fast, "make_decoder", keeping)
    writer = engine.make_engine(made[0], slots=8, capacity=64)
    for request in ASKED[:4]:
        writer.add(request)
    assert finish(writer, 4) == alone[:4]
    assert [decoder.prompt_tokens for decoder in decoders] == [len(PROMPT)]
