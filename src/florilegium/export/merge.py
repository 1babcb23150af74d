"""The merge: base and adapter as one list of tensors, each computed when it is asked for, a few rows at a time.

    for tensor in merge: for rows in merge.pieces(tensor): write(rows)

Nothing of it is ever whole in memory (DoRA on a transposed weight and PiSSA need one weight whole). Where base and
head share a tensor and the adapter changes one of them, the other stays as it was: the head becomes a tensor of its
own, and `tied` is False from then on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from florilegium.errors import DivergedError, ModelError
from florilegium.export.adapter_changes import OTHER_BASE, AdapterChanges, read_changes
from florilegium.export.base_weights import BaseWeights, StoredTensor
from florilegium.export.lora_change import Rows, spans


class Merge:
    """The merged model's tensors, by the names that they have in the Transformers model; without an adapter, the
    base's."""

    def __init__(self, base: BaseWeights, adapter: Path | None) -> None:
        embedding = base.model.get_input_embeddings()
        names = {id(module): name for name, module in base.model.named_modules()}
        head = base.model.get_output_embeddings()
        self.embedding = f"{names[id(embedding)]}.weight"
        self.head = f"{names[id(head)]}.weight" if head is not None else ""
        self.base = base
        self.adapter = read_changes(adapter, base.model) if adapter is not None else AdapterChanges.none()
        self.tied = base.tied and not self._trained_apart()
        if self.tied and self.head not in base.tensors:
            self.adapter.replaced.pop(self.head, None)  # PEFT saves a tied head twice
        self.tensors = dict(base.tensors)
        self._own: dict[str, StoredTensor] = {}  # where a tensor's numbers come from, if not from its own name
        if base.tied and not self.tied and self.head not in self.tensors:
            source = base.tensors[self.embedding]
            key = source.key.removesuffix(self.embedding) + self.head
            self.tensors[self.head] = replace(source, key=key, name=self.head)
            self._own[self.head] = source
        if missing := sorted(self._changed() - self.tensors.keys()):
            raise ModelError(f"{base.title} has no {missing[0]}, which the adapter changes", OTHER_BASE)

    def _trained_apart(self) -> bool:
        """Whether embedding or head was trained as a module of its own. An embedding that PEFT merely saved along (its
        rows were resized) is still the head."""
        apart = {name.rsplit(".", 1)[-1] for name in self.adapter.values.get("modules_to_save") or ()}
        pair = [name for name in (self.embedding, self.head) if name in self._changed()]
        return any(name in self.adapter.changes or name.split(".")[-2] in apart for name in pair)

    def _changed(self) -> set[str]:
        return {*self.adapter.changes, *self.adapter.replaced, *self.adapter.bias_added}

    def __iter__(self) -> Iterator[StoredTensor]:
        for name, tensor in self.tensors.items():
            other = self.adapter.replaced.get(name)
            yield tensor if other is None else replace(tensor, shape=tuple(other.shape))

    def rows(self, tensor: StoredTensor) -> Rows:
        """A reader of the merged tensor's rows: float32 where the adapter changes it, else as the base holds them."""
        source = self._own.get(tensor.name, self.base.tensors.get(tensor.name))
        assert source is not None
        replaced, change = self.adapter.replaced.get(tensor.name), self.adapter.changes.get(tensor.name)
        added = self.adapter.bias_added.get(tensor.name)
        if replaced is not None:
            return lambda a, b: replaced[a:b].float()
        if change is not None:
            shape = (tensor.shape[0], tensor.shape[1])
            if (change.left_NR.shape[0], change.right_RK.shape[1]) != shape:
                raise ModelError(f"the adapter does not fit {tensor.name} of {self.base.title}", OTHER_BASE)
            return change.prepared(lambda a, b: self.base.rows(source, a, b), shape)
        if added is not None:
            return lambda a, b: self.base.rows(source, a, b).float() + added[a:b]
        return lambda a, b: self.base.rows(source, a, b)

    def pieces(self, tensor: StoredTensor) -> Iterator[torch.Tensor]:
        """The merged tensor in the base's dtype, a few rows at a time. Raises DivergedError for a number that does not
        fit in it."""
        rows = self.rows(tensor)
        for first, last in spans(tensor.shape) if tensor.shape else [(0, 0)]:
            yield rounded(rows(first, last), tensor.dtype, tensor.name)


def rounded(values: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """`values` in `dtype`. Raises DivergedError where that makes a NaN or an infinity."""
    if values.dtype == dtype:
        return values
    out = values.to(dtype)
    if not bool(torch.isfinite(out).all()):
        raise DivergedError(
            f"{name} holds a NaN, or a number too large for {str(dtype).removeprefix('torch.')}, once it is merged",
            "Check that the adapter's training finished",
        )
    return out
