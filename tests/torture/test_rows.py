"""Bad data files by the hundred, mutations by the million, templates that want more than a column, braces in the
data."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from florilegium.data import Problem, Template, read_rows
from florilegium.errors import DataError, UsageError
from tests.data.test_bad_input import GOOD, SECOND_ROWS, WHOLE_FILES
from tests.torture import mutations as judging
from tests.torture.mutations import SHARES, Tally, good_files, mutants

PLACE = re.compile(r":\d+|row \d+|byte \d+|no rows|Parquet file|the file|files are not read|not an ")


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
        if data.strip():  # else a comma before the closing bracket, which is no row
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
        b'"b"x"y,c\n',
        b"c,\xff\n",
        b"\0,\0\n",
        b"c\n,\n",
    ):
        write("q.csv", b"quote,tags\na,b\n" + field)
    return paths


def test_bad_files_and_mutations(
    tmp_path: Path, amount: Callable[[int, int], int], figure: Callable[[str, str], None]
) -> None:
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
    tally = mutations(tmp_path, amount(3_000, 1_000_000))
    assert not tally.wrong, f"{len(tally.wrong):,} of {tally.tried:,}: {tally.wrong[:3]}"
    assert tally.refused > tally.tried // 10 and tally.verified and tally.reread
    text = f"{len(paths)} bad files, all named with file and place; {tally.tried:,} mutations ({tally.refused:,} refused): 0 tracebacks"
    more = f"{tally.verified:,} named lines checked by themselves, {tally.reread:,} files of accepted rows read again to the same digest"
    figure("bad data", f"{text}, 100% name file and place, the others round-trip; {more}")


BLOCK = 25_000


def mutations(spare: Path, total: int) -> Tally:
    """`total` mutants, judged; in memory where the system has a place for that. Many of them in blocks, each with a seed
    of its own, on all processors."""
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else spare
    with tempfile.TemporaryDirectory(dir=shared, prefix="mutations-") as folder:
        blocks = [(Path(folder) / str(seed), min(BLOCK, total - seed), seed) for seed in range(0, total, BLOCK)]
        tally = Tally(Path(folder))
        if len(blocks) == 1:
            return _block(blocks[0])
        with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
            for done in pool.imap_unordered(_block, blocks):
                tally.add(done)
                print(f"{tally.tried:,} mutations, {len(tally.wrong)} wrong", flush=True)
    return tally


def _block(block: tuple[Path, int, int]) -> Tally:
    folder, total, seed = block
    folder.mkdir()
    tally, draw = Tally(folder), random.Random(seed)
    for suffix, share in SHARES.items():
        for data in mutants(suffix, round(total * share), draw):
            tally.judge(suffix, data, draw)
    return tally


def test_the_judge_of_mutations_can_find_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each promise, a reader that breaks it."""
    data = good_files()[".jsonl"][0]
    rows = read_rows(_written(tmp_path / "q.jsonl", data))

    def refuses(cause: str, fix: str = "do") -> Callable[..., Any]:
        def reader(path: Path, **more: bool) -> Any:
            raise DataError(cause, fix)

        return reader

    def fault(reader: Callable[..., Any], data: bytes = data, suffix: str = ".jsonl") -> str:
        monkeypatch.setattr(judging, "read_rows", reader)
        tally = Tally(tmp_path)
        draw = random.Random(6)
        while not tally.wrong and tally.tried < 200:
            tally.judge(suffix, data, draw)
        return tally.wrong[0][1] if tally.wrong else ""

    def stumbles(path: Path, **more: bool) -> Any:
        raise KeyError("quote")

    assert fault(read_rows) == ""
    assert fault(stumbles) == "KeyError: 'quote'"
    assert fault(refuses("mutant.jsonl: it is bad")).startswith("no place")
    assert fault(refuses("mutant.jsonl:1: bad", "")).startswith("no file or no advice")
    assert fault(refuses("row 1 is bad")).startswith("no file or no advice")
    assert fault(refuses("mutant.jsonl:99: bad")).startswith("no such line")
    assert "but the first 2 lines are good" in fault(_only_at_first(refuses("mutant.jsonl:2: bad")))
    array = b'[{"quote": "a", "tags": []},\n{"quote": "b", "tags": []},\n{"quote": "c"'
    for suffix in (".jsonl", ".json"):
        said, blames = f"mutant{suffix}:1 (row 1): the file ends at byte 9", "row 3 is the first that is not JSON"
        assert fault(read_rows, array, suffix) == "" and fault(refuses(said), array, suffix).endswith(blames)
        assert fault(refuses(f"mutant{suffix}:3 (row 4): column 'quote' is empty"), array, suffix).endswith(blames)
        assert fault(refuses(f"mutant{suffix}:1 (row 1): column 'quote' is empty"), array, suffix) == ""
    assert fault(lambda path, **more: replace(rows, num_read=9)) == "9 rows read, not all accounted for"
    unlike = {"quote": " a", "tags": []}
    assert fault(lambda path, **more: replace(rows, quotes=[unlike], num_read=1)).startswith("does not round-trip")
    assert fault(_only_at_first(lambda path, **more: replace(rows, digest="0"))).endswith("have another digest")
    lost = Problem("here", "bad", "mend it")
    assert fault(lambda path, **more: replace(rows, skipped=[lost], num_read=4)).startswith("no file or no advice")


def _only_at_first(reader: Callable[..., Any]) -> Callable[..., Any]:
    """`reader` for the mutant itself, the true one for what it is compared with."""
    return lambda path, **more: (reader if path.name.startswith("mutant") else read_rows)(path, **more)


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


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
        quote = {
            "quote": "".join(draw.choices(PIECES, k=draw.randint(1, 12))),
            "tags": draw.sample(["{a}", "b}", "{0.x}", "c d"], 2),
        }
        try:
            sound = template.normalise({"quote": Watched(quote["quote"]), "tags": quote["tags"]})
            text = template.render(sound)
        except DataError:
            continue  # a separator in it, or nothing but white space: refused, never misread
        rendered += 1
        assert template.parse(text) == sound and text.startswith(str(sound["quote"]))
    assert rendered > count * 0.8 and not Watched.seen, Watched.seen[:5]
    figure(
        "templates",
        f"{len(HOSTILE)} hostile templates refused, attribute access 0; {rendered:,} rows with braces round-trip: 100%",
    )
