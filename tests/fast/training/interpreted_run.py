"""One process of `florilegium train` as torchrun starts it, on a CPU, with the fused blocks in Triton's interpreter.

    TRITON_INTERPRET=1 torchrun --standalone --nproc-per-node 2 -m tests.fast.training.interpreted_run train ...

What asks for a card is answered here: the blocks may run, in float32, and 24 GB are free. All else is the program's
own: the plan of each stage, its block stack, the steps, the evaluations, the files."""

from __future__ import annotations

import sys
from typing import Any

import torch

from florilegium import fast
from florilegium.cli.main import main
from florilegium.runs import plan as planning

ROOM = 24 * 2**30


def on_a_cpu() -> None:
    reasons = fast._unsupported_here
    stack = fast.make_block_stack

    def reasons_here(device: torch.device, bits: int) -> dict[str, str]:
        return {**reasons(device, bits), "fused-blocks": ""}

    def stack_in_float32(*given: Any, **named: Any) -> Any:
        return stack(*given, **{**named, "dtype": torch.float32})

    fast._unsupported_here = reasons_here
    fast.block_stack_unsupported = lambda *given: ""
    fast.make_block_stack = stack_in_float32  # type: ignore[assignment]
    planning.torch.cuda.mem_get_info = lambda: (ROOM, ROOM)  # type: ignore[attr-defined,assignment]


if __name__ == "__main__":
    on_a_cpu()
    sys.exit(main(sys.argv[1:]))
