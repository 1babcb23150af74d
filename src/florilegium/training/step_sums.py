"""What the processes of a run sum up once a step: gradients, loss, how much was padding, and who was asked to stop.

One flat tensor, one `all_reduce`, between the backward pass (recorded as a CUDA graph or not) and the clipping. Each
process has divided its losses by the tokens of the whole step already, so that sums are all there is to do.

    [ gradient of every parameter | loss | positions | padding | a place for each signal ]

The signals ride along so that all processes stop after the same step, whichever of them was asked. The stages of a
pipeline (`pipeline.py`) each have gradients of their own: of these the squared norm is summed, and the rest likewise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from florilegium.errors import Interrupted
from florilegium.signals import SIGNALS, StopRequest, interrupted
from florilegium.tokens import Batch, Example
from florilegium.training.distributed import Distributed
from florilegium.training.pipeline import Pipeline


class SharedStop:
    """A stop that all processes agree on: `number` is a signal that any of them heard before a step that is done."""

    def __init__(self, own: StopRequest) -> None:
        self.own = own
        self.number = 0

    @contextlib.contextmanager
    def heard(self, what: str, fix: str) -> Iterator[None]:
        """As `StopRequest.heard`, but a signal ends only what all of them leave together: texts that they write in
        shares (`shares.py`). Processes that sum leave after a step."""
        try:
            yield
        except Interrupted as error:
            self.number = error.exit_code - 128
            raise interrupted(self.number, what, fix) from error

    def flags(self) -> list[float]:
        """What this process heard: a place for each signal."""
        return [float(self.own.number == number) for number in SIGNALS]

    def read(self, flags: Sequence[float]) -> None:
        """What all heard, as the step's sums say."""
        told = [int(number) for number, flag in zip(SIGNALS, flags, strict=True) if flag]
        self.number = self.number or (told[0] if told else 0)


@dataclass(frozen=True)
class StepCounts:
    """Tokens of a whole step, and those of them that are targets: known to every process without asking."""

    tokens: int
    targets: int

    @classmethod
    def of_batches(cls, batches: Sequence[Batch]) -> StepCounts:
        return cls(sum(b.num_tokens for b in batches), sum(b.num_targets for b in batches))

    @classmethod
    def of_examples(cls, examples: Sequence[Example]) -> StepCounts:
        return cls(sum(len(e.token_ids) for e in examples), sum(sum(map(bool, e.loss_mask[1:])) for e in examples))


@dataclass(frozen=True)
class StepSums:
    """The sums of a step over all processes, on the device: they are read when the step is."""

    loss: torch.Tensor
    rest: torch.Tensor  # positions, padding, and the signals
    grad_norm: torch.Tensor | None = None  # of all stages of a pipeline


def sum_step(
    distributed: Distributed,
    parameters: Sequence[torch.nn.Parameter],
    loss: torch.Tensor,
    batches: Sequence[Batch],
    stop: SharedStop | None,
) -> StepSums:
    """Sums the gradients in place, and the loss and the rest of a step."""
    own = _rest(batches, stop, loss.device)
    found = _gradients(parameters)
    flat = torch.cat([*(gradient.flatten().float() for gradient in found), loss.view(1).float(), own])
    distributed.sum_(flat)
    gradients, total, rest = torch.split(flat, [len(flat) - 1 - len(own), 1, len(own)])
    _put_back(parameters, gradients)
    return StepSums(total[0], rest)


def _gradients(parameters: Sequence[torch.nn.Parameter]) -> list[torch.Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]  # a process may have no row


def _put_back(parameters: Sequence[torch.nn.Parameter], flat: torch.Tensor) -> None:
    for parameter, gradient in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        if parameter.grad is None:
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype)
        else:
            parameter.grad.copy_(gradient.view_as(parameter))  # a recorded graph adds to gradients that stay in place


def sum_stages(
    pipeline: Pipeline,
    parameters: Sequence[torch.nn.Parameter],
    loss: torch.Tensor,
    batches: Sequence[Batch],
    stop: SharedStop | None,
) -> StepSums:
    """Of a pipeline, whose gradients stay where they are, or are summed over the chains: what their norm is over all
    stages, and the rest of a step."""
    if pipeline.replicas is not None:
        flat = torch.cat([gradient.flatten().float() for gradient in _gradients(parameters)])
        _put_back(parameters, pipeline.sum_over_chains(flat))
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    squared = norm.float() ** 2 * pipeline.is_first_chain  # each chain has the sum
    own = _rest([] if pipeline.number else batches, stop, loss.device)  # all of a chain have packed the same
    sums = pipeline.distributed.sum_(torch.cat([torch.stack([squared, loss.float()]), own]))
    return StepSums(sums[1], sums[2:], sums[0].sqrt())


def _rest(batches: Sequence[Batch], stop: SharedStop | None, device: torch.device) -> torch.Tensor:
    positions = [float(batch.tokens_BT.numel()) for batch in batches]
    padding = sum(batch.padding_share * count for batch, count in zip(batches, positions, strict=True))
    flags = stop.flags() if stop is not None else [0.0] * len(SIGNALS)
    own = torch.tensor([sum(positions), padding, *flags], dtype=torch.float32)
    # From pinned memory: the host does not wait for the backward pass.
    return own.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else own


def padding_of(rest: Sequence[float]) -> float:
    positions, padding = rest[:2]
    return round(padding / positions, 4) if positions else 0.0


def seed_of(seed: int, step: int, rank: int) -> int:
    """A seed for what is random in a process's part of a step (dropout, noise): it needs no state in a checkpoint."""
    return ((seed * 1_000_003 + step) * 65_537 + rank) % 2**63
