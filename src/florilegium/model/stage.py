"""The part of a model that one process of a pipeline holds: some blocks in a row, the embedding with the first of them,
the last norm and the head with the last.

    Stage(0, 17, 30)      blocks 0 to 16 of 30, and the embedding
    Stage(17, 30, 30)     blocks 17 to 29, norm and head (BLOOM's head is the embedding again, so both hold it)

The model is there whole in outline, under its own names; what other processes hold is on the meta device, without
numbers. So PEFT wraps all of it and draws the adapter that one process draws, and a block, its LoRA and their names are
the same wherever they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from florilegium.model.families import PackedFamily


@dataclass(frozen=True)
class Stage:
    """Blocks `first` to `last` - 1 of `num_layers`."""

    first: int
    last: int
    num_layers: int

    @property
    def has_embedding(self) -> bool:
        return self.first == 0

    @property
    def has_head(self) -> bool:
        return self.last == self.num_layers

    def __len__(self) -> int:
        return self.last - self.first

    def __str__(self) -> str:
        """As people count them: from 1."""
        return f"{self.first + 1}-{self.last}" if len(self) > 1 else str(self.last)


def held_names(stage: Stage, family: PackedFamily, model: PreTrainedModel) -> frozenset[str]:
    """The parameters of `model`, in outline and without an adapter, that the process of this stage holds. Norms beside
    the blocks are small, and everybody's."""
    blocks = family.blocks(model)
    elsewhere = [block for number, block in enumerate(blocks) if not stage.first <= number < stage.last]
    tied = bool(model.config.tie_word_embeddings)
    if not (stage.has_embedding or (stage.has_head and tied)):
        elsewhere.append(model.get_input_embeddings())
    if not (stage.has_head or (stage.has_embedding and tied)):
        elsewhere.append(model.get_output_embeddings())
    others = {id(parameter) for module in elsewhere for parameter in module.parameters()}
    return frozenset(name for name, parameter in model.named_parameters() if id(parameter) not in others)
