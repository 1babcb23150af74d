"""How much memory a run will take, before it takes it, and what to keep in it: the plan of the fused blocks.

What a step needs above the base is known from shapes alone: the adapter with its optimizer, one dequantised weight
(where the matmuls do not read the base as it is stored), what each block keeps of each token, the tensors of the block
at work, one chunk of logits. `plan_memory` fills a budget in the order of gain: all activations kept; then bf16 copies
of as many blocks' weights as fit; where the first does not fit, as many blocks as do, the others recomputed in the
backward pass. A step may be cut into pieces of fewer tokens with the same gradient, so the plan is for the largest
piece. Where a stage of a pipeline is planned, the activations of several micro-batches are there at once (`InFlight`).
Where the blocks' weights lie in host memory, what is left brings as many of them onto the card as fit (`fast/host_blocks.py`).
Sizes are in bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from florilegium.errors import ResourceError
from florilegium.model.families import BlockSizes, PackedFamily
from florilegium.model.stage import Stage
from florilegium.tokens import PackPlan
from florilegium.tokens.batch_order import TILE

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

HEAD_CHUNK = 512 * 2**20
WORKSPACE = 80 * 2**20  # cuBLAS' own, 32 MiB for each of two streams on a Hopper card, and what is too small to count
TILE_PARTS = 17 * 2**20  # what an H100's multiprocessors leave of tiles for one another (`int8_matmul.py`)
GIB = 2**30
OPERATIONS_A_BYTE = 13_000  # of products, while the link brings a byte: an H200 on PCIe 5, an RTX 4090 on PCIe 4
BLOCK_ROWS = PackPlan(bucketed=True, multiple=64)  # the lengths that the fused blocks take


@dataclass(frozen=True)
class InFlight:
    """What a stage of a pipeline holds at once: micro-batches that are forward and not back, which together have no more
    tokens than a step (`step_tokens`), and of each the residual stream as it came and as it went, float32, to and from
    `neighbours` (1 or 2) other stages. Fewer than `least_tokens` in one take no less time (`micro_batches.py`)."""

    micro_batches: int
    step_tokens: int
    neighbours: int
    least_tokens: int = 1

    def tokens(self, each: int) -> int:
        """Tokens whose activations are kept, with micro-batches of `each`."""
        return min(self.micro_batches * each, max(each, self.step_tokens))

    def stream_bytes(self, each: int, width: int) -> int:
        """The streams of those tokens, and the gradients of one micro-batch on their way."""
        return 4 * width * self.neighbours * (self.tokens(each) + 2 * each)


@dataclass(frozen=True)
class ModelShape:
    """What the plan reads of a model, or of the stage of it that is here (`in_flight`; without head a vocabulary of 0).
    `base_bytes` is what it holds in memory now; `host_block` the codes of each block in host memory, 0 where all are on
    the card."""

    base_bytes: int
    num_layers: int
    width: int
    vocab_size: int
    adapter_parameters: int
    block: BlockSizes
    reads_int8: bool = False  # whether matmuls read the base as it is stored, and bf16 copies win little
    in_flight: InFlight | None = None
    host_block: int = 0

    @property
    def lora_rank(self) -> float:
        return self.adapter_parameters / max(1, (self.block.lora_inputs + self.block.lora_outputs) * self.num_layers)

    @property
    def copy_bytes(self) -> int:
        """The bf16 copy of one block's weights; beside those of the linear with LoRA the adapter's columns, in whole
        lines of 64."""
        return 2 * (self.block.weights + self.block.lora_outputs * 64 * math.ceil(self.lora_rank / 64))


@dataclass(frozen=True)
class MemoryPlan:
    """Blocks that keep all activations (`full`), blocks that keep input and middle, blocks with bf16 copies of their
    weights, all counted from the first; tokens of the largest piece; the peak that is expected; blocks whose weights stay
    in host memory."""

    full: int
    middle: int
    copies: int
    tokens: int
    peak: int
    offloaded: int = 0


def model_shape(
    family: PackedFamily,
    model: PreTrainedModel | PeftModel,
    base_bytes: int,
    *,
    reads_int8: bool,
    stage: Stage | None = None,
    host_block: int = 0,
) -> ModelShape:
    """Of the whole model, or of the stage that is here."""
    config = model.config
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad and not p.is_meta)
    adapter_on = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if hasattr(module, "base_layer")}
    return ModelShape(
        base_bytes,
        config.num_hidden_layers if stage is None else len(stage),
        config.hidden_size,
        config.vocab_size if stage is None or stage.has_head else 0,
        trained,
        family.block_sizes(config, adapter_on),
        reads_int8,
        host_block=host_block,
    )


def peak_bytes(
    shape: ModelShape, tokens: int, full: int, middle: int, copies: int, offloaded: int | None = None
) -> int:
    """The largest memory of a step on `tokens` tokens under a plan; `offloaded` None: all blocks that can be."""
    block, rest = shape.block, shape.num_layers - full
    alive = tokens if shape.in_flight is None else shape.in_flight.tokens(tokens)
    kept = alive * (
        full * block.kept
        + min(rest, max(0, middle - full)) * block.kept_middle
        + max(0, shape.num_layers - max(full, middle)) * block.kept_input
    )
    at_work = tokens * (block.at_work + (block.recomputed if rest else 0))
    logits = min(HEAD_CHUNK, 2 * tokens * shape.vocab_size) + tokens * shape.width * 10
    # One weight at a time is dequantised, where they are not read as they are stored.
    one = TILE_PARTS if shape.reads_int8 else 2 * block.largest_weight if copies < shape.num_layers else 0
    # Each of the adapter's numbers is there itself, as its gradient added up and just found, as AdamW's two, and twice
    # in 2 bytes.
    fixed = shape.base_bytes + 24 * shape.adapter_parameters + WORKSPACE
    here = 0 if offloaded is None else shape.num_layers - offloaded
    fixed += here * shape.host_block
    if shape.in_flight is not None:  # each micro-batch has A and B in 2 bytes, and its streams
        fixed += 2 * (shape.in_flight.micro_batches - 1) * shape.adapter_parameters
        fixed += shape.in_flight.stream_bytes(tokens, shape.width)
    return fixed + kept + max(at_work, logits) + copies * shape.copy_bytes + one


def plan_memory(shape: ModelShape, steps: Sequence[int], budget: int, memory: str, longest: int = 64) -> MemoryPlan:
    """The plan for steps of these token counts within `budget`; `memory` is auto, fast (all kept, no copies) or lean
    (little kept). A row is never cut, so no piece is planned smaller than the `longest`.

    Raises ResourceError when not even the most economical plan fits.
    """
    # Most steps hold a multiple of TILE, and memory for a few longer ones is better spent on copies.
    wanted = [int(max(steps) * share) for share in (1.0, 0.75, 0.5, 0.25, 0.125)] + list(range(TILE, max(steps), TILE))
    sizes = sorted({BLOCK_ROWS.round_up(max(tokens, longest)) for tokens in wanted}, reverse=True)
    plans = [plan for tokens in sizes if (plan := fill_memory(shape, tokens, budget, memory))]
    if not plans:
        need = peak_bytes(shape, sizes[-1], 0, 0, 0) / GIB
        fix = "Use a smaller --model or a shorter --max-length; of --bits, 4 takes least"
        raise ResourceError(
            f"not enough GPU memory: even the most economical plan needs {need:.1f} GiB, and {budget / GIB:.1f} GiB "
            "is available",
            fix,
        )
    return min(plans, key=lambda plan: plan_cost(shape, steps, plan))


def without_blocks(shape: ModelShape, bits: int) -> ModelShape:
    """The shape of a model whose blocks lie in host memory, of one that is all on the card: two blocks' codes are here."""
    block = shape.block.weights * bits // 8
    return replace(shape, base_bytes=shape.base_bytes - (shape.num_layers - 2) * block, host_block=block)


