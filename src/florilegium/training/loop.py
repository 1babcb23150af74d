"""The training loop, short enough to read: plan the steps, take them, evaluate held-out rows once in a while, keep the
best.

The step itself is in `step.py`. The order of rows is a function of seed, epoch and lengths, the rate of the step
number: to go on from a checkpoint is to start the same loop at another step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from florilegium.config import TrainConfig
from florilegium.errors import Interrupted, ResourceError, counted
from florilegium.model import fast_paths, token_losses
from florilegium.model.families import packs
from florilegium.signals import StopRequest
from florilegium.storage.library_errors import is_out_of_memory
from florilegium.tokens import Batch, BatchSampler, Example, PackPlan, numbered, pack
from florilegium.training.checkpoint import Progress, Snapshot
from florilegium.training.guards import check_eval_loss
from florilegium.training.length import RunLength
from florilegium.training.metrics import EvalMetrics, StepResult
from florilegium.training.observer import Observer, StepReporter
from florilegium.training.saved_state import random_states, set_random_states
from florilegium.training.step import StartedStep, take_step
from florilegium.training.step_sums import SharedStop, StepCounts
from florilegium.training.trainer import Trainer

EVALUATION_ROWS = 64  # held-out rows that are packed together


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows that are reported, and those that choose the best step: none where the former do."""

    reported: Sequence[Example]
    choosing: Sequence[Example]


def run_steps(
    trainer: Trainer,
    training: Sequence[Example],
    held_out: Sequence[Example],
    length: RunLength,
    observer: Observer,
    stop: StopRequest | SharedStop,
    resume: Snapshot | None = None,
    validation: Sequence[Example] = (),
) -> Snapshot:
    """Trains to the end, to `--patience`, or to a signal (then `stop.number` is set), and returns where it stands.
    The best step is that of the lowest loss on `validation`, or where there is none on `held_out`.

    Raises DivergedError when a loss or gradient stops being a number, ResourceError when one row alone does not fit in
    memory."""
    progress, best = Progress(), dict[str, torch.Tensor]()
    if resume is not None:
        trainer.restore(resume)
        progress, best = replace(resume.progress), resume.best
    trainer.align()
    sides = HeldOut(held_out, validation)
    if (
        not progress.is_evaluated and progress.step % length.evaluate_every == 0
    ):  # before training; or a signal ended it
        best = evaluate_or_leave(trainer, sides, length, progress, best, observer, stop)
    order = batch_sampler(training, trainer.config, trainer.tile)
    began = time.monotonic() - progress.elapsed_seconds
    reporter = StepReporter(progress, length, observer, began)
    while progress.step < length.num_steps and not stop.number:
        if (
            trainer.config.early_stopping_patience is not None
            and progress.evaluations_since_best >= trainer.config.early_stopping_patience
        ):
            observer.note(
                f"early stopping at step {progress.step}: no improvement in "
                f"{counted(progress.evaluations_since_best, 'evaluation')}"
            )
            break
        step = start_step(trainer, [training[i] for i in order.step(progress.step)], observer)
        progress.step += 1
        reporter.started(step)
        last = progress.step == length.num_steps
        # Once in a while: look at the held-out rows, and save.
        if last or progress.step % length.evaluate_every == 0:
            reporter.finish()
            best = evaluate_or_leave(trainer, sides, length, progress, best, observer, stop)
        if last or progress.step % length.save_every == 0:
            reporter.finish()
            observer.save(trainer.snapshot(progress, best))
    reporter.finish()
    if progress.last_eval_step != progress.step and not stop.number:  # resumed where it was to end already
        best = evaluate_or_leave(trainer, sides, length, progress, best, observer, stop)
    return trainer.snapshot(progress, best)


def evaluate_or_leave(
    trainer: Trainer,
    sides: HeldOut,
    length: RunLength,
    progress: Progress,
    best: dict[str, torch.Tensor],
    observer: Observer,
    stop: StopRequest | SharedStop,
) -> dict[str, torch.Tensor]:
    """`evaluate_held_out`, unless a signal ends it: then `progress` and `best` stay as they were."""
    before = replace(progress)
    try:
        return evaluate_held_out(trainer, sides, length, progress, best, observer, stop)
    except Interrupted:
        vars(progress).update(vars(before))
        return best


def batch_sampler(training: Sequence[Example], config: TrainConfig, tile: int = 0) -> BatchSampler:
    """The rows of each step, for a config whose `batching` has been chosen; `tile`: as the plan has it, 0 to choose it."""
    return BatchSampler(
        [len(e.token_ids) - 1 for e in training],
        config.batch_size,
        config.seed,
        tile_aligned=config.batching == "tile-aligned",
        tile=tile,
    )


def training_step(trainer: Trainer, examples: Sequence[Example], observer: Observer) -> StepResult:
    """One optimiser step on `examples`, waited for."""
    return start_step(trainer, examples, observer).result()


