"""Texts of other families by a recorded step beside Transformers' own cache: scores, greedy texts of many lengths, rows that
end early. On a CPU the step runs as it is written; on a GPU it is recorded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3Config

from florilegium.config import SamplingSettings
from florilegium.generation.decode import StockDecoder, write_batch
from florilegium.generation.recorded_decode import (
    STEP,
    RecordedDecoder,
    _tried,
    places_for,
    try_decoder,
    unsupported_reason,
)
from florilegium.generation.request import Request
from florilegium.model import LoadedModel
from florilegium.model.base import Base
from tests.model.small_families import FAMILIES, VOCABULARY, make_model

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


def test_texts_of_two_threads_are_each_as_alone() -> None:
    """One model's attention is one for all threads."""
    model = loaded("Llama")
    before, alone = model.backbone.config._attn_implementation, greedy(model, StockDecoder(model), -1)  # type: ignore[union-attr]
    with ThreadPoolExecutor(3) as threads:
        texts = [threads.submit(greedy, model, RecordedDecoder(model, record=GPU), -1) for _ in range(6)]
        assert [text.result() == alone for text in texts] == [True] * 6
    assert model.backbone.config._attn_implementation == before  # type: ignore[union-attr]


def test_the_window_of_a_part_of_the_model_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma 3 from 4B on has a vision tower too, and its language model a configuration within the model's."""
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**FAMILIES["Gemma 3"][1], "sliding_window": 100}
    config = Gemma3Config(text_config=text, vision_config={**vision, "image_size": 28, "patch_size": 14})
    model = AutoModelForCausalLM.from_config(config)
    found = LoadedModel(Base(model, None, "", 32, torch.device("cuda"), torch.float32, "", ""), model)  # type: ignore[arg-type]
    monkeypatch.setitem(_tried, found.backbone, "")
    assert unsupported_reason(found, 60) == "" and "window has 100" in unsupported_reason(found, 120)


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
