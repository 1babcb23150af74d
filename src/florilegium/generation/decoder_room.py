"""How many texts the fast decoder writes at once: as many as are asked for, or as find room for keys and values.

A text takes, for each of its places, two numbers of 16 bits for each of the model's width in each block (BLOOM-176B: 4 MB
a place, bloom-7b1 0.5 MB), and scores of its vocabulary. Together they get SHARE of what is free when the decoder is made:
graphs are recorded later, and another model of the same process may want its own. Fewer texts at once are the same
texts."""

from __future__ import annotations

import torch

from florilegium.model import LoadedModel, fast_paths
from florilegium.model.card_memory import free_memory
from florilegium.model.kernel_protocols import SlotDecoder

SHARE = 0.8  # of the memory that is free, for the slots of one decoder
ROW_BYTES = 64  # of buffers for each row of a step and number of the model's width, at most
SCORE_BYTES = 5  # of a vocabulary's token in a slot: its score in float32, and whether the text has it


def make_decoder(
    loaded: LoadedModel, *, slots: int, capacity: int, max_rows: int, eos: int, places: int = 1
) -> SlotDecoder:
    """With half as many slots as were asked for, and half of those, until they find room."""
    slots = slots_with_room(loaded, slots, capacity, max_rows)
    sizes = {"capacity": capacity, "max_rows": max_rows, "eos": eos, "places": places}
    while True:
        try:
            return fast_paths.make_decoder(loaded, slots=slots, **sizes)
        except torch.OutOfMemoryError:  # another program may have taken it meanwhile, or it lies in pieces
            if slots == 1:
                raise
            slots //= 2


def slots_with_room(loaded: LoadedModel, slots: int, capacity: int, max_rows: int) -> int:
    """Of the slots that were asked for, halved until they fit; 1 is always tried."""
    beside = ROW_BYTES * max_rows * _width(loaded)
    if "int8-head" in loaded.kernels:
        beside += _width(loaded) * _vocabulary(loaded)  # the copy that the decoder reads
    room = int(SHARE * free_memory()) - beside
    while slots > 1 and slots * slot_bytes(loaded, capacity) > room:
        slots //= 2
    return slots


def slot_bytes(loaded: LoadedModel, capacity: int) -> int:
    """What a text of up to `capacity` tokens takes."""
    keys_and_values = 2 * 2 * capacity * loaded.base.num_layers * _width(loaded)
    return keys_and_values + SCORE_BYTES * _vocabulary(loaded) + 4 * capacity


def _vocabulary(loaded: LoadedModel) -> int:
    return int(loaded.base.model.config.get_text_config().vocab_size)


def _width(loaded: LoadedModel) -> int:
    return int(loaded.base.model.config.get_text_config().hidden_size)
