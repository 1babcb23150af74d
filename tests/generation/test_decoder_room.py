"""How many texts the fast decoder takes at once follows what is free; only that figure is made up here."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from florilegium.generation import decoder_room
from florilegium.generation.decoder_room import SHARE, make_decoder, slot_bytes, slots_with_room
from florilegium.model import LoadedModel, card_memory, fast_paths, load_base
from tests.tiny import save_tiny

LAYERS, WIDTH, CAPACITY = 2, 64, 256


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = save_tiny(tmp_path_factory.mktemp("room") / "m", heads=4, head_dim=WIDTH // 4, layers=LAYERS)
    base = load_base(str(folder), device=torch.device("cpu"))
    return LoadedModel(base, base.model, ("fast-decode",))


def free(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    monkeypatch.setattr(decoder_room, "free_memory", lambda: int(size))


def test_a_slot_is_keys_values_and_scores(loaded: LoadedModel) -> None:
    """Of BLOOM-176B 4 MB a place."""
    vocabulary = loaded.base.model.config.vocab_size
    assert slot_bytes(loaded, CAPACITY) == 4 * LAYERS * WIDTH * CAPACITY + 5 * vocabulary + 4 * CAPACITY


@pytest.mark.parametrize(("fits", "slots"), [(64, 64), (63, 32), (32, 32), (17, 16), (1, 1), (0, 1)])
def test_slots_are_halved_until_they_fit(
    loaded: LoadedModel, fits: int, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = decoder_room.ROW_BYTES * 256 * WIDTH
    free(monkeypatch, (fits * slot_bytes(loaded, CAPACITY) + beside) / SHARE + 8)
    assert slots_with_room(loaded, 64, CAPACITY, 256) == slots


def test_a_run_within_a_limit_has_what_the_limit_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The card has 80 GiB, of which 60 are free; torch holds 6, 5 of them in tensors."""
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (60 * gib, 80 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 6 * gib)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 5 * gib)
    assert card_memory.free_memory() == 61 * gib
    for limit, left in ((12.0, 7), (4.0, 0), (200.0, 61), (None, 61)):
        with card_memory.memory_limit(limit):
            assert card_memory.free_memory() == left * gib
    assert card_memory.free_memory() == 61 * gib


def test_what_is_full_all_the_same_is_tried_with_fewer(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def made(loaded: LoadedModel, *, slots: int, **sizes: Any) -> Any:
        tried.append(slots)
        if slots > 4:
            raise torch.OutOfMemoryError
        return "a decoder"

    free(monkeypatch, 1 << 40)
    monkeypatch.setattr(fast_paths, "make_decoder", made)
    assert make_decoder(loaded, slots=16, capacity=CAPACITY, max_rows=64, eos=2) == "a decoder"
    assert tried == [16, 8, 4]
    free(monkeypatch, 0)
    tried.clear()
    make_decoder(loaded, slots=16, capacity=CAPACITY, max_rows=64, eos=2)
    assert tried == [1]
