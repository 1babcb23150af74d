"""A model in memory, as the forward pass and generation take it, and how a forward pass is to run.

    loaded = LoadedModel(base, attach_adapter(base, config), kernels)
    losses_N = token_losses(loaded, batch, ForwardOptions(kernels=("chunked-loss",)))

Both are handed on as arguments: nothing is hung on a module for another to find. (The quantized linears' forward is the
exception, since PEFT calls them: `fast/frozen_linear.py`.)"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from torch import nn

from florilegium.model.base import Base
from florilegium.model.base_changes import original_weights
from florilegium.model.families import Family, logit_rule
from florilegium.model.families.head import without_dropout
from florilegium.model.families.other import DocumentMask
from florilegium.model.fused_layers import FusedLayers
from florilegium.model.kernel_protocols import BlockStack
from florilegium.reference import LogitRule

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


Work = Callable[[Sequence[int]], list[list[float]]]  # the numbers of some parts; what is found for each of them


class Sharing(Protocol):
    """Several processes with a copy of the model each (`training/shares.py`)."""

    def by_all(self, sizes: Sequence[int], work: Work) -> list[list[float]]: ...


@dataclass(frozen=True)
class LoadedModel:
    """`model` is the base's own or PEFT's wrapping of it; `kernels` are the fast paths that were selected for it;
    `sharing` are processes that all measure and write what this one does, each a share of it."""

    base: Base
    model: PreTrainedModel | PeftModel
    kernels: tuple[str, ...] = ()
    sharing: Sharing | None = field(default=None, compare=False)

    def by_all(self, sizes: Sequence[int], work: Work) -> list[list[float]]:
        """What `work` finds for each of these parts, in their order; `sizes` say what a part costs."""
        return work(range(len(sizes))) if self.sharing is None else self.sharing.by_all(sizes, work)

    @property
    def family(self) -> Family:
        return self.base.family

    @property
    def backbone(self) -> nn.Module:
        """The model without its head."""
        return self.base.family.backbone(self.model)

    @property
    def logit_rule(self) -> LogitRule:
        """What the family makes of the head's scores."""
        return logit_rule(self.base.family, self.model)

    @contextlib.contextmanager
    def adapter_off(self) -> Iterator[None]:
        """Inside, the model is its base."""
        disabled = getattr(self.model, "disable_adapter", contextlib.nullcontext)  # Transformers' own model has none
        with warnings.catch_warnings(), original_weights(self.base.replaced):
            warnings.simplefilter("ignore")  # PEFT warns of what it does not undo, and we do
            with disabled():
                yield

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, dropout is off; then the model is as it was."""
        with without_dropout(self.model):
            yield


@dataclass(frozen=True)
class ForwardOptions:
    """How a forward pass runs: the kernels' names, whether blocks are recomputed in the backward pass, NEFTune's noise,
    the fused blocks where they run instead of the model's own; how a family that is not ours tells the documents of a row
    apart ("": it is given one a row), and its fused layers."""

    kernels: tuple[str, ...] = ()
    recompute: bool = False
    neftune_alpha: float | None = None
    block_stack: BlockStack | None = None
    document_mask: DocumentMask = ""
    fused_layers: FusedLayers | None = None


PLAIN = ForwardOptions()
