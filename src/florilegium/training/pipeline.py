"""A step through a base whose blocks lie on several processes: micro-batches go from stage to stage, their gradients
back, and the weights stay where they are.

    stage 0    F0 F1 .. .. B0 F2 .. B1 F3 .. B2 .. B3         Fi  a micro-batch forward, [B, T, W] sent on
    stage 1    .. F0 B0 F1 B1 .. F2 B2 .. F3 B3               Bi  its gradient back, [B, T, W] sent back

One forward, one backward (1F1B; Narayanan et al. 2021, arXiv:2104.04473): a stage holds the activations of as many
micro-batches as there are stages from it to the last, and not of the whole step. Every process packs the same
micro-batches of the same rows, so of a batch nothing is sent but hidden states.

More processes than stages are several chains, each with the whole base. They deal the rows of a step as processes with a
copy each do, and the gradients of a stage are summed over its replicas:

    rank     0   1   2   3        neighbours in a chain are neighbours by rank: hidden states stay on a machine
    stage    0   1   0   1
    chain    0   0   1   1

torch.distributed.pipelining has this schedule for micro-batches of one shape, cut from one tensor along its first
dimension; ours are packed rows of any length, with a mask of documents and a number of targets of their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from florilegium.model import ForwardOptions, LoadedModel, Stage, residual_dtype, rows_drawn, stage_output
from florilegium.tokens import Batch, Example, PackPlan, pack
from florilegium.tokens.deal import deal
from florilegium.training.distributed import WAIT, Distributed, answering
from florilegium.training.micro_batches import MicroBatchCost

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import ProcessGroup

FIX = "Lower --micro-batch-tokens, or use --memory lean"


@dataclass(frozen=True)
class Pipeline:
    """The stages of a chain, and which of them is this process's. `cost` is that of the plain blocks unless it is given;
    `replicas` are the processes of all chains with this stage, None where there is one chain."""

    distributed: Distributed
    stages: tuple[Stage, ...]
    cost: MicroBatchCost | None = None
    replicas: ProcessGroup | None = None

    @property
    def number(self) -> int:
        """This process's stage, from 0."""
        return self.distributed.rank % len(self.stages)

    @property
    def stage(self) -> Stage:
        return self.stages[self.number]

    @property
    def stages_behind(self) -> int:
        return len(self.stages) - 1 - self.number

    @property
    def is_first_chain(self) -> bool:
        return self.distributed.rank < len(self.stages)

    def share_of(self, examples: Sequence[Example]) -> Sequence[Example]:
        """The rows of a step that pass through this process's chain."""
        chain, chains = (number // len(self.stages) for number in (self.distributed.rank, self.distributed.world))
        return [examples[i] for i in deal([len(e.token_ids) - 1 for e in examples], chains)[chain]]

    def sum_over_chains(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor`, summed in place over the processes with this stage."""
        if self.replicas is not None:
            with answering():
                torch.distributed.all_reduce(tensor, group=self.replicas)
        return tensor

    def micro_batches(self, examples: Sequence[Example], plan: PackPlan) -> list[Batch]:
        """The rows of a step in as many batches as make it shortest, none larger than `plan` allows."""
        lengths = [len(example.token_ids) - 1 for example in examples]
        cost = self.cost or MicroBatchCost.plain(self.distributed.device.type)
        count = cost.count(sum(lengths), len(self.stages), plan.batch_tokens)
        shares = deal(lengths, count)  # as the rows of a step are dealt to processes: of about as many tokens each
        return [batch for share in shares for batch in pack([examples[i] for i in share], plan)]

    def gradients(
        self, loaded: LoadedModel, batches: Sequence[Batch], options: ForwardOptions, num_targets: int, scale: float = 1
    ) -> torch.Tensor:
        """Adds the gradients of the mean loss, times `scale`, to those of this stage's parameters. Returns the loss
        where the head is, elsewhere 0."""
        step = _Step(self, loaded, options, num_targets, scale)
        with self.distributed.no_second_try("in a step", FIX):
            step.run([batch.to(loaded.base.device) for batch in batches])
        return step.loss

    def losses(self, loaded: LoadedModel, batches: Sequence[Batch], options: ForwardOptions) -> float:
        """The sum of the losses of all targets, where the head is; elsewhere 0. Forward only."""
        total, link = 0.0, _Link(self, loaded, options)
        with self.distributed.no_second_try("in an evaluation", FIX):
            for batch in (batch.to(loaded.base.device) for batch in batches):
                out = stage_output(loaded, batch, options, link.swap_back(None, batch))
                if self.stage.has_head:
                    total += float(out.sum())
                else:
                    link.swap_on(out, None)
        return total


def replicas_of(distributed: Distributed, num_stages: int) -> ProcessGroup | None:
    """The processes that hold this one's stage, in all chains; None: it is the only one. All processes call it."""
    if distributed.world == num_stages:
        return None
    with answering():
        groups = [
            torch.distributed.new_group(list(range(first, distributed.world, num_stages)), timeout=WAIT)
            for first in range(num_stages)
        ]
    own: ProcessGroup | int = groups[distributed.rank % num_stages]  # a number for the groups of others
    assert not isinstance(own, int), "this process is one of them"
    return own


@dataclass
class _Link:
    """The two neighbours. What is sent in one direction and received from the other side in the same swap crosses on
    the way: NCCL would wait for ever for two processes that both send first."""

    pipeline: Pipeline
    loaded: LoadedModel
    options: ForwardOptions

    def swap_on(self, sent: torch.Tensor | None, expected: Batch | None) -> torch.Tensor | None:
        """With the next stage: a batch's hidden states to it, the gradient of `expected` from it."""
        return self._swap(1, sent, expected)

    def swap_back(self, sent: torch.Tensor | None, expected: Batch | None) -> torch.Tensor | None:
        """With the stage before: a gradient to it, the hidden states of `expected` from it."""
        return self._swap(-1, sent, expected)

    def _swap(self, step: int, sent: torch.Tensor | None, expected: Batch | None) -> torch.Tensor | None:
        distributed = self.pipeline.distributed
        if not 0 <= self.pipeline.number + step < len(self.pipeline.stages):  # this is the first stage, or the last
            return None
        received = None
        if expected is not None:
            config = self.loaded.base.model.config
            shape, dtype = (*expected.tokens_BT.shape, config.hidden_size), residual_dtype(self.loaded, self.options)
            received = torch.empty(shape, dtype=dtype, device=self.loaded.base.device)
        distributed.swap(distributed.rank + step, None if sent is None else sent.detach().contiguous(), received)
        return received


@dataclass
class _Step:
    """A step under way on one stage. `waiting` are micro-batches whose gradient has not come yet, with what went in and
    what came out, the oldest first."""

    pipeline: Pipeline
    loaded: LoadedModel
    options: ForwardOptions
    num_targets: int
    scale: float
    waiting: deque[tuple[Batch, torch.Tensor | None, torch.Tensor]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.link = _Link(self.pipeline, self.loaded, self.options)
        self.loss = torch.zeros((), dtype=torch.float32, device=self.loaded.base.device)

    def run(self, batches: Sequence[Batch]) -> None:
        ahead = min(self.pipeline.stages_behind, len(batches))  # forward before the first gradient can come
        link, steady = self.link, batches[ahead:]
        for batch in batches[:ahead]:
            link.swap_on(self.forward(batch, link.swap_back(None, batch)), None)
        received = link.swap_back(None, steady[0]) if steady else None
        for number, batch in enumerate(steady):
            out = self.forward(batch, received)
            gradient = self.backward(link.swap_on(out, batches[number]))
            received = link.swap_back(gradient, steady[number + 1] if number + 1 < len(steady) else None)
        for batch in batches[len(steady) :]:
            link.swap_back(self.backward(link.swap_on(None, batch)), None)

    def forward(self, batch: Batch, received: torch.Tensor | None) -> torch.Tensor:
        if received is not None:
            received.requires_grad_()
        with rows_drawn(batch):
            out = stage_output(self.loaded, batch, self.options, received)
        if self.pipeline.stage.has_head:
            part = out.sum() / self.num_targets
            self.loss += part.detach()
            out = part * self.scale
        self.waiting.append((batch, received, out))
        return out

    def backward(self, gradient: torch.Tensor | None) -> torch.Tensor | None:
        """Of the oldest micro-batch that waits; returns the gradient of what went in. `gradient` is that of what came
        out, None: it is the loss."""
        batch, received, out = self.waiting.popleft()
        with rows_drawn(batch):  # activations may be made again
            out.backward(gradient)  # type: ignore[no-untyped-call]  # torch's
        return None if received is None else received.grad
