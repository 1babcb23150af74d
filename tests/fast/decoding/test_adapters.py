"""The decoder's adapters side by side: what is left of one that could not be read in. No kernel runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from florilegium.config import make_config
from florilegium.fast.decoding import adapters
from florilegium.fast.decoding.adapters import AdapterPool
from florilegium.fast.decoding.weights import decoder_block
from florilegium.model import attach_adapter, load_base
from florilegium.model.families.bloom import bloom_model
from tests.tiny import save_tiny


def test_an_adapter_that_finds_no_memory_loses_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load_base(str(save_tiny(tmp_path / "m")), bits=8, device=torch.device("cpu"), compute="float32")
    bloom = bloom_model(attach_adapter(base, make_config({"bits": 8, "rank": 4})))
    pool = AdapterPool([decoder_block(layer) for layer in bloom.h], torch.float32, places=2)
    assert pool.add(bloom) == 0
    put, calls = adapters._Linear.put, 0

    def full(self: Any, place: int, lora: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:  # the first linears of the new one are there already
            raise torch.OutOfMemoryError("injected")
        put(self, place, lora)

    for _ in range(3):
        calls = 0
        with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
            patch.setattr(adapters._Linear, "put", full)
            pool.add(bloom)
    made = pool.tensors_made
    assert pool.add(bloom) == 1 and (pool.places, pool.tensors_made) == (2, made)
    for linear in pool.linears:
        if linear.lora is not None:
            assert torch.equal(linear.lora.a_PRK[0], linear.lora.a_PRK[1])
            assert torch.equal(linear.lora.b_PNR[0], linear.lora.b_PNR[1])
