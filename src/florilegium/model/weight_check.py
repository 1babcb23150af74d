"""A base is whole, or it is not loaded: what the model wants is compared with what its files hold.

Transformers draws at random what a checkpoint lacks, leaves out what it has no place for, and warns, which nobody reads:
half a download trains. Here both sides are compared by the headers, before a weight is read. Families whose names
Transformers changes as it loads (experts that it joins, parts that it renames) are judged by its own report of what was
missing, left over or of another shape."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from florilegium.errors import ModelError
from florilegium.model.weight_files import AGAIN, StoredTensor, WeightFiles

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

FLOATS = ("F64", "F32", "F16", "BF16")
# Tables and masks that older versions of Transformers saved beside the weights, and that models make themselves today.
TABLES = re.compile(r"(?:^|\.)(?:(?:rotary_emb\.)?(?:inv_freq|cos_cached|sin_cached)|masked_bias|position_ids)")
MASKS = re.compile(r"(?:^|\.)(?:attn|attention|self_attention)\.bias")


@dataclass(frozen=True)
class Differences:
    """Names of tensors that the model wants and the files lack, that the files hold and the model has no place for, and
    that do not fit their place (with the reason)."""

    missing: Collection[str] = ()
    unexpected: Collection[str] = ()
    mismatched: Mapping[str, str] | None = None

    def refuse(self, name: str) -> None:
        """Raises ModelError with counts and the first names, if there is any."""
        found = [
            *_listed(f"{len(self.missing):,} of its tensors are not in its files", self.missing),
            *_listed(f"{len(self.unexpected):,} in its files have no place in it", self.unexpected),
            *_listed(
                f"{len(self.mismatched or ()):,} do not fit",
                [f"{key} {why}" for key, why in sorted((self.mismatched or {}).items())],
            ),
        ]
        if found:
            raise ModelError(
                f"{name} is not the model that its config.json describes: {'; '.join(found)}",
                "Get the model again: its config.json and all of its weight files",
            )


def _listed(what: str, names: Collection[str]) -> list[str]:
    shown = ", ".join(name[:160] for name in sorted(names)[:3])
    return [f"{what} ({shown}{', ...' if len(names) > 3 else ''})"] if names else []


def weights_of(model: PreTrainedModel, files: WeightFiles) -> WeightFiles:
    """`files` without the tables and masks that `model` makes itself."""
    wanted = model.state_dict()
    kept = {
        name: tensor
        for name, tensor in files.tensors.items()
        if place(name, wanted, model.base_model_prefix) or not _is_made_again(name, tensor)
    }
    return replace(files, tensors=kept)


def _is_made_again(name: str, tensor: StoredTensor) -> bool:
    mask = MASKS.search(name) and (tensor.dtype in ("BOOL", "U8") or len(tensor.shape) == 4)
    return bool(mask or TABLES.search(name))


def place(name: str, wanted: Mapping[str, Any], prefix: str) -> str:
    """Where the tensor `name` goes, or an empty string: files name them from the whole model or from its backbone."""
    names = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))
    return next((candidate for candidate in names if candidate in wanted), "")


def check_headers(model: PreTrainedModel, files: WeightFiles, exact: bool) -> None:
    """Compares `model`, which may be on the meta device, with the headers of its files. Raises ModelError.

    `exact`: names are the model's own, with or without its prefix. Otherwise what has no place may become what is
    missing as it is loaded, and only what cannot come right is refused."""
    wanted = model.state_dict()
    places = {name: place(name, wanted, model.base_model_prefix) for name in files.tensors}
    for name, target in places.items():
        if target and target != name and target in files.tensors:
            raise ModelError(f"{files.name} holds {target[:80]} twice, as {name[:80]} too", AGAIN)
    unexpected = [name for name, target in places.items() if not target]
    missing = _untied(model, wanted.keys() - set(places.values()))
    if not exact:
        missing, unexpected = ([], []) if unexpected else (missing, [])
    placed = {name: (wanted[target], files.tensors[name]) for name, target in places.items() if target}
    misfits = {name: why for name, (want, held) in placed.items() if (why := _misfit(want, held, exact))}
    Differences(missing, unexpected, misfits).refuse(files.name)


def _misfit(want: torch.Tensor, held: StoredTensor, exact: bool) -> str:
    """Why a stored tensor does not fit its place, or an empty string."""
    if want.is_floating_point() and held.dtype not in FLOATS:
        return f"is stored as {held.dtype[:20]}"
    if exact and tuple(want.shape) != held.shape:
        return f"has shape {list(held.shape)}, not {list(want.shape)}"
    return ""


def _untied(model: PreTrainedModel, missing: Iterable[str]) -> list[str]:
    """`missing` without the tensors that are another one of the model: a tied head is stored once, under either
    name."""
    tied: Mapping[str, str] = model.all_tied_weights_keys
    missing = set(missing)
    groups = {source: {source, *(t for t, s in tied.items() if s == source)} for source in tied.values()}
    for group in groups.values():
        if group - missing:
            missing -= group
    return sorted(missing)


def check_loaded(model: PreTrainedModel, report: Mapping[str, Any], name: str) -> None:
    """What Transformers reports of a load, and that every tensor got its numbers. Raises ModelError."""
    mismatched = {key: f"has shape {list(held)}, not {list(want)}" for key, held, want in report["mismatched_keys"]}
    Differences(report["missing_keys"], report["unexpected_keys"], mismatched).refuse(name)
    if report.get("error_msgs"):
        raise ModelError(f"cannot load {name} ({str(report['error_msgs'][0])[:200]})", AGAIN)
    refuse_empty(model, name)
    _refuse_plain(model, name)


def refuse_empty(model: PreTrainedModel, name: str) -> None:
    """Raises ModelError where a tensor has a place and no numbers (it is on the meta device)."""
    tensors = chain(model.named_parameters(), model.named_buffers())
    Differences(missing=[key for key, tensor in tensors if tensor.is_meta]).refuse(name)


def _refuse_plain(model: PreTrainedModel, name: str) -> None:
    """Raises ModelError where a linear of bitsandbytes has no scales: the config.json says that the weights are quantised,
    and its files hold ordinary ones."""
    import sys

    bnb = sys.modules.get("bitsandbytes")
    kinds = ((bnb.nn.Linear8bitLt, "SCB"), (bnb.nn.Linear4bit, "quant_state")) if bnb is not None else ()
    for kind, scales in kinds:
        plain = [
            key for key, m in model.named_modules() if isinstance(m, kind) and getattr(m.weight, scales, None) is None
        ]
        if plain:
            raise ModelError(
                f"the config.json of {name} says that it is quantised, and {len(plain):,} of its linears are not "
                f"({plain[0][:120]})",
                "Take quantization_config out of its config.json; --bits 8 or 4 quantises it here",
            )
