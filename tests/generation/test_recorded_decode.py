"""Texts of other families by a recorded step beside Transformers' own cache: scores, greedy texts of many lengths, rows that
end early. On a CPU the step runs as it is written; on a GPU it is recorded."""

from __future__ import annotations

import pytest
import torch

from florilegium.config import SamplingSettings
from florilegium.generation.decode import StockDecoder, write_batch
from florilegium.generation.recorded_decode import STEP, RecordedDecoder, places_for, try_decoder, unsupported_reason
from florilegium.generation.request import Request
from florilegium.model import LoadedModel
from florilegium.model.base import Base
from tests.model.small_families import VOCABULARY, make_model

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
WIDE = {"sliding_window": 100}
TRIED: list[tuple[str, dict[str, int], str]] = [
    *(
        (name, {}, "")
        for name in ("Llama", "Qwen2", "Qwen3", "SmolLM3", "Granite", "Phi", "OLMo 2", "GPT-NeoX", "Cohere")
    ),
    *((name, WIDE, "") for name in ("Mistral", "Phi-3", "Gemma 3")),
    ("Gemma 2", WIDE, "softcap"),
    ("Mistral", {}, "longer than the window of 5"),
    ("GPT-J", {}, "something else"),
]


def loaded(name: str, **sizes: int) -> LoadedModel:
    model = make_model(name, **sizes).to(DEVICE)
    return LoadedModel(Base(model, None, name, 32, DEVICE, torch.float32, "", ""), model)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "sizes", "why"), TRIED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_family_is_tried_beside_its_own_cache(name: str, sizes: dict[str, int], why: str) -> None:
    model = loaded(name, **sizes)
    before = model.backbone.config._attn_implementation  # type: ignore[union-attr]  # Transformers' own
    reason = try_decoder(model, record=GPU)
    assert (why in reason and bool(reason)) if why else not reason, reason
    assert model.backbone.config._attn_implementation == before  # type: ignore[union-attr]


def greedy(model: LoadedModel, decoder: StockDecoder | RecordedDecoder, eos: int) -> dict[int, list[int | None]]:
    settings = SamplingSettings(max_new_tokens=20, temperature=0.0, repetition_penalty=1.2)
    prompts = [[(7 * n + 3 * i) % VOCABULARY for i in range(size)] for n, size in enumerate((1, 60, 9, 23))]
    requests = [Request(ids, number, settings) for number, ids in enumerate(prompts)]
    found: dict[int, list[int | None]] = {}
    for written in write_batch(decoder, requests, eos):
        found.setdefault(written.request, []).append(written.token_id)
    return found


@pytest.mark.parametrize("name", ["Llama", "Qwen3", "Phi"])
def test_greedy_texts_are_those_of_the_own_cache_also_when_rows_end(name: str) -> None:
    model = loaded(name)
    free = greedy(model, StockDecoder(model), -1)
    eos = next(token for token in free[2][3:] if token is not None)  # the third text ends there, others may earlier
    stock = greedy(model, StockDecoder(model), eos)
    assert len({len(text) for text in stock.values()}) > 1, "rows end at different steps"
    assert greedy(model, RecordedDecoder(model, record=GPU), eos) == stock


def test_places_grow_in_steps_and_a_cpu_records_nothing() -> None:
    assert [places_for(n) for n in (1, STEP, STEP + 1)] == [STEP, STEP, 2 * STEP]
    if not GPU:
        assert "CPU" in unsupported_reason(loaded("Llama"), 10)


def test_a_family_that_counts_more_than_it_should_is_left_to_its_own_cache() -> None:
    """Whatever our attention gets wrong of a family shows in the scores, and the texts are written the other way."""
    model = loaded("Llama")
    module = model.model.model.layers[0].self_attn  # type: ignore[union-attr, index]
    plain = module.forward
    # a family whose attention is scaled by where a token stands
    module.forward = lambda *args, **given: (plain(*args, **given)[0] * (1 + given["past_key_values"] is None), None)
    assert try_decoder(model, record=False)
