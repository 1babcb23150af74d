"""Lists that stand in a cell as text, told by their looks: printed ones value by value, separated ones column by column.

    ["life", "love"]   ['life', 'love']   ['life' 'love']   {life,"true love"}      printed: JSON, Python, numpy, Postgres
    [{"id": 3, "name": "life"}]           c("life", "love")                         printed: objects by their names, R
    life; love         life|love          #life #love       life，love、joy          separated: by what the column shows

A printed list with quotation marks in it can be nothing else. Bare brackets (`[life]`, `{life}`) and signs are taken for
a list only where the column has them throughout, since a sentence may hold any of them."""

from __future__ import annotations

import ast
import html
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

_SINGLE, _DOUBLE = r"'(?:[^'\\\n]|\\.)*'", r'"(?:[^"\\]|\\.)*"'
_ITEM = re.compile(rf"\s*({_SINGLE}|{_DOUBLE}|[^\s,'\"\[\]{{}}():]+)\s*,?")
_FRAME = re.compile(
    r"(?:array|list|set|frozenset|Index|c)?\(?([\[{(])(.*)([\]})])(?:, dtype=[\w'\"<>]+)?\)?", re.DOTALL
)
_CLOSING = {"[": "]", "{": "}", "(": ")"}
_HASHTAGS = re.compile(r"\s*#[^\s#,;]+(?:[\s,;]*#[^\s#,;]+)*[\s,;]*")
_ENTITY = re.compile(r"&#?\w{2,31};")
_NOTHING = ("None", "nan", "NaN", "null", "NULL")
_EMPTY = ("set()", "list()", "character(0)")
# Of an object among the tags, the key that holds its name: [{"id": 3, "name": "love"}].
NAMES = ("name", "tag", "label", "title", "text", "value")
_QUOTES = "'\""
LONGEST = 100_000

# Signs that part tags wherever they are met, and those that must be met more than once.
CERTAIN, LIKELY = "，、،；؛\t", "|;•"
BRACKETS = "[]"
Separator = str  # of CERTAIN and LIKELY any number, or one of "#", "/", "[]", or what the user gave


def read_printed(text: str, *, bare: bool = False) -> list[str] | None:
    """The items of a list that was printed into `text`, or None when it is none. `bare` takes brackets without any
    quotation mark, too."""
    text = text.strip()
    if not text[-1:] or text[-1] not in "]})" or len(text) > LONGEST:
        return None
    found = _FRAME.fullmatch(text)
    if not found or _CLOSING[found[1]] != found[3]:
        return [] if text in _EMPTY else None
    body = found[2].strip()
    if not body:
        return [] if found[1] == "[" or bare else None
    if body[0] in "'\"" and body[-1] in "'\",":
        return _quoted_items(body)
    if body[0] == "{" and found[1] == "[":
        return _names_in(text)
    if not bare or found[1] == "(" or any(c in body for c in "[]{}"):
        return None
    return [item for piece in body.split(",") if (item := piece.strip().strip("'\"")) and item not in _NOTHING]


def _names_in(text: str) -> list[str] | None:
    """The names of objects in a printed list; None where one has none."""
    try:
        objects = json.loads(text) if '"' in text else ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    names = [name_in(item) for item in objects if isinstance(item, Mapping)]
    return names if len(names) == len(objects) and all(names) else None  # type: ignore[return-value]  # all are text


def name_in(item: Mapping[str, object]) -> str | None:
    """What an object among the tags is called."""
    return next((value for key in NAMES if isinstance(value := item.get(key), str)), None)


def _quoted_items(body: str) -> list[str] | None:
    items, end = [], 0
    while end < len(body):
        found = _ITEM.match(body, end)
        if found is None:
            return None
        end = found.end()
        item = found[1]
        if item[0] in "'\"":
            items.append(_unquoted(item))
        elif item not in _NOTHING:
            items.append(item)
    return items