def start_step(trainer: Trainer, examples: Sequence[Example], observer: Observer) -> StartedStep:
    """Starts one optimiser step on `examples`. When memory runs out it is taken again in smaller pieces, with the same
    gradient."""
    whole: StepCounts | None = None
    examples = numbered(examples)
    if trainer.distributed.has_others:
        whole, examples = StepCounts.of_examples(examples), trainer.share_of(examples)
    while True:
        random = random_states(trainer.device)
        try:
            return take_step(trainer, trainer.batches(examples), whole)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if trainer.replay is not None:
                trainer.replay.clear()
            trainer.optimizer.zero_grad(set_to_none=trainer.replay is None)
            trainer.plan = smaller(trainer.plan, examples, error, trainer.config.memory)
            set_random_states(random, trainer.device)
            observer.note(
                f"out of memory: retrying this step with micro-batches of {trainer.plan.batch_tokens:,} tokens "
                f"({_after_step_down(trainer)})"
            )


def _after_step_down(trainer: Trainer) -> str:
    """What smaller micro-batches change: nothing, where dropout and noise are drawn by the token."""
    options, by_token = trainer.options, packs(trainer.loaded.family)
    drawn_by_token = options.block_stack is not None or options.fused_layers is not None
    dropped = trainer.config.lora_dropout and trainer.device.type != "cpu" and not drawn_by_token
    noisy = options.neftune_alpha and not by_token
    return "other dropout and noise are drawn from here on" if dropped or noisy else "results are unchanged"


def evaluate_held_out(
    trainer: Trainer,
    sides: HeldOut,
    length: RunLength,
    progress: Progress,
    best: dict[str, torch.Tensor],
    observer: Observer,
    stop: StopRequest | SharedStop,
) -> dict[str, torch.Tensor]:
    """Measures the held-out loss, tells the observer, and returns the best adapter so far (the present one, if it
    is). Raises Interrupted when a signal ends it, here or in the observer's samples."""
    epoch = round(progress.step / length.steps_per_epoch, 4)
    progress.last_eval_step = progress.step
    if not sides.reported:
        observer.evaluated(EvalMetrics(progress.step, epoch), False)
        return best
    began = time.monotonic()
    with stop.heard("an evaluation was left", ""):
        first, total = len(sides.reported), len(sides.reported) + len(sides.choosing)
        loss = held_out_loss(trainer, sides.reported, lambda done: observer.evaluating(done, total))
        validation = (
            held_out_loss(trainer, sides.choosing, lambda done: observer.evaluating(first + done, total))
            if sides.choosing
            else None
        )
    check_eval_loss(progress.step, loss if validation is None else loss + validation)
    deciding = loss if validation is None else validation
    is_best = progress.best_loss is None or deciding < progress.best_loss
    if is_best:
        progress.best_loss, progress.best_step, progress.evaluations_since_best = deciding, progress.step, 0
        progress.best_test_loss = None if validation is None else loss
        best = trainer.adapter_state()
    else:
        progress.evaluations_since_best += 1
    progress.last_eval_loss = loss
    if progress.first_eval_loss is None:
        progress.first_eval_loss = loss
    observer.evaluated(EvalMetrics(progress.step, epoch, loss, time.monotonic() - began, validation), is_best)
    return best


@torch.no_grad()
def held_out_loss(
    trainer: Trainer, examples: Sequence[Example], tell: Callable[[int], None] = lambda done: None
) -> float:
    """Mean negative log-likelihood a learned token, in nats, dropout off. `tell` hears how many rows are done."""
    trainer.loaded.model.eval()
    plan, total, count = trainer.plan, 0.0, 0
    waiting = list(examples)
    while waiting:
        # Some quotes at a time, so that when memory runs out only these are taken again, in smaller pieces.
        part, rest = waiting[:EVALUATION_ROWS], waiting[EVALUATION_ROWS:]
        tell(len(examples) - len(waiting))
        try:
            batches = pack(trainer.share_of(part), plan)
            here = sum_of_losses(trainer, batches)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            plan = smaller(plan, trainer.share_of(part), error, trainer.config.memory)
            continue
        total, count, waiting = total + here, count + sum(b.num_targets for b in batches), rest
    tell(len(examples))
    if trainer.pipeline is not None and not trainer.pipeline.stage.has_head:
        count = 0  # the same rows passed through every stage
    if trainer.distributed.has_others:
        total, count = trainer.distributed.sum_(torch.tensor([total, count], dtype=torch.float64)).tolist()
    return total / count


def sum_of_losses(trainer: Trainer, batches: Sequence[Batch]) -> float:
    """Of all targets; of a pipeline where the head is, elsewhere 0."""
    if trainer.pipeline is not None:
        return trainer.pipeline.losses(trainer.loaded, batches, trainer.options)
    return sum(float(token_losses(trainer.loaded, b.to(trainer.device), trainer.options).sum()) for b in batches)


def smaller(plan: PackPlan, examples: Sequence[Example], error: BaseException, memory: str) -> PackPlan:
    """A plan that holds half as much at once. Raises ResourceError when `examples` cannot be held in smaller pieces."""
    largest = max(batch.tokens_BT.numel() for batch in pack(examples, plan))
    half = replace(plan, batch_tokens=largest // 2, row_tokens=min(plan.row_tokens, largest // 2))
    if max(batch.tokens_BT.numel() for batch in pack(examples, half)) >= largest:
        fix = "Lower --max-length" if memory == "lean" else "Lower --max-length, or use --memory lean"
        raise ResourceError("one row alone does not fit in memory", fix) from error
    if torch.cuda.is_available():
        fast_paths.empty_cache()
    return half
