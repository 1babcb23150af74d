"""florilegium.json: what an adapter's folder remembers beside PEFT's own files, and what a reader takes from it.

It decides which model is loaded and how prompts are made, and may be anybody's: it is believed only where it holds what
stands there in ours. An adapter that others made has none."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from florilegium.data import DEFAULT_TEMPLATE, Template
from florilegium.data.words import beginning
from florilegium.errors import ModelError, UsageError
from florilegium.model.identity import BaseFacts
from florilegium.model.untrusted import check_format, read_json
from florilegium.storage.json_record import JsonRecord

FACTS = "florilegium.json"
FACTS_FORMAT = 1
BITS = (4, 8, 16, 32)
DIGESTS = ("digest", "tokenizer_digest", "original_digest")
FACT_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "base": dict, "bits": int, "direction": str, "form": str, "files": dict, "list_columns": list, "lora": dict, "openings": dict,
    "revision": (str, type(None)), "template": str,
}  # fmt: skip


@dataclass(frozen=True)
class AdapterFacts(JsonRecord):
    """florilegium.json of an adapter folder; None where it does not say. `openings` are the first words of training rows
    and how often, `files` the sums of the weights, `lora` the settings that PEFT wrote."""

    format: int = 1  # a file without a number is of the first
    template: str | None = None
    list_columns: list[str] | None = None
    base: BaseFacts = BaseFacts()
    base_is_local: bool | None = None
    revision: str | None = None
    bits: int | None = None
    openings: dict[str, int] | None = None
    direction: str | None = None
    form: str | None = None  # "chat": rows are a question and its answer
    lora: dict[str, object] | None = None
    files: dict[str, object] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing, as of an adapter that others made."""
        return self == AdapterFacts()

    def to_json(self) -> dict[str, object]:
        """Without what it does not say; that no revision was asked for is said."""
        return {name: value for name, value in super().to_json().items() if value is not None or name == "revision"}


def read_facts(folder: Path) -> AdapterFacts:
    """florilegium.json of an adapter folder, empty for an adapter that others made. Raises ModelError when it is broken,
    or holds something else than what stands there: it decides which model is loaded."""
    if not os.path.lexists(folder / FACTS):  # a link that leads nowhere is no adapter without a memory
        return AdapterFacts()
    what, fix = str(folder / FACTS), "Copy the adapter again, or train it again"
    found = read_json(folder / FACTS, what)
    check_format(found, FACTS_FORMAT, what)
    for name, kinds in FACT_KINDS.items():
        known = name != "bits" or found.get(name) in BITS
        if name in found and (not isinstance(found[name], kinds) or type(found[name]) is bool or not known):
            raise ModelError(f"{what} cannot be read: {name} is {str(found[name])[:40]!r}", fix)
    _check_base(found.get("base", {}), what)
    _check_words(found.get("openings", {}), found.get("list_columns", []), what, fix)
    try:
        facts = AdapterFacts.from_json(found)
        if facts.template is not None:
            template_of(facts)
    except ValueError as error:
        raise ModelError(f"{what} cannot be read: {error}", fix) from None
    except UsageError as error:
        raise ModelError(f"{what} cannot be used: {error.cause}", fix) from None
    return facts


def _check_base(base: Mapping[str, object], what: str) -> None:
    fix = "Name the base with --model"
    if not all(isinstance(base.get(key, ""), str) for key in DIGESTS):
        raise ModelError(f"{what} cannot be read: 'base.digest' is invalid", fix)
    if not isinstance(base.get("shape", {}), dict):
        raise ModelError(f"{what} cannot be read: 'base.shape' is invalid", fix)
    name = base.get("name")
    if name is not None and (not isinstance(name, str) or "\0" in name or len(name) > 4096):
        raise ModelError(f"{what} cannot be read: 'base.name' is invalid", fix)


def _check_words(openings: Mapping[str, object], lists: Iterable[object], what: str, fix: str) -> None:
    """The openings must be words with counts: they are used long after the file was read."""
    counts = all(type(count) is int and 0 <= count < 1 << 53 for count in openings.values())
    if not counts or not all(isinstance(name, str) for name in lists):
        raise ModelError(f"{what} cannot be read: 'openings' or 'list_columns' is invalid", fix)


def template_of(facts: AdapterFacts) -> Template:
    """The template that an adapter was trained with, in its direction. Raises UsageError for one that is none."""
    text = DEFAULT_TEMPLATE if facts.template is None else facts.template
    template = Template.from_text(text, ("tags",) if facts.list_columns is None else facts.list_columns)
    if facts.form == "chat":
        return replace(template, is_chat=True)
    return template.in_direction("both") if facts.direction == "both" else template


def openings_of(facts: AdapterFacts) -> dict[str, int]:
    """The first words of training rows and their counts. Before 0.1.0, a row of a script without spaces stood there
    whole: two signs of it are left. Behind a chat template's own words nothing is cut."""
    openings = Counter[str]()
    for word, count in (facts.openings or {}).items():
        openings[word if facts.form == "chat" else beginning(word)] += count
    return dict(openings)
