"""Bad data files by the hundred, mutations by the million, templates that want more than a column, braces in the data."""

from __future__ import annotations

import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from florilegium.data import Template, read_rows
from florilegium.errors import DataError, UsageError
from tests.data.test_bad_input import GOOD, SECOND_ROWS, WHOLE_FILES, good_file, mutate

PLACE = re.compile(r":\d+|row \d+|byte \d+|no rows|Parquet file|the file|a gzip|a zip")


def bad_files(folder: Path) -> list[Path]:
    """One file a mistake, and most of them twice: as JSON lines and as an array."""
    paths = []

    def write(name: str, data: bytes) -> None:
        home = folder / str(len(paths))
        home.mkdir()
        (home / name).write_bytes(data)
        paths.append(home / name)

    for _, data, _ in SECOND_ROWS:
        write("q.jsonl", GOOD.encode() + data)
        write("q.json", b"[" + GOOD.encode() + b"," + data.rstrip(b"\n") + b"]")
    for _, name, data, _ in WHOLE_FILES:
        write(name, data)
    for field in (
        b'"b\n',
        b"b,c,d\n",
        b"b\n",
        b"b\xff,c\n",
        b" ,c\n",
        b"b\0,c\n",
        b"b ->: x,c\n",
        b"b,\"['c']\"\n",
        b'"b"x,c\n',
        b"c,\xff\n",
        b"\0,\0\n",
        b"c\n,\n",
    ):
        write("q.csv", b"quote,tags\na,b\n" + field)
    return paths


def test_bad_files_and_mutations(tmp_path: Path, amount: Callable[[int, int], int], figure: Callable[[str, str], None]) -> None:
    paths = bad_files(tmp_path)
    assert len(paths) >= 120
    located = 0
    for path in paths:
        with pytest.raises(DataError) as refused:
            read_rows(path)
        said = str(refused.value)
        assert path.name in said and refused.value.fix and "\n" not in said, said
        located += PLACE.search(said) is not None
    assert located == len(paths)
    total = amount(4_000, 1_000_000)
    share = total // 8
    with ProcessPoolExecutor(2) as pool:
        parts = list(pool.map(mutations, [(number, share) for number in range(8)]))
    tried, refusals, without = (sum(column) for column in zip(*parts, strict=True))
    assert without == 0 and refusals > tried // 10
    text = f"{len(paths)} bad files, all named with file and place; {tried:,} mutations ({refusals:,} refused)"
    figure("bad data", f"{text}: 0 tracebacks, {100 * (refusals - without) / refusals:.0f}% name file and place, the others round-trip")


def mutations(work: tuple[int, int]) -> tuple[int, int, int]:
    """How many were tried, how many refused, and how many refusals named no place; in memory, and in a process of its own."""
    seed, count = work
    draw = random.Random(seed)
    suffix = (".jsonl", ".json", ".csv", ".jsonl")[seed % 4]
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(dir=shared, prefix="mutations-"))
    refused = without = 0
    try:
        good, path = good_file(folder, suffix), folder / f"mutant{suffix}"
        for _ in range(count):
            path.write_bytes(mutate(good, draw))
            try:
                rows = read_rows(path, skip_bad_rows=draw.random() < 0.3)
                assert all(rows.template.parse(rows.template.render(quote)) == quote for quote in rows.quotes)
            except DataError as error:
                refused += 1
                without += path.name not in error.cause or PLACE.search(error.cause) is None or not error.fix
    finally:
        shutil.rmtree(folder)
    return count, refused, without


HOSTILE = [
    "{0.__class__}",
    "{quote.__class__.__mro__}",
    "{quote!r:>999999999}",
    "{quote:>999999999}",
    "{quote!s}",
    "{quote[0]}",
    "{}",
    "{0}",
    "{{quote}}",
    "{{ ''.__class__ }}",
    "{{ config.items() }}",
    "{% for x in y %}",
    "{%- if 1 %}",
    "{quote} {quote}",
    "{quote} {tags}",
    "{quote",
    "quote}",
    "{quote} ->: {tags} {",
    "{ quote }",
    "{quote\n}",
    "{quote;tags}",
    "{__import__('os').system('id')}",
    "{quote.format}",
    "{quote:{tags}}",
    "{quote!a}",
    "{1quote}",
    "{quote-x}",
    "${quote}{tags}",
    "%(quote)s %s %n",
    "{quote}\0 ->: {tags}",
    "\ud800 {quote} ->: {tags}",
    "",
    "   ",
    "{quote:%s}" % ("9" * 100),
    "{" * 10_000,
    "}" * 10_000,
    "{a}" * 10_000,
    "{quote}" + "{",
    "{lambda: 0}",
    "{quote or tags}",
]
PIECES = [
    "{",
    "}",
    "{quote}",
    "{tags}",
    "{0}",
    "{{",
    "}}",
    "{0.__class__}",
    "%s",
    "%n",
    "$x",
    "\\",
    "->",
    ":",
    " ",
    "a",
    "é",
    "“",
    "\n",
    "{%",
    "\t",
]


class Watched(str):
    """Text that counts how often something looks at an attribute of it that a template has no business with."""

    seen: list[str] = []

    def __getattribute__(self, name: str) -> object:
        if name.startswith("__") and name not in ("__class__",) or name in ("format", "format_map"):
            Watched.seen.append(name)
        return super().__getattribute__(name)


def test_templates(amount: Callable[[int, int], int], figure: Callable[[str, str], None]) -> None:
    for text in HOSTILE:
        with pytest.raises(UsageError) as refused:
            Template.from_text(text)
        assert refused.value.fix
    template, draw = Template.from_text("{quote} ->: {tags}"), random.Random(2)
    count = amount(3_000, 100_000)
    rendered = 0
    for _ in range(count):
        quote = {"quote": "".join(draw.choices(PIECES, k=draw.randint(1, 12))), "tags": draw.sample(["{a}", "b}", "{0.x}", "c d"], 2)}
        try:
            sound = template.normalise({"quote": Watched(quote["quote"]), "tags": quote["tags"]})
            text = template.render(sound)
        except DataError:
            continue  # a separator in it, or nothing but white space: refused, never misread
        rendered += 1
        assert template.parse(text) == sound and text.startswith(str(sound["quote"]))
    assert rendered > count * 0.8 and not Watched.seen, Watched.seen[:5]
    figure("templates", f"{len(HOSTILE)} hostile templates refused, attribute access 0; {rendered:,} rows with braces round-trip: 100%")
