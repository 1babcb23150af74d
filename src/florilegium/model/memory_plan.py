"""How much memory a run will take, before it takes it, and what to keep in it: the trunk's plan (`block_stack.py`).

What a step needs above the base is known from shapes alone: the adapter with its optimiser, one wide weight (where
products do not read the base as it is stored), what each block saves of each token, the tensors of the block at work,
one chunk of logits. `choose` fills a budget in the order of gain: all activations kept; then wide copies of as many
blocks' weights as fit; where the first does not fit, as many blocks as do, the others made again in the backward pass.
A step may be cut into pieces of fewer tokens with the same gradient, so the plan is for the largest piece. Sizes are in
bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from florilegium.errors import ResourceError
from florilegium.tokens import PackPlan
from florilegium.tokens.batch_order import TILE

HEAD_CHUNK = 512 * 2**20
WORKSPACE = 80 * 2**20  # cuBLAS' own, 32 MiB for each of two streams on a Hopper card, and what is too small to count
PARTS = 17 * 2**20  # what an H100's multiprocessors leave of tiles for one another (`int8_matmul.py`)
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """What the forecast reads of a model. `base` is what it holds in memory now."""

    base: int
    layers: int
    width: int
    heads: int
    vocabulary: int
    adapter_parameters: int
    reads_codes: bool = False  # whether products read the base as it is stored, and wide weights win little

    @property
    def token_full(self) -> int:
        """What a block saves of a token: input, middle, qkv, context, GELU's input or slope, in 2 bytes a number;
        log-sum-exp in 4."""
        return 20 * self.width + 4 * self.heads

    @property
    def copy(self) -> int:
        """The wide weights of one block; beside those of query_key_value the adapter's columns, in whole lines of
        64."""
        rank = self.adapter_parameters / (4 * self.width * self.layers)
        return 2 * (12 * self.width**2 + 3 * self.width * 64 * math.ceil(rank / 64))


@dataclass(frozen=True)
class Forecast:
    """The plan in numbers: blocks that keep all activations, blocks that keep input and middle, blocks with wide
    copies, tokens of the largest piece, and the peak that is expected. `products` is what there is to say of how the
    base is read."""

    full: int
    middle: int
    copies: int
    tokens: int
    peak: int
    products: str = ""


def shape_of(model: Any, base_bytes: int, *, reads_codes: bool) -> Shape:
    config = model.config
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Shape(base_bytes, config.n_layer, config.hidden_size, config.n_head, config.vocab_size, trained, reads_codes)


def peak(shape: Shape, tokens: int, full: int, middle: int, copies: int) -> int:
    """The largest memory of a step on `tokens` tokens under a plan."""
    W, rest = shape.width, shape.layers - full
    saved = tokens * (
        full * shape.token_full
        + min(rest, max(0, middle - full)) * 4 * W
        + max(0, shape.layers - max(full, middle)) * 2 * W
    )
    at_work = tokens * W * (30 + (20 if rest else 0))
    logits = min(HEAD_CHUNK, 2 * tokens * shape.vocabulary) + tokens * W * 10
    # Each of the adapter's numbers is there itself, as its gradient added up and just found, as AdamW's two, and twice
    # in 2 bytes.
    # one weight at a time is made wide
    one = PARTS if shape.reads_codes else 2 * 4 * W * W if copies < shape.layers else 0
    wide = copies * shape.copy + one
    fixed = shape.base + 24 * shape.adapter_parameters + WORKSPACE
    return fixed + saved + max(at_work, logits) + wide


def choose(shape: Shape, steps: Sequence[int], budget: int, memory: str, longest: int = 64) -> Forecast:
    """The plan for steps of these token counts within `budget`; `memory` is auto, fast (all kept, no copies) or lean
    (little kept). A row is never cut, so no piece is planned smaller than the `longest`.

    Raises ResourceError when not even the leanest plan fits.
    """
    # Most steps hold a multiple of TILE, and memory for a few longer ones is better spent on copies.
    wanted = [int(max(steps) * share) for share in (1.0, 0.75, 0.5, 0.25, 0.125)] + list(range(TILE, max(steps), TILE))
    round_up = PackPlan(bucketed=True, multiple=64).round_up
    sizes = sorted({round_up(max(tokens, longest)) for tokens in wanted}, reverse=True)
    found = [f for tokens in sizes if (f := _fill(shape, tokens, budget, memory))]
    if not found:
        need = peak(shape, sizes[-1], 0, 0, 0) / GIB
        fix = "Use --bits 4, a smaller --model, or a shorter --max-length"
        raise ResourceError(f"the leanest step needs {need:.1f} GiB, and {budget / GIB:.1f} GiB are there", fix)
    return min(found, key=lambda f: _cost(shape, steps, f))


def _fill(shape: Shape, tokens: int, budget: int, memory: str) -> Forecast | None:
    L = shape.layers

    def fits(full: int, middle: int, copies: int) -> bool:
        return peak(shape, tokens, full, middle, copies) <= budget

    if not fits(0, 0, 0):
        return None
    full = 0 if memory == "lean" else max(n for n in range(L + 1) if n == 0 or fits(n, n, 0))
    middle = L if full == L else max(n for n in range(full, L + 1) if n == full or fits(full, n, 0))
    copies = max(n for n in range(L + 1) if n == 0 or fits(full, middle, n)) if memory == "auto" and full == L else 0
    return Forecast(full, middle, copies, tokens, peak(shape, tokens, full, middle, copies))


def _cost(shape: Shape, steps: Sequence[int], plan: Forecast) -> float:
    """Work of the steps, in tokens' passes through the products (measured on an H100 at 7b1): a token costs 2, and 0.6
    more where its block is made again; making all weights wide costs a pass of 340 tokens, reading all as they are
    stored 30; a piece costs 150 tokens more than its length."""
    passes = 2 + 0.6 * (shape.layers - plan.full) / shape.layers
    codes = (30 if shape.reads_codes else 340) * (shape.layers - plan.copies) / shape.layers
    pieces = sum(-(-tokens // plan.tokens) for tokens in steps)
    return passes * (sum(steps) + pieces * (150 + codes))
