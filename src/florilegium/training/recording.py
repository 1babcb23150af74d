"""Whether a step of another family can be recorded as a CUDA graph: tried on a few tokens before the run.

A recorded step must ask the device nothing back. Our own forward pass does not; what Transformers' does is the family's
business (a mixture of experts asks which tokens go where), so it is run once with torch told to warn of such a question,
and recorded once. To warn, not to raise: torch asks for the whole process, in which another thread may write texts. A
question of that thread's at this moment costs the run its graph and nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from florilegium.errors import reason_of
from florilegium.model.kernel_protocols import GraphRunner
from florilegium.model.load_errors import ONE_LOAD_AT_A_TIME
from florilegium.storage.library_errors import is_out_of_memory
from florilegium.tokens import Example, numbered, pack
from florilegium.training.step import gradients, recorded_inputs
from florilegium.training.trainer import Trainer

SYNCHRONIZING = "synchronizing CUDA operation"  # torch's words


def recording_unsupported(trainer: Trainer, runner: GraphRunner, examples: Sequence[Example]) -> str:
    """Why a step of this trainer's is run as it is written and not by `runner`, or an empty string. Its parameters have
    gradients, which are zero before and after."""
    shortest = min(examples, key=lambda example: len(example.token_ids))
    inputs = recorded_inputs(pack(numbered([shortest]), trainer.plan)[0].to(trainer.device), num_targets=1)
    before = torch.cuda.get_sync_debug_mode()
    trainer.loaded.model.train()
    try:
        gradients(trainer, inputs)  # what is compiled or made at its first call may wait for the device
        with ONE_LOAD_AT_A_TIME, warnings.catch_warnings(record=True) as questions:  # a load changes the filters, too
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            gradients(trainer, inputs)
            torch.cuda.set_sync_debug_mode(before)
        if asked := [question for question in questions if SYNCHRONIZING in str(question.message)]:
            return f"{asked[0].message} ({asked[0].filename}:{asked[0].lineno})"
        runner(inputs)  # what waits for nothing may still be forbidden while a graph is recorded
    except RuntimeError as error:  # torch's own, of what it forbids
        if is_out_of_memory(error):  # the first step tells it, and takes smaller pieces
            return ""
        return reason_of(error, 200)
    finally:
        torch.cuda.set_sync_debug_mode(before)
        runner.clear()
        torch._foreach_zero_([p.grad for p in trainer.parameters if p.grad is not None])
    return ""
