"""Decoding at the speed of memory: a step over BLOOM's own modules, recorded once a shape and replayed.

The cache has `slots`, each with room for one text of `capacity` tokens. A step works on M token rows, and what they are
is the caller's: the next token of slots that are writing, tokens of prompts that are being read, both at once. So
reading a prompt needs no pass of its own, and a slot whose text has ended takes the next prompt while its neighbours
write on.

    decoder = Decoder(bloom, head_VW, slots=64, capacity=256, eos=2)
    place = decoder.add_adapter(other)              another adapter of the same base; that of `bloom` itself has place 0
    decoder.admit(slots, limits, uniforms, ...)     new texts in those slots
    step = decoder.step(rows, sample_rows)          rows: (slot, token, position), or (slot, NEXT, NEXT) to write on
    tokens = step.tokens()                          waits; the next token of each row whose number is in `sample_rows`

Texts of one prompt read it once: from its last row `step` samples for several slots, each by its own settings and random
numbers, and copies keys and values to those that did not read it.

Which token comes next is sampled on the GPU, where the next step reads it: a step can be asked for before the one
before it is done, and `tokens` of a step that has ended costs nothing. Weights are read as they are stored, the adapter
is live (each slot has its own, or none), and a text is the same bit by bit whatever was written beside it: no sum
depends on another row.

The reference is `generation/decode.py`'s PackedDecoder, a batch at a time. Shapes: M rows, Q of them whose next token is sampled, W
width, V vocabulary, H heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from florilegium.fast.decoding import attention_kernel, block_kernel, matmul_kernel, sampling
from florilegium.fast.decoding.adapters import NONE, AdapterPool, DecoderLora, lora_operands
from florilegium.fast.decoding.block_kernel import SplitUpdate
from florilegium.fast.decoding.matmul_kernel import CacheOperands
from florilegium.fast.decoding.sampling import Needs, needs_of
from florilegium.fast.decoding.state import DecodeStep, SamplingParams, StepInputs, make_slot_state
from florilegium.fast.decoding.stored_weight import StoredWeight
from florilegium.fast.decoding.weights import DecoderBlock, decoder_block, stored_head
from florilegium.fast.modules import Bloom, lora_of, wrapped_linears
from florilegium.fast.parallel_compile import compile_in_parallel
from florilegium.fast.recording import recorded, synchronize, undisturbed
from florilegium.reference import alibi_slopes

ROWS = (1, 4, 16, 32, 64, 128, 256, 384, 512, 768, 1024)  # each is recorded when it is first needed, 50 ms
STAGES = 4  # steps whose inputs and outputs may be under way at once

Row = tuple[int, int, int]


class Decoder:
    NEXT = -1  # as a row's token and position: those that its slot goes on with

    def __init__(
        self,
        bloom: Bloom,
        head_VW: torch.Tensor,
        *,
        slots: int,
        capacity: int,
        eos: int,
        max_rows: int = 1024,
        places: int = 1,
        int8_head: bool = False,
        cuda_graphs: bool = True,
    ) -> None:
        """`capacity` bounds a text, prompt and all; `max_rows` the rows of a step; `places` are for adapters, and grow
        where they must. `int8_head`: read a copy of the head in int8; `cuda_graphs`: replay CUDA graphs."""
        self.bloom, self.eos, self.cuda_graphs = bloom, eos, cuda_graphs
        self.num_slots, self.capacity = slots, capacity
        enough = next(m for m in ROWS if m >= min(max(max_rows, slots), ROWS[-1]))
        self.rows = [m for m in ROWS if m <= enough]
        self.blocks = [decoder_block(layer) for layer in bloom.h]
        self.heads = bloom.num_heads
        self.slopes_H = alibi_slopes(self.heads, head_VW.device)
        self.head = stored_head(head_VW, int8=int8_head)
        self._make_buffers(head_VW.device, head_VW.dtype)
        self.adapters = AdapterPool(self.blocks, head_VW.dtype, places)
        self.place_of_slot: dict[int, int] = {}
        self.inputs: dict[tuple[int, int], list[StepInputs]] = {}
        self.graphs: dict[tuple[int, int, Needs], torch.cuda.CUDAGraph] = {}
        self.pool: Any = None  # of torch's graphs; it has no public type
        self.events: list[Any] = [None] * STAGES
        self.turn = 0
        self.settings: dict[int, SamplingParams] = {}
        if any(lora_of(module) for layer in bloom.h for module in wrapped_linears(layer)):
            self.add_adapter(bloom)

    @torch.inference_mode()
    def add_adapter(self, bloom: Bloom) -> int:
        """The place of `bloom`'s LoRA; its base has the weights of this decoder's, without an `unsupported_reason`."""
        before = self.adapters.tensors_made
        try:
            return self.adapters.add(bloom)
        finally:  # also where memory ran out on the way
            if self.adapters.tensors_made != before:
                self._forget_graphs()

    def _forget_graphs(self) -> None:
        """They read tensors that are gone."""
        if self.normed.is_cuda:
            synchronize()  # the steps under way read what is let go here
        # inputs hold a list of places; torch drops a pool with its last graph
        with undisturbed():
            self.inputs, self.graphs, self.pool = {}, {}, None
        self.lora_x_at = self.normed.new_zeros(len(self.normed), self.adapters.rank)

    def remove_adapter(self, place: int) -> None:
        """When no text wants it any more."""
        self.adapters.remove(place)

    def _make_buffers(self, device: torch.device, dtype: torch.dtype) -> None:
        """All that a step writes to, for the longest step: a recorded graph reads and writes the same addresses."""
        slots, capacity = self.num_slots, self.capacity
        M, W, V = self.rows[-1], self.bloom.embed_dim, self.head.N
        padded = -(-M // 128) * 128  # the matmuls read whole tiles of rows
        most = max(weight.split for block in self.blocks for weight in (block.dense, block.down))

        def make(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        self.cache = make(len(self.blocks), 2, slots, self.heads, capacity, W // self.heads)
        self.state = make_slot_state(slots, capacity, V, M, device)
        # Two streams in turn: programs that make x A^T read the one while another writes the next.
        self.residual = [make(M, W, dtype=torch.float32) for _ in range(2)]
        self.normed, self.context, self.active = make(padded, W), make(padded, W), make(padded, 4 * W)
        self.query, self.lora_x_at = make(M, W), make(padded, 1)
        self.partial = make(most * M * W, dtype=torch.float32)
        self.scores = make(slots * V, dtype=torch.float32)
        self.row_position, self.out = (make(slots, dtype=torch.int32) for _ in range(2))
        self.work = sampling.Workspace.make(slots, device)
        # The host's side, one for each step that may be under way: a copy must not be overtaken by the next.
        self.outs = [torch.zeros(slots, dtype=torch.int32, pin_memory=device.type == "cuda") for _ in range(STAGES)]

    @torch.inference_mode()
    def admit(
        self, slots: Sequence[int], limits: Sequence[int], uniforms: Sequence[torch.Tensor], settings: Sequence[SamplingParams],
        adapters: Sequence[int | None], prompts: Sequence[Sequence[int]],
    ) -> None:  # fmt: skip
        """New texts in these slots, which may write `limits` tokens. `uniforms` are random numbers, one for the opening
        and one for each token; `adapters` their places, None the base alone; `prompts` are for the repetition penalty and
        are read by `step`."""
        self.settings |= dict(zip(slots, settings, strict=True))
        self.place_of_slot |= {s: NONE if place is None else place for s, place in zip(slots, adapters, strict=True)}
        self.state.admit(slots, limits, uniforms, settings, prompts)

    @torch.inference_mode()
    def step(self, rows: Sequence[Row], sample_rows: Sequence[int], slots: Sequence[int] | None = None) -> DecodeStep:
        """Works on `rows`, at most `rows[-1]` of them, and samples the next token of rows number `sample_rows`, each the
        last of its slot's, for that slot; or for those in `slots`, which go on behind that row as if they had read its
        prompt."""
        slots = [rows[m][0] for m in sample_rows] if slots is None else list(slots)
        M = next(m for m in self.rows if m >= max(len(rows), len(slots)))
        # As many as M rows could ever sample: one graph a shape, whoever is sampled this time.
        Q = min(M, self.num_slots)
        assert len(sample_rows) == len(slots) == len(set(slots)) <= Q, "one token a slot"
        stage = self.turn = (self.turn + 1) % STAGES
        if self.events[stage] is not None:
            self.events[stage].synchronize()  # its inputs have been read, its tokens been fetched
        inputs, *staged = self._inputs(M, Q)
        staged[stage].fill(rows, [self.place_of_slot[row[0]] for row in rows], sample_rows, slots)
        inputs.memory.copy_(staged[stage].memory, non_blocking=True)
        self._run(M, Q, needs_of([self.settings[slot] for slot in {row[0] for row in rows} | {*slots}]))
        # To pinned memory, so the host does not wait: the event behind it says when it has arrived.
        self.outs[stage].copy_(self.out, non_blocking=True)
        if self.out.is_cuda:
            self.events[stage] = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch does not annotate it
            self.events[stage].record()
        # Behind the event, so that no token waits for it; before the next step, which reads what is copied.
        for (source, _, position), slot in zip([rows[m] for m in sample_rows], slots, strict=True):
            if slot != source:
                self.copy_prompt(source, slot, position + 1)
        return DecodeStep(slots, self.outs[stage], self.events[stage])

    @torch.inference_mode()
    def copy_prompt(self, source: int, slot: int, length: int) -> None:
        """Keys and values of the first `length` positions, as the steps asked for so far leave them."""
        self.cache[:, :, slot, :, :length] = self.cache[:, :, source, :, :length]

    def _inputs(self, M: int, Q: int) -> list[StepInputs]:
        if (M, Q) not in self.inputs:
            # Kept for good: a recorded graph reads these very addresses.
            self.inputs[M, Q] = StepInputs.staged(M, Q, self.adapters.places, self.out.device, STAGES)
        return self.inputs[M, Q]

    def _run(self, M: int, Q: int, needs: Needs) -> None:
        inputs = self._inputs(M, Q)[0]
        if not self.cuda_graphs:
            self._forward(inputs, M, Q, needs)
            return
        graph = self.graphs.get((M, Q, needs))
        if graph is None:
            graph = self.graphs[M, Q, needs] = self._record(inputs, M, Q, needs)
        graph.replay()

    def _record(self, inputs: StepInputs, M: int, Q: int, needs: Needs) -> torch.cuda.CUDAGraph:
        """Rows of no slot change nothing: with those, kernels are compiled before the recording."""
        empty = StepInputs.make(M, Q, self.adapters.places, device=self.out.device)
        with compile_in_parallel():
            self._forward(empty, M, Q, needs)
        self._forward(empty, M, Q, needs)  # for real: what a first launch prepares cannot be recorded
        synchronize()
        graph = torch.cuda.CUDAGraph()
        # alone: what a first recording allocates is the pool that the others share
        with recorded(graph, self.pool):
            self._forward(inputs, M, Q, needs)
        # One pool for all graphs: no two run at once, so their memory may overlap.
        self.pool = self.pool or graph.pool()
        return graph

    def _forward(self, inputs: StepInputs, M: int, Q: int, needs: Needs) -> None:
        update = None
        block_kernel.embed(self.state, inputs, self.bloom, self.residual[0], M)
        for index, block in enumerate(self.blocks):
            update = self._block(index, block, inputs, update, M)
        stream = self.residual[0]
        # From here on only the rows that are sampled: the head is the largest weight of all.
        block_kernel.residual_norm(
            stream, update, self.bloom.ln_f, stream, self.normed, M, self.head.column_order,
            rows=inputs.sample_rows, num_rows=Q,
        )  # fmt: skip
        scores_QV = self.scores[: Q * self.head.N].view(Q, self.head.N)
        matmul_kernel.stored_matmul(self.normed, self.head, scores_QV, Q, matmul_kernel.SCORES)
        block_kernel.gather_positions(inputs, self.state, self.row_position, Q)
        slots = inputs.sample_slots
        sampling.sample(scores_QV, slots, self.row_position, self.state, self.work, self.out, self.eos, needs)

    def _block(
        self, index: int, block: DecoderBlock, inputs: StepInputs, update: SplitUpdate | None, M: int
    ) -> SplitUpdate:
        """One block on the M rows; the residual stream goes from the first buffer to the other and back."""
        state, (stream, other) = self.state, self.residual
        qkv_lora, dense_lora, up_lora, down_lora = self.adapters.of_block(index)
        lora_input, lora = lora_operands(qkv_lora, inputs, self.lora_x_at)
        block_kernel.residual_norm(
            stream, update, block.norm1, other, self.normed, M, block.qkv.column_order, lora=lora_input
        )
        keys, values = self.cache[index]
        cache = CacheOperands(keys, values, inputs.slot, state.position)
        matmul_kernel.stored_matmul(self.normed, block.qkv, self.query, M, matmul_kernel.QKV, lora=lora, cache=cache)
        attention_kernel.cached_attention(
            self.query, keys, values, inputs.slot, state.position, self.slopes_H, self.context, M, block.dense.column_order
        )  # fmt: skip
        update = self._partial_sums(self.context, block.dense, dense_lora, inputs, M)
        lora_input, lora = lora_operands(up_lora, inputs, self.lora_x_at)
        block_kernel.residual_norm(
            other, update, block.norm2, stream, self.normed, M, block.up.column_order, lora=lora_input
        )
        matmul_kernel.stored_matmul(self.normed, block.up, self.active, M, matmul_kernel.GELU, lora=lora)
        return self._partial_sums(self.active, block.down, down_lora, inputs, M)

    def _partial_sums(
        self, x: torch.Tensor, weight: StoredWeight, adapter: DecoderLora | None, inputs: StepInputs, M: int
    ) -> SplitUpdate:
        """A matmul that the next norm adds to the residual stream."""
        lora_input, lora = lora_operands(adapter, inputs, self.lora_x_at)
        if lora_input is not None:  # a norm's input has it made by the norm
            block_kernel.down_projection(x, lora_input, M)
        matmul_kernel.stored_matmul(x, weight, self.partial, M, matmul_kernel.PARTIAL, lora=lora, split=weight.split)
        return SplitUpdate(self.partial, weight)