def least_plan(shape: ModelShape, tokens: int) -> MemoryPlan:
    """The most economical plan for one piece of this size, whether it fits or not."""
    streamed = shape.num_layers if shape.host_block else 0
    return MemoryPlan(0, 0, 0, tokens, peak_bytes(shape, tokens, 0, 0, 0), streamed)


def fill_memory(shape: ModelShape, tokens: int, budget: int, memory: str) -> MemoryPlan | None:
    """The plan for micro-batches of this size, or None where none fits."""
    L = shape.num_layers

    def fits(full: int, middle: int, copies: int) -> bool:
        return peak_bytes(shape, tokens, full, middle, copies) <= budget

    if not fits(0, 0, 0):
        return None
    if shape.host_block:
        return _offloaded(shape, tokens, budget)
    full = 0 if memory == "lean" else max(n for n in range(L + 1) if n == 0 or fits(n, n, 0))
    middle = L if full == L else max(n for n in range(full, L + 1) if n == full or fits(full, n, 0))
    copies = max(n for n in range(L + 1) if n == 0 or fits(full, middle, n)) if memory == "auto" and full == L else 0
    return MemoryPlan(full, middle, copies, tokens, peak_bytes(shape, tokens, full, middle, copies))


def _offloaded(shape: ModelShape, tokens: int, budget: int) -> MemoryPlan:
    """Blocks in host memory, of which as many are brought onto the card as fit: that saves a copy each way, and to keep
    activations only arithmetic, which the copies hide."""
    L = shape.num_layers
    middle = max(n for n in range(L + 1) if n == 0 or peak_bytes(shape, tokens, 0, n, 0) <= budget)
    stay = min(n for n in range(L + 1) if n == L or peak_bytes(shape, tokens, 0, middle, 0, n) <= budget)
    return MemoryPlan(0, middle, 0, tokens, peak_bytes(shape, tokens, 0, middle, 0, stay), stay)


def plan_cost(shape: ModelShape, steps: Sequence[int], plan: MemoryPlan) -> float:
    """Work of the steps, in tokens' passes through the matmuls (measured on an H100 at 7b1): a token costs 2, and 0.6
    more where its block is recomputed; dequantising all weights costs a pass of 340 tokens, reading all as they are
    stored 30; a piece costs 150 tokens more than its length."""
    passes = 2 + 0.6 * (shape.num_layers - plan.full) / shape.num_layers
    weights = (30 if shape.reads_int8 else 340) * (shape.num_layers - plan.copies) / shape.num_layers
    pieces = sum(-(-tokens // plan.tokens) for tokens in steps)
    floor = pieces * shape.in_flight.least_tokens if shape.in_flight is not None else 0
    if shape.host_block:  # a piece takes no less than its copies, there and back
        link = plan.offloaded * shape.host_block * OPERATIONS_A_BYTE / (2 * shape.block.weights * shape.num_layers)
        floor = pieces * math.ceil(link)
    return passes * max(sum(steps) + pieces * (150 + weights), floor)
