"""Tiny models of other families write what Transformers' own `generate` writes of each opening alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from florilegium.config import SamplingSettings
from florilegium.generation import Request, StockDecoder, collect, write_batch
from florilegium.model import LoadedModel
from florilegium.model.base import Base
from tests.model.small_families import FAMILIES, VOCABULARY, make_model

QUICK = ("Llama", "Gemma 3", "GPT-2", "OPT", "Falcon", "LFM2")
EOS = 2
WRITES = [name for name in FAMILIES if name != "RecurrentGemma"]  # which Transformers 5.17 itself cannot generate with
GREEDY = replace(SamplingSettings(), temperature=0.0, max_new_tokens=8, repetition_penalty=1.0)


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in WRITES if name not in QUICK)]
)
def test_greedy_texts_are_those_of_stock(name: str) -> None:
    model = make_model(name)
    base = Base(model, None, name, 32, torch.device("cpu"), torch.float32, "", "")  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(4, VOCABULARY, (size,), generator=generator).tolist() for size in (3, 11, 7)]
    requests = [Request(ids, number, GREEDY) for number, ids in enumerate(prompts)]
    with torch.no_grad():
        ours = collect(write_batch(StockDecoder(LoadedModel(base, model)), requests, EOS), len(requests))
    for prompt, text in zip(prompts, ours, strict=True):
        stock = model.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=8, eos_token_id=EOS, pad_token_id=3
        )
        written = [token for token in stock[0, len(prompt) :].tolist() if token != EOS]
        assert list(text.token_ids) == written, name
