"""`florilegium export MODEL --to quantised`: a base itself as a bitsandbytes checkpoint, without any run.

The steps are those of `export.py`; in place of a live adapter the base's own 16-bit weights answer. Stored so, a model
is half or a quarter of the bytes to keep and to read, and no load quantises it again. Its export.json has the digests of
the weights that it was made from and of those that it holds, by which adapters know it (`model/identity.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from florilegium.errors import UsageError
from florilegium.export.base_card import base_card
from florilegium.export.base_weights import BaseWeights
from florilegium.export.merge import Merge
from florilegium.export.origin import bare_name, origin_of
from florilegium.export.verdict import Verdict
from florilegium.model.hub import locate
from florilegium.model.identity import weights_digest
from florilegium.model.weight_files import find_weights
from florilegium.runs.export import Exported, Request, make_room, write_export
from florilegium.runs.export_forms import quantised_model
from florilegium.runs.export_live import ask_base
from florilegium.runs.recorder import NullView, ProgressView
from florilegium.storage.atomic_folders import NewFolder
from florilegium.storage.paths import check_path


def export_base(
    model: str,
    *,
    kind: str = "int8",
    output: str | None = None,
    check: bool = True,
    force: bool = False,
    device: str = "auto",
    view: ProgressView | None = None,
) -> Exported:
    """Writes the model `model`, a folder or Hub id, in int8 or NF4 (`kind`) into the folder `output` (default: its name
    and the kind, here). Raises UsageError, ModelError, ResourceError."""
    view = view or NullView()
    if kind not in ("int8", "nf4"):
        raise UsageError(
            f"a base is exported in int8 or nf4, not {kind!r}", "Type: florilegium export MODEL --to quantised"
        )
    place = make_room(check_path(output or f"{bare_name(model)}-{kind}", "--output"), force)
    folder = locate(model)
    origin = origin_of(model, folder)
    facts: Mapping[str, object] = {
        "base": {"name": origin.name, "on_hub": origin.on_hub, "licence": origin.licence},
        "weights": weights_digest(find_weights(folder, model)),
    }

    def card(form: str, sizes: Mapping[str, int], verdict: Verdict) -> str:
        return base_card(origin, form, sizes, verdict)

    request = Request("quantised", place, lambda merge: facts, card)
    with BaseWeights(folder, model, "Name the 16-bit model that it was made from") as weights:
        merge = Merge(weights, None)
        form = quantised_model(merge, folder, kind)

        def write(place: NewFolder) -> None:
            form.write(place)
            place.facts["quantised_weights"] = weights_digest(find_weights(place.path, model))

        live = ask_base(weights, device, view) if check else None
        return write_export(
            request, replace(form, write=write), merge, live, "" if check else "asked not to (--no-check)", view
        )
