"""What may be said of a base in public: its Hub id or its bare name, and its licence.

A base that was a local folder is never written as a Hub id, and no path of this machine gets into a card: a folder is
called by its last part. The licence is the base's own word (the front matter of its README.md), or is known by name, or,
for a local copy of BLOOM, by its shape: the use restrictions of RAIL go along with whatever is made of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florilegium.seedling import FOLDER as SEEDLING

RAIL = "bigscience-bloom-rail-1.0"
RAIL_LINK = "https://huggingface.co/spaces/bigscience/license"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}")
BLOOM_SHAPES = {(1024, 24), (1536, 24), (2048, 24), (2560, 30), (4096, 30), (14336, 70)}
MAX_CARD_BYTES = 1 << 20


@dataclass(frozen=True)
class Origin:
    """`name` is a Hub id where `on_hub`, else a bare name. `licence` is an SPDX or Hub licence id, or empty."""

    name: str
    on_hub: bool
    licence: str

    @property
    def is_rail(self) -> bool:
        return "rail" in self.licence.lower()

    @property
    def licence_link(self) -> str:
        return RAIL_LINK if self.licence == RAIL else ""

    def restrictions(self) -> str:
        """What whoever passes it on must know, in a sentence or two."""
        if self.is_rail:
            return (
                f"The base model is under {self.licence} ({RAIL_LINK}). Its use restrictions (its Attachment A) apply to "
                "this model too, and whoever passes it on must pass them on with it."
            )
        if self.licence:
            return f"The base model's licence is {self.licence}."
        return "The base model's licence is not known here: look it up before you pass this on."


def origin_of(name: str, folder: Path | None, *, local: bool | None = None) -> Origin:
    """Of the base that a run calls `name`, whose files lie in `folder` (None: not at hand). `local` is what the run
    remembers of it: whether it was a folder."""
    if name == "seedling" or folder == SEEDLING:
        return Origin("florilegium's demo model", False, "apache-2.0")
    on_hub = bool(HUB_ID.fullmatch(name)) and not (Path(name).exists() if local is None else local)
    return Origin(name if on_hub else bare_name(name), on_hub, _licence(name if on_hub else "", folder))


def bare_name(path: str) -> str:
    """The last part of a path."""
    return path.rstrip("/").rsplit("/", 1)[-1] or "a local model"


def _licence(hub_id: str, folder: Path | None) -> str:
    if re.match(r"bigscience/bloomz?(-|$)", hub_id):
        return RAIL
    if folder is None:
        return ""
    with contextlib.suppress(OSError):
        if (folder / "README.md").is_file() and (found := _front_matter(folder / "README.md").get("license")):
            return str(found)[:60]
    return RAIL if _is_bloom(folder) else ""


def _front_matter(path: Path) -> Mapping[str, Any]:
    import yaml

    with path.open(encoding="utf-8", errors="replace") as file:
        text = file.read(MAX_CARD_BYTES)
    found = re.match(r"---\n(.*?)\n---", text, re.S)
    values: Any = None
    if found:
        with contextlib.suppress(yaml.YAMLError, RecursionError):
            values = yaml.safe_load(found[1])
    return values if isinstance(values, dict) else {}


def _is_bloom(folder: Path) -> bool:
    """Whether the folder holds BigScience's BLOOM, going by its shape."""
    from florilegium.model.untrusted import read_json

    config = read_json(folder / "config.json", "config.json")
    width = config.get("hidden_size", config.get("n_embed"))
    shape = (width, config.get("n_layer", config.get("num_hidden_layers")))
    # compared, not hashed: a damaged config.json may hold lists there
    return (
        config.get("model_type") == "bloom"
        and any(shape == one for one in BLOOM_SHAPES)
        and config.get("vocab_size") == 250880
    )
