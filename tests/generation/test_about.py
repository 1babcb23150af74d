"""Quotes with given tags: drawn, and chosen by the tags that the model itself gives them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from florilegium.config import SamplingSettings
from florilegium.data import Template
from florilegium.errors import UsageError
from florilegium.generation import Generated
from florilegium.generation.about import DRAWN_AT_ONCE, MOST_DRAWN, quotes_about

SETTINGS = SamplingSettings()


@dataclass
class Author:
    """A model that writes what it is told, row after row."""

    writes: list[list[str]]
    template: Template = field(default_factory=lambda: Template.from_text("{quote} ->: {tags}"))
    asked: list[int] = field(default_factory=list)

    def prompt_text(self, prompt: str) -> str:
        return prompt

    def complete(self, texts: list[str], settings: Any, first_row: int = 0) -> list[Generated]:
        self.asked.append(first_row)
        rows = range(first_row, first_row + len(texts))
        tags = [self.writes[i % len(self.writes)] for i in rows]
        return [Generated(f"q{i}", {"quote": f"q{i}", "tags": t}, True, None) for i, t in zip(rows, tags, strict=True)]


def test_all_tags_asked_for_whatever_their_spelling() -> None:
    author: Any = Author([["love"], ["Love", "Inner Peace"], ["inner-peace"], []])
    result = quotes_about(author, ["love", " inner_peace "], 3, SETTINGS)
    assert [row.text for row in result.rows] == ["q1", "q5", "q9"] and result.drawn == DRAWN_AT_ONCE


def test_a_tag_that_is_never_written_ends_with_what_is() -> None:
    author: Any = Author([["sea"], ["sea", "hope"]])
    result = quotes_about(author, ["war"], 1, SETTINGS)
    assert result.rows == [] and result.drawn == MOST_DRAWN and result.frequent_tags == ("sea", "hope")
    assert author.asked == list(range(0, MOST_DRAWN, DRAWN_AT_ONCE))  # no draw twice


@pytest.mark.parametrize(
    ("template", "tags", "settings", "says"),
    [
        ("{quote} by {author}", ["a"], SETTINGS, "ends in a list of tags"),
        ("{quote} ->: {tags}", [" "], SETTINGS, "names no tag"),
        ("{quote} ->: {tags}", ["a"], SamplingSettings(temperature=0.0), "temperature 0"),
    ],
)
def test_what_cannot_be_asked(template: str, tags: list[str], settings: SamplingSettings, says: str) -> None:
    author: Any = Author([["a"]], Template.from_text(template))
    with pytest.raises(UsageError, match=says):
        quotes_about(author, tags, 1, settings)
