"""What the kernels in `fast/` are to the rest of the package: shapes and promises, without the kernels. `fast_paths.py` makes
them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from florilegium.config import SamplingSettings
from florilegium.reference import LogitRule

if TYPE_CHECKING:
    from florilegium.fast.modules import Bloom


class HeadLosses(Protocol):
    """The loss of each target, float32 [N]; `rule` is what the family makes of the head's scores."""

    def __call__(
        self, hidden_NW: torch.Tensor, weight_VW: torch.Tensor, targets_N: torch.Tensor, *, rule: LogitRule
    ) -> torch.Tensor: ...


class BlockStack(Protocol):
    """A model's blocks, forward and backward by hand, on packed rows laid end to end."""

    def __call__(
        self,
        stream_TW: torch.Tensor,
        start_T: torch.Tensor,
        end_T: torch.Tensor,
        number_T: torch.Tensor,
        seed: torch.Tensor | None,
    ) -> torch.Tensor:
        """The last norm's output [T, W], or that of the last block in float32, where others hold the rest. Token t's
        document lies at start_T[t] .. end_T[t]; `number_T` are the tokens' numbers in the step, by which and by `seed` the
        adapter's dropout is drawn; None: there is none."""


Context = contextlib.AbstractContextManager[None]
Contexts = Callable[[], tuple[Context, Context]]


class LayerRunner(Protocol):
    """The layers of a family that is not ours, with what costs most in them fused, on packed rows laid end to end."""

    longest: int  # no document has more tokens: a window that is wider is none

    @property
    def checkpoint_contexts(self) -> Contexts:
        """Around a pass of some layers, and around the same again, where their activations are recomputed."""

    def through(
        self, start_T: torch.Tensor, end_T: torch.Tensor, number_T: torch.Tensor, seed: torch.Tensor | None
    ) -> Context:
        """Around a forward pass and what comes back of it; as `BlockStack` has them."""

    def __call__(self, tokens_T: torch.Tensor, position_T: torch.Tensor) -> torch.Tensor:
        """The last layer's normed output [T, W], inside `through`."""

    def remove(self) -> None:
        """Every module is what it was."""


class HostBlocks(Protocol):
    """The blocks whose weights lie in host memory and come to the card in turn; see `fast/host_blocks.py`."""

    @property
    def block_bytes(self) -> int: ...

    def __len__(self) -> int: ...
    def take(self, number: int, kind: str, module: torch.nn.Module) -> None: ...
    def keep_on_device(self, count: int) -> None: ...
    def link_rate(self) -> float: ...


class GraphRunner(Protocol):
    """A function recorded once for each shape of its inputs (a CUDA graph), and replayed."""

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor: ...

    def clear(self) -> None:
        """Gives the memory of all shapes back."""


class DecodeStep(Protocol):
    def tokens(self) -> list[int]:
        """The next token of each row that was asked for; negative for a slot that had ended. Waits for the GPU."""


class SlotDecoder(Protocol):
    """A decoder with slots, each with room for one text; see `fast/decoding/decoder.py`."""

    NEXT: int  # as a row's token and place: those that its slot continues with
    eos: int
    num_slots: int
    capacity: int
    rows: list[int]  # how many rows a step may have; the last is the most

    def admit(
        self,
        slots: Sequence[int],
        limits: Sequence[int],
        chances: Sequence[torch.Tensor],
        rules: Sequence[SamplingSettings],
        adapters: Sequence[int | None],
        prompts: Sequence[Sequence[int]],
    ) -> None: ...

    def add_adapter(self, bloom: Bloom) -> int: ...
    def remove_adapter(self, place: int) -> None: ...
    def copy_prompt(self, source: int, slot: int, length: int) -> None: ...
    def step(self, rows: Sequence[tuple[int, int, int]], wanted: Sequence[int], slots: Sequence[int]) -> DecodeStep: ...
