"""Records are written and read again by the types of their fields, with a default for what an earlier version lacks."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from florilegium.storage.json_record import JsonRecord


@dataclass(frozen=True)
class Place(JsonRecord):
    name: str
    line: int | None = None


@dataclass(frozen=True, kw_only=True)
class Page(JsonRecord):
    title: str
    share: float = 0.5
    is_last: bool = False
    places: dict[str, list[Place]] = field(default_factory=dict)
    counts: list[tuple[str, int]] = field(default_factory=list)
    first: Place | None = None
    anything: object = None


FULL = Page(
    title="x", share=1.0, is_last=True, places={"a": [Place("q", 7), Place("r")]}, counts=[("t", 2)],
    first=Place("q"), anything={"b": [None, 1.5]},
)  # fmt: skip


@pytest.mark.parametrize("page", [FULL, Page(title="")])
def test_what_is_written_is_read_again(page: Page) -> None:
    plain = page.to_json()
    assert json.loads(json.dumps(plain)) == plain and Page.from_json(plain) == page
    assert list(plain) == ["title", "share", "is_last", "places", "counts", "first", "anything"]


def test_what_is_missing_has_its_default_and_what_is_unknown_is_passed_over() -> None:
    assert Page.from_json({"title": "x", "of a later version": 1, "share": 1}) == Page(title="x", share=1)


@pytest.mark.parametrize(
    "values,said",
    [
        ([], "is not a JSON object"),
        ({}, "title is missing"),
        ({"title": None}, "title is 'None'"),
        ({"title": "x", "share": True}, "share is 'True'"),
        ({"title": "x", "share": "1"}, "share is '1'"),
        ({"title": "x", "is_last": 1}, "is_last is '1'"),
        ({"title": "x", "places": {"a": [{"name": "q", "line": 1.5}]}}, "line is '1.5'"),
        ({"title": "x", "places": {"a": [{}]}}, "name is missing"),
        ({"title": "x", "places": {"a": "q"}}, r"places\.a is 'q'"),
        ({"title": "x", "counts": [["t"]]}, "counts is "),
        ({"title": "x", "counts": [["t", True]]}, "counts is 'True'"),
        ({"title": "x", "first": []}, "first is "),
    ],
)
def test_another_kind_is_said(values: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Page.from_json(values)
