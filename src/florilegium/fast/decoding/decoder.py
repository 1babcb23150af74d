"""Writing tokens at the speed of memory: a step of decoding over BLOOM's own modules, recorded once a shape and
replayed.

The cache has `slots`, each with room for one text of `places` tokens. A step works on M token rows, and what they are
is the caller's: the next token of slots that are writing, tokens of prompts that are being read, both at once. So
reading a prompt needs no pass of its own, and a slot whose text has ended takes the next prompt while its neighbours
write on.

    decoder = Decoder(bloom, head_VW, slots=64, places=256, eos=2)
    decoder.admit(slots, limits, chances, ...)      new texts in those slots
    step = decoder.step(rows, wanted)               rows: (slot, token, place), or (slot, decoder.NEXT, decoder.NEXT) to write on
    tokens = step.tokens()                          waits; the next token of each row whose number is in `wanted`

Which token comes next is chosen on the GPU, where the next step reads it: a step can be asked for before the one before
it is done, and `tokens` of a step that has ended costs nothing. Weights are read as they are stored, the adapter is
live (a slot may go without), and a text is the same bit by bit whatever was written beside it: no sum depends on
another row.

The twin is `generation/decode.py`'s PackedDecoder. Shapes: M rows, Q of them whose next token is chosen, W width, V vocabulary, H
heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from florilegium.fast.decoding import block_kernel as decode_kernel
from florilegium.fast.decoding import matmul_kernel as product_kernel
from florilegium.fast.decoding import sampling_kernel as sample_kernel
from florilegium.fast.decoding.matmul_kernel import GELU, PARTIAL, QKV, SCORES
from florilegium.fast.decoding.state import Inputs, Step, inputs_places, make_slots
from florilegium.fast.decoding.weights import Block, Weight, block_of, padded_rank
from florilegium.fast.parallel_compile import together
from florilegium.reference import alibi_slopes

ROWS = (1, 4, 16, 32, 64, 128, 256, 384, 512, 768, 1024)  # each is recorded when it is first needed, 50 ms
STAGES = 4  # steps whose inputs and outputs may be under way at once

Row = tuple[int, int, int]


class Decoder:
    NEXT = -1  # as a row's token and place: those that its slot goes on with

    def __init__(
        self,
        bloom: Any,
        head_VW: torch.Tensor,
        *,
        slots: int,
        places: int,
        eos: int,
        most_rows: int = 1024,
        recorded: bool = True,
    ) -> None:
        """`places` bounds a text, prompt and all; `most_rows` the rows of a step. `recorded`: replay CUDA graphs."""
        self.bloom, self.eos, self.recorded = bloom, eos, recorded
        device, dtype = head_VW.device, head_VW.dtype
        self.num_slots, self.places = slots, places
        enough = next(m for m in ROWS if m >= min(max(most_rows, slots), ROWS[-1]))
        self.rows = [m for m in ROWS if m <= enough]
        self.blocks = [block_of(layer, dtype) for layer in bloom.h]
        self.heads, W = bloom.num_heads, bloom.embed_dim
        self.slopes_H = alibi_slopes(self.heads, device)
        V = len(head_VW)
        ones = torch.ones(1, device=device)
        self.head = Weight(head_VW, ones, ones, V, W, 16, (ones,) * 2, 1)
        self.cache = torch.zeros(
            len(self.blocks), 2, slots, self.heads, places, W // self.heads, dtype=dtype, device=device
        )
        self.state = make_slots(slots, places, V, self.rows[-1], device)
        M, padded = self.rows[-1], -(-self.rows[-1] // 128) * 128
        most = max(weight.split for block in self.blocks for weight in (block.dense, block.down))
        R = max((padded_rank(block.lora) for block in self.blocks), default=0)

        def make(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        self.residual = [make(M, W, dtype=torch.float32) for _ in range(2)]
        self.normed, self.context, self.active = make(padded, W), make(padded, W), make(padded, 4 * W)
        self.query, self.thin = make(M, W), make(padded, max(R, 1))
        self.partial = make(most * M * W, dtype=torch.float32)
        self.scores = make(slots * V, dtype=torch.float32)
        self.row_slot, self.row_place = (torch.zeros(slots, dtype=torch.int32, device=device) for _ in range(2))
        self.out = torch.zeros(slots, dtype=torch.int32, device=device)
        self.work = sample_kernel.buffers(slots, device)
        self.inputs: dict[tuple[int, int], Inputs] = {}
        self.graphs: dict[tuple[Any, ...], Any] = {}
        self.pool: Any = None
        pinned = device.type == "cuda"
        self.staged = [Inputs.make(M, slots, pin_memory=pinned) for _ in range(STAGES)]
        self.outs = [torch.zeros(slots, dtype=torch.int32, pin_memory=pinned) for _ in range(STAGES)]
        self.events: list[Any] = [None] * STAGES
        self.turn = 0
        self.rules: dict[int, Any] = {}

    @torch.inference_mode()
    def admit(
        self, slots: Sequence[int], limits: Sequence[int], chances: Sequence[torch.Tensor], rules: Sequence[Any],
        adapter: Sequence[bool], prompts: Sequence[Sequence[int]],
    ) -> None:  # fmt: skip
        """New texts in these slots, which may write `limits` tokens. `chances` are uniform numbers, one for the opening
        and one for each token; `rules` have the fields of SamplingSettings; `prompts` are for the penalty and are read
        by `step`."""
        state, places = self.state, self.places
        table = torch.zeros(len(slots), 7 + places + 1)
        for row, slot, limit, worn, rule, chance in zip(table, slots, limits, adapter, rules, chances, strict=True):
            row[:7] = torch.tensor(
                [slot, limit, worn, rule.temperature, rule.top_p, rule.top_k, rule.repetition_penalty]
            )
            row[7 : 7 + len(chance)] = chance
            self.rules[slot] = rule
        # From pinned memory, or the copy would wait for the step under way.
        table = (table.pin_memory() if state.rule.is_cuda else table).to(state.rule.device, non_blocking=True)
        at = table[:, 0].long()
        state.limit[at], state.adapter[at] = table[:, 1].int(), table[:, 2]
        state.rule[at], state.chance[at] = table[:, 3:7], table[:, 7:]
        state.done.index_fill_(0, at, 0)
        state.written.index_fill_(0, at, 0)
        for slot, rule, prompt in zip(slots, rules, prompts, strict=True):
            if rule.repetition_penalty != 1:
                state.seen[slot] = 0
                state.seen[slot, torch.tensor(list(prompt), device=state.seen.device)] = 1

    @torch.inference_mode()
    def step(self, rows: Sequence[Row], wanted: Sequence[int]) -> Step:
        """Works on `rows` and chooses the next token of rows number `wanted`, each the last of its slot's. At most
        `rows[-1]` of them."""
        M = next(m for m in self.rows if m >= len(rows))
        Q = min(M, self.num_slots)
        stage = self.turn = (self.turn + 1) % STAGES
        if self.events[stage] is not None:
            self.events[stage].synchronize()  # its inputs have been read, its tokens been fetched
        self._fill(stage, M, Q, rows, wanted)
        self._run(M, Q, self._needs(rows))
        self.outs[stage].copy_(self.out, non_blocking=True)
        if self.out.is_cuda:
            self.events[stage] = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch does not annotate it
            self.events[stage].record()
        return Step([rows[i][0] for i in wanted], self.outs[stage], self.events[stage])

    def _needs(self, rows: Sequence[Row]) -> tuple[bool, bool, bool]:
        """Whether any text of this step is cut by top-k, by top-p, or penalised."""
        rules = [self.rules[slot] for slot in {row[0] for row in rows}]
        drawn = [rule for rule in rules if rule.temperature > 0]
        return (
            any(r.top_k for r in drawn),
            any(r.top_p < 1 for r in drawn),
            any(r.repetition_penalty != 1 for r in rules),
        )

    def _fill(self, stage: int, M: int, Q: int, rows: Sequence[Row], wanted: Sequence[int]) -> None:
        place, slot, asked = inputs_places(M)
        staged = self.staged[stage].memory[: asked + Q]
        staged.fill_(-1)
        table = torch.tensor(rows, dtype=torch.int32).T
        staged[: len(rows)], staged[place : place + len(rows)], staged[slot : slot + len(rows)] = (
            table[1],
            table[2],
            table[0],
        )
        staged[asked : asked + len(wanted)] = torch.tensor(list(wanted), dtype=torch.int32)
        self._inputs(M, Q).memory.copy_(staged, non_blocking=True)

    def _inputs(self, M: int, Q: int) -> Inputs:
        if (M, Q) not in self.inputs:
            self.inputs[M, Q] = Inputs.make(M, Q, device=self.out.device)
        return self.inputs[M, Q]

    def _run(self, M: int, Q: int, needs: tuple[bool, bool, bool]) -> None:
        inputs = self._inputs(M, Q)
        if not self.recorded:
            self._walk(inputs, M, Q, needs)
            return
        graph = self.graphs.get((M, Q, needs))
        if graph is None:
            graph = self.graphs[M, Q, needs] = self._record(inputs, M, Q, needs)
        graph.replay()

    def _record(self, inputs: Inputs, M: int, Q: int, needs: tuple[bool, bool, bool]) -> Any:
        """Rows of no slot change nothing: with those, kernels are compiled before the recording."""
        empty = Inputs.make(M, Q, device=self.out.device)
        with together():
            self._walk(empty, M, Q, needs)
        self._walk(empty, M, Q, needs)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            self._walk(inputs, M, Q, needs)
        self.pool = self.pool or graph.pool()
        return graph

    def _walk(self, inputs: Inputs, M: int, Q: int, needs: tuple[bool, bool, bool]) -> None:
        state, pending, now = self.state, None, 0
        decode_kernel.embed(state, inputs, self.bloom, self.residual[0], M)
        for number, block in enumerate(self.blocks):
            pending, now = self._block(number, block, inputs, pending, now, M)
        decode_kernel.enter(
            self.residual[now],
            pending,
            self.bloom.ln_f,
            self.residual[now],
            self.normed,
            M,
            self.head.form,
            rows=inputs.wanted,
            num_rows=Q,
        )
        scores_QV = self.scores[: Q * self.head.N].view(Q, self.head.N)
        product_kernel.launch(self.normed, self.head, scores_QV, Q, SCORES)
        decode_kernel.rows_of(inputs, state, self.row_slot, self.row_place, Q)
        top_k, top_p, penalty = needs
        sample_kernel.choose(
            scores_QV,
            self.row_slot,
            self.row_place,
            state,
            self.work,
            self.out,
            self.eos,
            top_k=top_k,
            top_p=top_p,
            penalty=penalty,
        )

    def _block(self, number: int, block: Block, inputs: Inputs, pending: Any, now: int, M: int) -> tuple[Any, int]:
        state, D = self.state, self.cache.shape[-1]
        lora = (block.a_RW, state.adapter, inputs.slot, self.thin) if block.lora else None
        decode_kernel.enter(
            self.residual[now], pending, block.norm1, self.residual[1 - now], self.normed, M, block.qkv.form, lora=lora
        )
        keys, values = self.cache[number]
        adapter = (block.b_NR, self.thin, block.lora.scaling) if block.lora else None
        cache = (keys, values, inputs.slot, state.place, self.heads, self.places)
        product_kernel.launch(self.normed, block.qkv, self.query, M, QKV, lora=adapter, cache=cache, D=D)
        decode_kernel.attend(
            self.query, keys, values, inputs.slot, state.place, self.slopes_H, self.context, M, block.dense.form
        )
        product_kernel.launch(self.context, block.dense, self.partial, M, PARTIAL, split=block.dense.split)
        pending = (self.partial, block.dense, block.dense.split)
        decode_kernel.enter(
            self.residual[1 - now], pending, block.norm2, self.residual[now], self.normed, M, block.up.form
        )
        product_kernel.launch(self.normed, block.up, self.active, M, GELU)
        product_kernel.launch(self.active, block.down, self.partial, M, PARTIAL, split=block.down.split)
        return (self.partial, block.down, block.down.split), now
