"""Which models are served, by name: the fine-tuned one by its run's name, and the base beside it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from florilegium.generation.tuned import Tuned
from florilegium.serve.api_errors import ApiError


@dataclass(frozen=True)
class ServedModel:
    """A name and what writes under it; the base is the same model with its adapter off."""

    name: str
    tuned: Tuned
    adapter: bool
    parent: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    def as_object(self) -> dict[str, object]:
        """As /v1/models lists it."""
        return {
            "id": self.name, "object": "model", "created": self.created, "owned_by": "florilegium",
            "root": self.name, "parent": self.parent, "template": self.tuned.template.text if self.adapter else None,
        }  # fmt: skip


class Models:
    def __init__(self, served: Iterable[ServedModel]) -> None:
        self.by_name = {model.name: model for model in served}
        self.default = next(iter(self.by_name.values()))

    def get(self, name: str | None) -> ServedModel:
        """Raises ApiError (404) for a name that is not served."""
        if name is None:
            return self.default
        if name not in self.by_name:
            known = ", ".join(self.by_name)
            raise ApiError(404, f"no such model; there are: {known}", param="model", code="model_not_found")
        return self.by_name[name]


def models_of(tuned: Tuned, run: Path) -> Models:
    """A fine-tuned model under its run's name, then its base. Folders are named without the path to them."""
    base = tuned.base.name
    base = Path(base).name if Path(base).is_absolute() or base.startswith(".") else base
    name = run.parent.name if run.name == "adapter" else run.name
    name = name if name != base else f"{name}-tuned"
    return Models([ServedModel(name, tuned, True, parent=base), ServedModel(base, tuned, False)])
