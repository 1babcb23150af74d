"""Texts of a family that is not BLOOM on a GPU: its own forward pass over one new token of each text, recorded once as a CUDA
graph and replayed.

At Qwen3-1.7B's size Python needs 85 ms to launch what a token asks of an H200; recorded, a token takes 16. A recorded step
works on the same memory each time, so keys and values lie in tensors of a fixed size, and Transformers' growing cache is
left out: our attention, which the model is given by name, writes each row's key and value to its place, and reads up to
there. What a family does with positions, norms and heads is its own.

    if not unsupported_reason(loaded, tokens):      tried on two prompts, beside Transformers' own cache
        decoder = RecordedDecoder(loaded)           a BatchDecoder (`decode.py`)

Shapes: B rows, S places of each, H heads, G of them to a key, D head dimension, V vocabulary."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn

from florilegium.errors import reason_of
from florilegium.generation.decode import BatchDecoder, PackedDecoder, StockDecoder
from florilegium.generation.request import Request
from florilegium.model import LoadedModel, fast_paths
from florilegium.model.families import head_weight
from florilegium.model.families.base import inner_model
from florilegium.reference import head_logits

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from florilegium.model.kernel_protocols import GraphRunner

NAME = "florilegium_places"
# The attention of a model is set for all threads, and while one of them records no other may ask the device for memory.
ONE_AT_A_TIME = threading.RLock()
STEP = 64  # places are taken in these: graphs of a few sizes
TRIED = ((11, 7, 23, 5, 9, 31, 14), (8, 19, 3, 12))  # token ids of two prompts, which any vocabulary has
NEAR = {torch.float32: 1e-3}  # of the largest score; 16 bits round a few hundredths of it
NEAR_IN_16_BITS = 0.05


@dataclass
class Places:
    """Where keys and values lie: by layer [B, H / G, S, D]. `place_B` is where the token of each row goes; None while prompts
    are read, which begin at 0."""

    rows: int
    size: int
    place_B: torch.Tensor | None = None
    keys: dict[int, torch.Tensor] = field(default_factory=dict)
    values: dict[int, torch.Tensor] = field(default_factory=dict)

    def of_layer(self, layer: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if layer not in self.keys:
            # zeros: what lies behind a row's end is hidden from it by a probability of 0, and 0 times NaN is NaN
            shape = self.rows, like.shape[1], self.size, like.shape[3]
            self.keys[layer], self.values[layer] = like.new_zeros(shape), like.new_zeros(shape)
        return self.keys[layer], self.values[layer]


_places: ContextVar[Places | None] = ContextVar("places", default=None)


def place_attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, **options: object,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """As Transformers calls it: query [B, H, T, D], key and value [B, H / G, T, D], to [B, T, H, D]. Raises ValueError for what
    it does not make."""
    places, layer = _places.get(), getattr(module, "layer_idx", None)
    given = [name for name in ("softcap", "s_aux", "head_mask") if options.get(name) is not None]
    if places is None or not isinstance(layer, int) or attention_mask is not None or given:
        raise ValueError(f"the attention of a recorded step takes no {' or '.join(given) or 'mask, and wants a layer'}")
    if isinstance(window := options.get("sliding_window"), int) and window < places.size:
        raise ValueError(f"texts of {places.size} tokens are longer than the window of {window}")
    B, H, T, D = query.shape
    G = H // key.shape[1]
    keys, values = places.of_layer(layer, key)
    if places.place_B is None:
        keys[:, :, :T], values[:, :, :T] = key, value
        # padding lies behind each prompt, where no token of it looks
        k, v = key.repeat_interleave(G, 1), value.repeat_interleave(G, 1)
        out = F.scaled_dot_product_attention(query, k, v, is_causal=T > 1, scale=scaling)
        return out.transpose(1, 2), None
    row_B = torch.arange(B, device=query.device)
    keys[row_B, :, places.place_B], values[row_B, :, places.place_B] = key[:, :, 0], value[:, :, 0]
    seen_BS = torch.arange(places.size, device=query.device)[None] <= places.place_B[:, None]
    # the heads of a key are as many queries of one head, so that nothing is written out for each
    grouped = query.reshape(B, H // G, G, D)
    out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=seen_BS[:, None, None], scale=scaling)
    return out.reshape(B, 1, H, D), None


class RecordedDecoder:
    """Rows stay where they are: one whose text has ended is computed on, since a token of one row takes as long as of
    all."""

    def __init__(self, loaded: LoadedModel, *, record: bool = True) -> None:
        self.loaded, self.record, self.device = loaded, record, loaded.base.device
        self.backbone: Any = loaded.backbone  # Transformers' model, of whichever class
        self.head_VW, self.rule = head_weight(loaded.model).detach(), loaded.logit_rule
        self.runner: GraphRunner | None = None

    def read(self, prompts: Sequence[Sequence[int]], room: int) -> torch.Tensor:
        longest = max(len(prompt) for prompt in prompts)
        tokens_BT = torch.zeros(len(prompts), longest, dtype=torch.int64)
        for b, prompt in enumerate(prompts):
            tokens_BT[b, : len(prompt)] = torch.tensor(list(prompt))
        self.places = Places(len(prompts), places_for(longest + room))
        self.rows = torch.arange(len(prompts), device=self.device)
        position_BT = torch.arange(longest, device=self.device)[None].expand(len(prompts), -1)
        with _into(self.places, self.backbone.config):
            hidden_BTW = self._hidden(tokens_BT.to(self.device), position_BT)
        self.length_B = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        if self.record:
            self.runner = fast_paths.graph_runner(self._step, ())
        return self._scores(hidden_BTW[self.rows, self.length_B - 1])

    def write(self, tokens_B: torch.Tensor) -> torch.Tensor:
        token_B = torch.zeros_like(self.length_B).index_copy_(0, self.rows, tokens_B)
        # a row that has ended writes over its last place again and again
        place_B = self.length_B.clamp(max=self.places.size - 1)
        inputs = {"token_B": token_B, "place_B": place_B}
        with ONE_AT_A_TIME:
            scores_BV = self._step(inputs) if self.runner is None else self.runner(inputs)
        self.length_B = self.length_B.index_add(0, self.rows, torch.ones_like(self.rows))
        return scores_BV[self.rows]  # a copy: the next step writes over what was recorded

    def keep(self, rows: torch.Tensor) -> None:
        self.rows = self.rows[rows]

    def join(self, other: RecordedDecoder) -> bool:
        return False  # another recording, over other memory

    def _step(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        token_B, place_B = inputs["token_B"], inputs["place_B"]
        self.places.place_B = place_B
        with _into(self.places, self.backbone.config):
            return self._scores(self._hidden(token_B[:, None], place_B[:, None])[:, 0])

    def _hidden(self, tokens_BT: torch.Tensor, position_BT: torch.Tensor) -> torch.Tensor:
        found = self.backbone(input_ids=tokens_BT, position_ids=position_BT, use_cache=False)
        hidden_BTW: torch.Tensor = found.last_hidden_state
        return hidden_BTW

    def _scores(self, hidden_BW: torch.Tensor) -> torch.Tensor:
        return head_logits(hidden_BW, self.head_VW, self.rule).float()


@contextlib.contextmanager
def _into(places: Places, config: PretrainedConfig) -> Iterator[None]:
    """Inside, the model attends by `place_attention`, and makes no mask."""
    from transformers import AttentionInterface

    with ONE_AT_A_TIME:
        AttentionInterface.register(NAME, place_attention)
        parts = {name: part for name in config.sub_configs if (part := getattr(config, name, None)) is not None}
        before = {name: part._attn_implementation for name, part in {"": config, **parts}.items()}
        token = _places.set(places)
        config._attn_implementation = NAME  # of its sub-configs too
        try:
            yield
        finally:
            config._attn_implementation = before
            _places.reset(token)


def batch_decoder(loaded: LoadedModel, requests: Sequence[Request]) -> BatchDecoder:
    """What writes these texts in a batch of their own."""
    if loaded.base.packs:
        return PackedDecoder(loaded)
    tokens = max(len(request.token_ids) for request in requests) + requests[0].settings.max_new_tokens
    return StockDecoder(loaded) if unsupported_reason(loaded, tokens) else RecordedDecoder(loaded)


def places_for(tokens: int) -> int:
    return -(-tokens // STEP) * STEP


# What was found, as long as the model lives: it is asked before every text.
_tried: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def unsupported_reason(loaded: LoadedModel, tokens: int) -> str:
    """Why texts of so many tokens, prompt and all, go through Transformers' own cache, or an empty string."""
    if loaded.base.device.type != "cuda" or not fast_paths.HAS_FAST:
        return "there is nothing to record on a CPU"
    window = getattr(inner_model(loaded.model).config.get_text_config(), "sliding_window", None)
    if isinstance(window, int) and window < places_for(tokens):
        return f"its window has {window} tokens"
    if loaded.backbone not in _tried:
        _tried[loaded.backbone] = try_decoder(loaded, record=True)
    return _tried[loaded.backbone]


@torch.inference_mode()
def try_decoder(loaded: LoadedModel, *, record: bool) -> str:
    """Why its scores are not those of Transformers' own cache for two prompts and two tokens more, or an empty string."""
    ours, stock = RecordedDecoder(loaded, record=record), StockDecoder(loaded)
    limit = NEAR.get(loaded.base.compute_dtype, NEAR_IN_16_BITS)
    more = torch.tensor(TRIED[0][:2], device=loaded.base.device)
    try:
        with loaded.evaluating():
            for step in range(3):
                mine = ours.read(TRIED, STEP - len(TRIED[0])) if not step else ours.write(more)
                theirs = stock.read(TRIED, STEP - len(TRIED[0])) if not step else stock.write(more)
                if not bool((mine - theirs).abs().max() <= limit * theirs.abs().max()):
                    return "its layers compute something else with our attention"
    except Exception as error:  # a family's own attention raises what it likes, and so does what cannot be recorded
        return reason_of(error)
    return ""
