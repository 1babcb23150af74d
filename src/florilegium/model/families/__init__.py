"""Families of models: one file each says where its blocks, linears, norms, positions and head are. Nothing else in the
package knows a model's modules by name, but for the kernels in `fast/` that were written for BLOOM.

    family = family_of(model.config)            by `model_type`; a causal LM of any other type is of the general family
    if packs(family): family.embed(...)         a PackedFamily goes through our own forward pass (`packed_forward.py`)
"""

from __future__ import annotations

from typing import TypeGuard

from florilegium.model.families.base import (
    BlockLinears,
    BlockSizes,
    Family,
    PackedFamily,
)
from florilegium.model.families.bloom import BLOOM
from florilegium.model.families.head import head_unsupported, head_weight, logit_rule
from florilegium.model.families.other import OTHER

FAMILIES: tuple[Family, ...] = (BLOOM,)


def family_of(model_type: object) -> Family:
    """The family of a `model_type`, as a config.json says it."""
    return next((family for family in FAMILIES if model_type in family.model_types), OTHER)


def packs(family: Family) -> TypeGuard[PackedFamily]:
    """Whether rows that hold many documents can be given to this family exactly."""
    return family.packs


__all__ = [
    "BLOOM",
    "FAMILIES",
    "OTHER",
    "BlockLinears",
    "BlockSizes",
    "Family",
    "PackedFamily",
    "family_of",
    "head_unsupported",
    "head_weight",
    "logit_rule",
    "packs",
]
