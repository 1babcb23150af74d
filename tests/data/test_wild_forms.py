"""More of what people have, a kind a line: splits that a column says, talks, tables in plain text and Markdown, sheets,
titles above the header, printed lists, encodings; and that nothing is found in texts where nothing is."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from florilegium.data import examine, make_split, near_pairs, read_rows
from florilegium.data.column_names import find_tags, find_text, is_author
from florilegium.errors import DataError
from tests.data.wild_rows import (
    ALONE,
    QUOTES,
    TAGS,
    WITH_TAGS,
    Table,
    jsonl,
    parquet,
    table,
    tagged,
    trained,
)

LISTS = [TAGS[n % 6] for n in range(len(QUOTES))]
JOINED = [", ".join(tags) for tags in LISTS]
PAIRS: Table = [{"quote": quote, "tags": tags} for quote, tags in zip(QUOTES, LISTS, strict=True)]
ANSWERED = [f"{quote} ->: Yes." for quote in QUOTES]
TALK = [[{"role": "user", "content": quote}, {"role": "assistant", "content": "Yes."}] for quote in QUOTES]


def lines(write: Callable[[str, list[str]], str]) -> Callable[[], bytes]:
    """A file of what is written of each quote and its tags."""
    return lambda: "".join(map(write, QUOTES, LISTS)).encode()


def dumped(value: object) -> Callable[[], bytes]:
    return lambda: json.dumps(value).encode()


def sheets(**rows: Sequence[Sequence[object]]) -> bytes:
    openpyxl = pytest.importorskip("openpyxl")
    book, file = openpyxl.Workbook(), io.BytesIO()
    book.remove(book.active)
    for title, cells in rows.items():
        sheet = book.create_sheet(title)
        for row in cells:
            sheet.append(row)
    book.save(file)
    return file.getvalue()


CELLS = [[quote, tags] for quote, tags in zip(QUOTES, JOINED, strict=True)]
NAMES = ["Quote", "Tags"]
# name of the file, its bytes, the texts that are trained, what is said
READ: list[tuple[str, Callable[[], bytes], list[str], str]] = [
    # talks
    ("talks.parquet", lambda: parquet([{"id": n, "messages": talk} for n, talk in enumerate(TALK)]), ANSWERED, "'messages' holds conversations"),
    ("lists.jsonl", lambda: jsonl(TALK), ANSWERED, "rows are conversations"),
    ("items.jsonl", lambda: jsonl([{"id": "1", "items": talk} for talk in TALK]), ANSWERED, "'items' holds conversations"),
    ("pairs.jsonl", lambda: jsonl([{"conversations": [{"input": q, "output": "Yes."}]} for q in QUOTES]), ANSWERED, "holds conversations"),
    ("names.jsonl", lambda: jsonl([{"dialogue": [{"user": q, "assistant": "Yes."}]} for q in QUOTES]), ANSWERED, "holds conversations"),
    ("trl.jsonl", lambda: jsonl([{"prompt": t[:1], "completion": t[1:]} for t in TALK]), ANSWERED, "'prompt' and 'completion' hold conversations"),
    ("dpo.jsonl", lambda: jsonl([{"prompt": t[:1], "rejected": t[:1], "chosen": t[1:]} for t in TALK]), ANSWERED, "'prompt' and 'chosen'"),
    ("tools.jsonl", lambda: jsonl([{"messages": [t[0], {"role": "assistant", "content": None}, {"role": "tool", "content": "4"}, t[1]]} for t in TALK]), ANSWERED, "holds conversations"),
    # JSON
    ("row_in_row.json", dumped({"features": [{"name": "quote"}], "rows": [{"row_idx": 1, "row": row} for row in PAIRS]}), WITH_TAGS, "'row' holds the columns"),
    ("row_in_row.parquet", lambda: parquet([{"id": n, "row": row} for n, row in enumerate(PAIRS)]), WITH_TAGS, "'row' holds the columns"),
    ("written_twice.jsonl", lambda: jsonl([json.dumps(row) for row in PAIRS]), WITH_TAGS, "written as texts"),
    ("lists_a_line.jsonl", lambda: jsonl([[*row.values()] for row in PAIRS]), WITH_TAGS, "rows are lists"),
    ("names_first.json", dumped([["Quote", "Tags"], *([*row.values()] for row in PAIRS)]), WITH_TAGS, "the first one names the columns"),
    ("sheet.json", dumped({"range": "A1:B13", "values": [NAMES, *CELLS]}), WITH_TAGS, "rows under 'values'"),
    ("by_text.json", dumped(dict(zip(QUOTES, LISTS, strict=True))), WITH_TAGS, "keyed by their texts"),
    ("by_author.json", dumped({"Ada": QUOTES[:6], "Bo": QUOTES[6:]}), [f"{q} ->: {'Ada' if n < 6 else 'Bo'}" for n, q in enumerate(QUOTES)], "under 2 categories"),
    # CSV
    ("comments.csv", lambda: b"# made by hand, 2020\n# so\n" + table(PAIRS), WITH_TAGS, "skipped 2 lines above the header"),
    ("title.csv", lambda: b"My quotes,\n\n" + table(PAIRS), WITH_TAGS, "skipped 1 line above the header"),
    ("title_in_latin.csv", lambda: b"Caf\xe9 \x81\n" + table(PAIRS), WITH_TAGS, "skipped 1 line above the header"),
    ("blank_rows.csv", lambda: table(PAIRS) + b",\n , \n", WITH_TAGS, "the text is 'quote'"),
    ("empty_columns.csv", lambda: table([{**row, "": "", "x": ""} for row in PAIRS]), WITH_TAGS, "the text is 'quote'"),
    # lists in cells
    ("of_objects.csv", lambda: table(tagged(lambda tags: repr([{"id": 1, "name": tag} for tag in tags]), "genres")), WITH_TAGS, "printed lists"),
    ("of_json_objects.csv", lambda: table(tagged(lambda tags: json.dumps([{"name": tag} for tag in tags]))), WITH_TAGS, "printed lists"),
    ("of_r.csv", lambda: table(tagged(lambda tags: f"c({json.dumps(tags)[1:-1]})" if tags else "character(0)")), WITH_TAGS, "printed lists"),
    ("sets.csv", lambda: table(tagged(lambda tags: repr(set(tags)) if len(tags) == 1 else repr(tuple(tags)) if tags else "set()")), WITH_TAGS, "printed lists"),
    ("in_quotes.csv", lambda: table(tagged(lambda tags: json.dumps(tags)[1:-1] if tags[1:] else ", ".join(tags))), WITH_TAGS, "the tags 'tags'"),
    ("tabs.jsonl", lambda: jsonl(tagged("\t".join)), WITH_TAGS, "(split at tabs)"),
    ("bullets.jsonl", lambda: jsonl(tagged(" • ".join)), WITH_TAGS, "(split at '•')"),
    ("hashes_alone.jsonl", lambda: jsonl(tagged(lambda tags: "".join(f"#{tag}" for tag in tags))), WITH_TAGS, "(split at '#')"),
    ("and_signs.csv", lambda: table([{"text": q, "genre": ["R&B; soul", "rock; pop"][n % 2]} for n, q in enumerate(QUOTES)]), [f"{q} ->: {['R&B, soul', 'rock, pop'][n % 2]}" for n, q in enumerate(QUOTES)], "(split at ';')"),
    # plain text and Markdown
    ("commas.txt", lambda: table(PAIRS), WITH_TAGS, "the text is 'quote'"),
    ("tabs.txt", lambda: table(PAIRS, "\t"), WITH_TAGS, "separated by tabs"),
    ("labels.txt", lines(lambda q, t: f"{q};{t[0] if t else 'none'}\n"), [f"{q} ->: {t[0] if t else 'none'}" for q, t in zip(QUOTES, LISTS, strict=True)], "separated by semicolons"),
    ("labels_first.txt", lines(lambda q, t: f"{'ham' if t else 'spam'}\t{q}\n"), [f"{q} ->: {'ham' if t else 'spam'}" for q, t in zip(QUOTES, LISTS, strict=True)], "separated by tabs"),
    ("rendered.txt", lines(lambda q, t: f"{q} ->: {', '.join(t)}\n"), WITH_TAGS, "the text is 'quote', the tags 'tags'"),
    ("prose.txt", lines(lambda q, t: f"{q[:-1]}; so it is, {q.lower()}\n"), [f"{q[:-1]}; so it is, {q.lower()}" for q in QUOTES], "one text per line"),
    ("indented.txt", lines(lambda q, t: f"\t{q}\n"), ALONE, "one text per line"),
    ("numbered.txt", lambda: "".join(f"{n}. {q}\n" for n, q in enumerate(QUOTES, 1)).encode(), ALONE, "list marks removed"),
    ("dashes.txt", lambda: ("".join(f"- {q}\n" for q in QUOTES[:-1]) + QUOTES[-1]).encode(), ALONE, "list marks removed"),
    ("table.md", lines(lambda q, t: f"| {q} | x \\| y | {', '.join(t)} |\n"), [], ""),
    ("block_quotes.md", lambda: ("# A\n\n" + "\n\n".join(f"> {q}\n>\n> — Ada Example" for q in QUOTES)).encode(), ALONE, "one text per block quote"),
    ("wrapped.md", lines(lambda q, t: f"* {q[:6].strip()}\n  {q[6:].strip()}\n"), [f"{q[:6].strip()} {q[6:].strip()}" for q in QUOTES], "one text per list item"),
    # workbooks
    ("second_sheet.xlsx", lambda: sheets(About=[], Quotes=[NAMES, *CELLS]), WITH_TAGS, "the text is 'Quote'"),
    ("about_first.xlsx", lambda: sheets(About=[["Made by hand."]], Quotes=[NAMES, *CELLS]), WITH_TAGS, "sheet 'Quotes' is read; not used: 'About'"),
    ("test_first.xlsx", lambda: sheets(test=[NAMES, ["Never.", "a"]], train=[NAMES, *CELLS]), WITH_TAGS, "sheet 'train' is read; not used: 'test'"),
    ("title.xlsx", lambda: sheets(A=[["My quotes"], [], NAMES, *CELLS]), WITH_TAGS, "skipped 1 line above the header"),
    ("no_names.xlsx", lambda: sheets(A=CELLS), WITH_TAGS, "no header"),
]  # fmt: skip
READ[[row[0] for row in READ].index("table.md")] = (
    "table.md",
    lambda: "\n".join(
        ["Text | Author | Tags", ":--- | --- | ---", *(f"{q} | x \\| y | {t}" for q, t in CELLS)]
    ).encode(),
    WITH_TAGS,
    "the rows of its table",
)


@pytest.mark.parametrize(("name", "data", "texts", "said"), READ, ids=[row[0] for row in READ])
def test_a_form_is_read_as_its_owner_means_it(
    tmp_path: Path, name: str, data: Callable[[], bytes], texts: list[str], said: str
) -> None:
    (tmp_path / name).write_bytes(data())
    rows = read_rows(tmp_path / name)
    assert trained(rows) == texts and rows.num_read == len(texts)
    assert any(said in note for note in rows.notes), rows.notes


SIDES = ["train"] * 7 + ["val"] * 2 + ["test"] * 2 + ["unlabelled"]
SPLITS: dict[str, Callable[[], bytes]] = {
    "column.csv": lambda: table([{**row, "split": side} for row, side in zip(PAIRS, SIDES, strict=True)]),
    "column.parquet": lambda: parquet([{"Set": side, **row} for row, side in zip(PAIRS, SIDES, strict=True)]),
    "test_first.jsonl": lambda: jsonl([{**row, "data split": side} for row, side in zip(PAIRS, SIDES, strict=True)][::-1]),
    "by_split.json": dumped({"train": PAIRS[:7], "dev": PAIRS[7:9], "test": PAIRS[9:11], "unlabelled": PAIRS[11:]}),
    "columns_by_split.json": dumped(
        {
            side: {"quote": QUOTES[a:b], "tags": LISTS[a:b]}
            for side, a, b in (("training", 0, 7), ("validation", 7, 9), ("test", 9, 12))
        }
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPLITS)
def test_no_row_is_trained_that_says_it_is_held_back(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(SPLITS[name]())
    rows = read_rows(tmp_path / name)
    split = make_split(rows.quotes, 0.1, 0, held_out_from=rows.held_out_from)
    assert sorted(str(rows.quotes[i]["quote"]) for i in split.training) == sorted(QUOTES[:7])
    assert sorted(str(rows.quotes[i]["quote"]) for i in split.held_out) == sorted(QUOTES[7:9])
    assert rows.num_read == 9 and any(
        "training rows from 'train'; held out: 'validation'; not used: " in n for n in rows.notes
    )


def test_splits_without_rows_to_train_on_are_refused(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text(json.dumps({"validation": PAIRS[:8], "test": PAIRS[8:]}))
    with pytest.raises(DataError, match="q.json.*rows of validation and test alone, and none to train on"):
        read_rows(tmp_path / "q.json")
    (tmp_path / "q.csv").write_bytes(table([{**row, "split": "test"} for row in PAIRS]))
    assert trained(read_rows(tmp_path / "q.csv")) == WITH_TAGS, "one split alone is what was meant"
    (tmp_path / "q.csv").write_bytes(table([{"text": row["quote"], "subset": "train"} for row in PAIRS]))
    assert trained(read_rows(tmp_path / "q.csv")) == ALONE, "and never the tags"
    assert trained(read_rows(tmp_path / "q.csv", tags_column="subset"))[0] == f"{QUOTES[0]} ->: train"
    (tmp_path / "q.json").write_text(json.dumps({"life": QUOTES[:4], "training": QUOTES[4:]}))
    assert trained(read_rows(tmp_path / "q.json"))[-1] == f"{QUOTES[-1]} ->: training"


def test_a_held_out_file_stands_in_place_of_a_column_of_splits(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_bytes(SPLITS["column.csv"]())
    (tmp_path / "mine.csv").write_bytes(table([{"quote": "Nothing like it was said.", "tags": "x", "split": "test"}]))
    rows = read_rows(tmp_path / "q.csv", held_out_file=tmp_path / "mine.csv")
    assert rows.held_out_from == 7 and len(rows.quotes) == 8


ENCODED = [
    ("cp1251", "Лампа ждёт реку и хранит хлеб."), ("koi8-r", "Лампа ждёт реку и хранит хлеб."),
    ("cp1250", "Żółta łódź czeka i świeci."), ("iso8859-2", "Żółta łódź czeka i świeci."),
    ("cp1253", "Η ζωή είναι ωραία εδώ."), ("cp1255", "החיים יפים כאן תמיד."), ("mac-roman", "“Café”, she said: don’t."),
    ("gb18030", "灯在窗前等待河流。"), ("big5", "燈在窗前等待河流。"), ("euc-kr", "인생은 아름다워요."),
    ("shift-jis", "灯りは川を待つ。"), ("cp1254", "Işık şöyle ağır bir yük."),
]  # fmt: skip
WINDOWS = [
    "Ça va, été créée: « œuvre » naïve… ÉLÉPHANT", "Größe, Übermaß, Ääääh!", "¿Qué? ¡Año! señor", "På øen: crème brûlée",
    "Það er gott fyrir öðrum", "coração não ações", "perché così però è", "jäääär, õueõu", "5 m² for £5 at 30°", "“so” – it’s",
]  # fmt: skip


@pytest.mark.parametrize(("encoding", "text"), ENCODED)
def test_another_encoding_is_not_taken_for_windows_1252(tmp_path: Path, encoding: str, text: str) -> None:
    (tmp_path / "q.csv").write_bytes(b"quote,tags\n" + "".join(f"{text},x{n}\n" for n in range(9)).encode(encoding))
    with pytest.raises(DataError, match=r"q.csv:2: (neither UTF-8 nor Windows-1252, .*iconv -f|not UTF-8: 0x)"):
        read_rows(tmp_path / "q.csv")


@pytest.mark.parametrize("text", WINDOWS)
def test_windows_1252_is_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "q.txt").write_bytes(f"{text}\nA lamp.\n".encode("cp1252"))
    assert trained(read_rows(tmp_path / "q.txt"))[0] == text


LANGUAGES = """tr Alıntı Yazar Etiketler, pl Cytat Autor Kategoria, nl Citaat Auteur Trefwoorden, sv Citat Författare Taggar,
    fi Lainaus Kirjoittaja Avainsanat, el Ρητό Συγγραφέας Ετικέτες, he ציטוט מחבר תגיות, ar الاقتباس الكاتب الوسوم,
    ko 명언 저자 태그, ja 名言 著者 タグ, zh 句子 作者 分类, th คำคม ผู้แต่ง แท็ก, hi उद्धरण लेखक टैग, bn উক্তি লেখক বিষয়, id Kutipan Penulis Kategori,
    uk Цитата Автор Теги, cs Citát Autor Štítky, hu Idézet Szerző Címkék, pt Citação Autor Categorias, da Citat Forfatter Emner,
    ca Cita Autor Etiquetes, sw Nukuu Mwandishi Lebo, ta மேற்கோள் ஆசிரியர் குறிச்சொற்கள்"""


@pytest.mark.parametrize(
    "names", [row.split()[1:] for row in LANGUAGES.split(",")], ids=[row.split()[0] for row in LANGUAGES.split(",")]
)
def test_columns_are_known_by_name_in(names: list[str]) -> None:
    text, author, tags = names
    assert find_text(names) == [text] and find_tags(names) == [tags] and is_author(author)


GLUED = {
    " & ": " & ",
    " + ": " + ",
    " · ": " · ",
    " → ": " → ",
    " > ": " > ",
    " - ": " - ",
    "::": "::",
    ":": ":",
    "\\": "\\",
    " ": " ",
}


@pytest.mark.parametrize("sign", GLUED)
def test_tags_that_a_sign_glues_are_asked_about_by_that_sign(tmp_path: Path, sign: str) -> None:
    (tmp_path / "q.jsonl").write_bytes(jsonl(tagged(sign.join)))
    found = examine(read_rows(tmp_path / "q.jsonl")).suspicious_tags
    assert found and found.several_in_one
    assert found.several_in_one.separator == sign and found.several_in_one.rows == 8
    assert trained(read_rows(tmp_path / "q.jsonl", tags_separator=sign)) == WITH_TAGS


def test_nothing_in_a_list_decides_nothing(tmp_path: Path) -> None:
    rows = [[""], ["", "#love"], [None, "#life", " "]]
    (tmp_path / "q.jsonl").write_bytes(jsonl([{"quote": f"A lamp {n}.", "tags": tags} for n, tags in enumerate(rows)]))
    assert [quote["tags"] for quote in read_rows(tmp_path / "q.jsonl").quotes] == [[], ["love"], ["life"]]


def test_an_entity_is_no_separator(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(jsonl(tagged(lambda tags: ["Arts &amp; Crafts"])))
    found = examine(read_rows(tmp_path / "q.jsonl"))
    assert found.suspicious_tags and found.suspicious_tags.several_in_one
    assert found.suspicious_tags.several_in_one.rows == 0 and found.dirt["html"].rows == 12


ONE_MOULD = [
    lambda n: f"灯りは川を待ち、夏の橋を{n}度見た。", lambda n: f"第{n}章的开头是这样写的，大家都知道。", lambda n: f"제{n} 장은 이렇게 시작된다고 모두가 말한다.",
    lambda n: f"แสงไฟรอแม่น้ำและเก็บขนมปัง {n}",
]  # fmt: skip


@pytest.mark.parametrize("text", ONE_MOULD)
def test_numbers_tell_texts_apart_in_every_script(text: Callable[[int], str]) -> None:
    assert near_pairs([text(n) for n in range(12)]) == []


def test_vowels_tell_words_apart_and_points_do_not() -> None:
    assert near_pairs(["कल काला पल में", "काल कल पाला में"]) == []
    assert near_pairs(["كَتَبَ الوَلَدُ الدَّرْسَ", "كتب الولد الدرس"]) == [(0, 1)]
    assert near_pairs(["שָׁלוֹם עֲלֵיכֶם לְכֻלָּם", "שלום עליכם לכלם"]) == [(0, 1)]


def test_the_first_bad_row_is_named_before_missing_columns(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"quote": "a", "ta\n{"qu": ["life"]}\n')
    with pytest.raises(DataError, match="^q.jsonl:1: truncated JSON"):
        read_rows(tmp_path / "q.jsonl")
    with pytest.raises(DataError, match="^q.jsonl:2: no column 'quote'"):
        read_rows(tmp_path / "q.jsonl", skip_bad_rows=True)


def test_a_footer_that_counts_backwards_is_damage(tmp_path: Path) -> None:
    from florilegium.data.cell_size import refuse_bombs
    from florilegium.data.parquet_footer import ColumnPart

    with pytest.raises(ValueError, match="4 values in -2,246 rows"):
        refuse_bombs([ColumnPart("quote", -2246, 4, 10, 10)], ["quote"], "q.parquet")


def test_a_nul_is_taken_out_like_other_control_signs(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(
        jsonl([{"quote": "A \x00lamp\x07.", "tags": ["a\x00b"]}, {"quote": "B.", "tags": []}])
    )
    rows: Any = read_rows(tmp_path / "q.jsonl", fix_encoding=True)
    assert rows.quotes[0] == {"quote": "A lamp.", "tags": ["ab"]} and rows.repaired == 1
    with pytest.raises(DataError, match="NUL character.*--fix-encoding"):
        read_rows(tmp_path / "q.jsonl")


@pytest.mark.parametrize("name", ["tags*quote", "quote of tags", "Tags Text"])
def test_the_text_is_no_list_of_tags_whatever_its_name_says(tmp_path: Path, name: str) -> None:
    (tmp_path / "q.csv").write_text(f"{name}\n" + '"home, sea"\n"a door, a wall"\n' * 3)
    rows = read_rows(tmp_path / "q.csv")
    assert rows.template.list_columns == () and rows.quotes[0][rows.template.main_column] == "home, sea"