def _unquoted(item: str) -> str:
    """The text of one literal: of JSON, else of Python."""
    try:
        return str(json.loads(item) if item[0] == '"' else ast.literal_eval(item))
    except (ValueError, SyntaxError):
        return item[1:-1]


def find_separator(values: Sequence[str]) -> Separator:
    """What parts the tags in `values` besides commas; empty when nothing does."""
    filled = [value for value in values if value.strip()]
    if not filled:
        return ""
    most = 0.8 * len(filled)
    if sum(_HASHTAGS.fullmatch(value) is not None for value in filled) >= most:
        return "#"
    if sum(read_printed(value, bare=True) is not None for value in filled) >= most:
        return BRACKETS
    plain = [without_entities(value) for value in filled]
    counts = {sign: sum(sign in value for value in plain) for sign in CERTAIN + LIKELY}
    enough = max(1, min(2, len(filled) // 2), len(filled) // 50)
    signs = "".join(sign for sign, count in counts.items() if count >= (1 if sign in CERTAIN else enough))
    if signs or any("," in value for value in plain):
        return signs
    return "/" if is_glued(plain, "/") else ""


def is_glued(values: Iterable[str], sign: str) -> bool:
    """Whether `sign` parts tags in values such as `time/sea`: most pieces stand in other values, too. `Sci/Tech`, whose
    pieces are met nowhere else, is one tag."""
    distinct = {value.strip().strip(sign) for value in values}
    homes: defaultdict[str, int] = defaultdict(int)
    for value in distinct:
        for piece in {piece.strip() for piece in value.split(sign)}:
            homes[piece] += 1
    glued = {piece.strip() for value in distinct if sign in value for piece in value.split(sign)}
    return len(glued) >= 5 and sum(homes[piece] > 1 for piece in glued) >= 0.6 * len(glued)


def split_at(text: str, separator: Separator) -> list[str]:
    """The items of a cell; those with a comma in them are split again where the template puts them together."""
    printed = read_printed(text, bare=separator == BRACKETS)
    if printed is None and text[:1] in _QUOTES and text[-1:] in _QUOTES:
        printed = _all_quoted(text)
    if printed is not None:
        return printed
    if separator in ("#", BRACKETS) or not separator:
        return [piece.strip(" ,;") for piece in text.split("#")] if separator == "#" else [text]
    signs = separator if all(sign in CERTAIN + LIKELY for sign in separator) else [separator]
    kept = _entities(text) if ";" in signs else []
    for number, entity in enumerate(kept):  # `&amp;` ends in no separator
        text = text.replace(entity, f"\x00{number}\x01", 1)
    for sign in signs:
        text = text.replace(sign, "\n")
    for number, entity in enumerate(kept):
        text = text.replace(f"\x00{number}\x01", entity, 1)
    return text.split("\n")


def _all_quoted(text: str) -> list[str] | None:
    """The items of `"one", "two"`, where each is in quotation marks."""
    pieces = [piece.strip() for piece in text.split(",")]
    is_list = len(pieces) > 1 and all(len(p) > 1 and p[0] == p[-1] and p[0] in _QUOTES for p in pieces)
    return [piece[1:-1] for piece in pieces] if is_list else None


def _entities(text: str) -> list[str]:
    """`&amp;` and its like, as far as they stand for a sign: of `R&B; soul` there is none."""
    return [found for found in _ENTITY.findall(text) if html.unescape(found) != found] if "&" in text else []


def without_entities(text: str) -> str:
    for entity in _entities(text):
        text = text.replace(entity, "")
    return text


def name_of_separator(separator: Separator) -> str:
    """How a message calls it."""
    signs = (
        list(separator) if separator == BRACKETS or all(sign in CERTAIN + LIKELY for sign in separator) else [separator]
    )
    return " and ".join("tabs" if sign == "\t" else f"'{sign}'" for sign in signs)


def repeats(items: Iterable[str]) -> float:
    """How often an item is met, on average."""
    counts = Counter(items)
    return counts.total() / len(counts) if counts else 0.0
