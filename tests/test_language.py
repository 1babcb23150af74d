"""The words of messages, help and identifiers: those of the field, or none.

A message is any string in the package that people may read: string literals that are no docstring, the report's
templates, and the help of every command. An identifier is a name that the package defines: modules, classes, functions,
arguments, variables. Each word below once stood there, and has a better one beside it. Where other work is under way a
folder may still use some of them: EXEMPT says which, and is to be emptied."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import florilegium
from florilegium.cli.parser import build_parser

ROOT = Path(florilegium.__file__).parent

# what a message must not say (a regular expression, at word boundaries) -> what it says instead
MESSAGES = {
    r"looks? at held|looks since|\d looks|without a better": "evaluation",
    r"rows to learn|what is learned|tokens are learned|no token to learn|\d learned": "training rows, trained",
    r"(?<![Ee]xit )codes": "int8 or NF4 weights",
    r"made wide|wide cop(y|ies)|held in \d+ bits|as it is stored": "dequantized, stored in",
    r"computing in": "compute dtype",
    r"walk|walks|trunk|road home": "forward, backward, block stack",
    r"numbers? that (is|are) none|holds? one, or": "NaN or infinity",
    r"are others than|is another than|sha256 is another|is another$": "has changed, differs",
    r"likeliest|likelier": "most likely, greedy",
    r"go(es|ing)? on (from|with)|waiting to go on|on the way": "resume",
    r"begun|began|begin anew|train anew|written? anew": "started, from scratch",
    r"no whole checkpoint|newest whole": "valid checkpoint",
    r"near-cop(y|ies)": "near-duplicates",
    r"(?i:mend(?:s|ed|ing)?)": "fix, repair",
    r"free texts?|texts from nothing": "unconditional samples",
    r"go(es)? in circles": "repetitive",
    r"held by the nearest": "overlap with",
    r"nats a token": "per token",
    r"sayings?": "quotes",
    r"the rate (falls|rises)|takes no notice": "learning-rate schedule, ignores",
    r"untuned": "base model",
    r"at the latest|whatever it is": "maximum",
    r"What it (cost|wrote)|What came of it|How to do it again": "Evaluation, Cost, Samples, Results, Reproduce",
    r"\b1 (rows|steps|quotes|threads|pairs|clusters|tokens)": "a count takes its plural by `errors.counted`",
}
# words that no identifier has as a part
IDENTIFIERS = {
    "look": "evaluate", "looks": "evaluations", "looked": "evaluated", "walk": "forward", "trunk": "block stack",
    "codes": "int8 weights", "wide": "dequantized", "widen": "dequantize", "learned": "trained", "figure": "metric",
    "figures": "metrics", "mend": "repair", "mended": "repaired", "obstacle": "unsupported reason", "thin": "lora_x",
    "saying": "quote", "sayings": "quotes", "examiner": "evaluator", "unvouched": "checksum mismatch",
    "vouched": "verified", "twin": "reference", "twins": "references", "anew": "again", "begun": "started",
}  # fmt: skip

# What still has them, by folder (or file): emptied as the work there ends.
EXEMPT_IDENTIFIERS: dict[str, set[str]] = {
    "data": {"codes", "look", "looks", "mend", "mended"},  # of values, before their column is chosen; of n-grams
    "data/lines.py": {"wide"},
    "data/sources.py": {"sayings"},
    "export": {"figures"},
    "runs": {"figures"},
    "runs/inspect.py": {"learned"},  # a key of its JSON
    "seedling": {"sayings"},
}
EXEMPT_MESSAGES: dict[str, set[str]] = {
    "data/column_names.py": {r"sayings?"},  # names that columns have
}


def sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def exempt(table: dict[str, set[str]], path: Path) -> set[str]:
    name = path.relative_to(ROOT).as_posix()
    return set().union(*(words for part, words in table.items() if name == part or name.startswith(f"{part}/")))


def docstrings(tree: ast.AST) -> set[int]:
    """The ids of string nodes that stand alone, which nobody reads on a screen."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """The string literals of a file that are more than one word, and no docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    alone = docstrings(tree)
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    yield from ((n.lineno, str(n.value)) for n in strings if id(n) not in alone and " " in str(n.value).strip())


def identifiers(path: Path) -> Iterator[tuple[int, str]]:
    """The names that a file defines."""
    yield 1, path.stem
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def found_in(text: str) -> list[str]:
    """The rules of MESSAGES that `text` breaks."""
    return [rule for rule in MESSAGES if re.search(rf"\b(?:{rule})\b", text)]


def words_of(name: str) -> set[str]:
    """`SlotDecoder`, `slot_decoder` and `SLOT_DECODER` are slot and decoder."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_messages_use_the_words_of_the_field() -> None:
    wrong = [
        f"{place(path, line)}: {text[:60]!r} breaks {rule!r}: say {MESSAGES[rule]}"
        for path in sources()
        for line, text in messages(path)
        for rule in found_in(text)
        if rule not in exempt(EXEMPT_MESSAGES, path)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_pages_use_them_too() -> None:
    wrong = [
        f"{path.name}: {rule}" for path in sorted(ROOT.rglob("*.jinja")) for rule in found_in(path.read_text("utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


def page_texts(path: Path) -> str:
    """What a reader sees of a file of the page or of the docs: the text of HTML, the strings of a script, prose."""
    text = path.read_text("utf-8")
    if path.suffix == ".html":
        return re.sub(r"<[^>]*>", "\n", text) + "\n".join(
            re.findall(r'(?:placeholder|aria-label|title)="([^"]*)"', text)
        )
    if path.suffix == ".js":
        strings = re.findall(r'"([^"\n]*)"|`([^`]*)`', text)
        return "\n".join(re.sub(r"\$\{[^}]*\}", "", string) for pair in strings for string in pair if " " in string)
    text = re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.S | re.M)  # output: what a model wrote may hold any word
    return re.sub(r"\]\([^)]*\)", "]", text)  # without where its links lead


def test_the_browsers_page_and_the_how_to_pages_use_them_too() -> None:
    static = ROOT / "serve" / "page" / "static"
    how_to = Path(__file__).parent.parent / "docs" / "how-to"
    pages = [*static.glob("*.html"), *static.glob("*.js"), *how_to.glob("*.md")]
    assert len(pages) > 25
    wrong = [
        f"{path.name}: {rule}: say {MESSAGES[rule]}" for path in sorted(pages) for rule in found_in(page_texts(path))
    ]
    assert not wrong, "\n".join(wrong)


def test_help_uses_them_too() -> None:
    parser = build_parser()
    (commands,) = (action.choices for action in parser._actions if isinstance(action.choices, dict))
    for name, command in commands.items():
        assert not found_in(command.format_help()), (name, found_in(command.format_help()))
        if hasattr(command, "format_full_help"):
            assert not found_in(command.format_full_help()), (name, found_in(command.format_full_help()))


def test_identifiers_use_the_words_of_the_field() -> None:
    wrong = [
        f"{place(path, line)}: {name} has {word!r}: say {IDENTIFIERS[word]}"
        for path in sources()
        for line, name in identifiers(path)
        for word in sorted(words_of(name) & set(IDENTIFIERS) - exempt(EXEMPT_IDENTIFIERS, path))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "text,breaks",
    [
        ("going on from step 10", True),
        ("no better held-out loss in 3 looks: stopped early", True),
        ("holds a number that is none", True),
        ("in 8 bits they are codes", True),
        ("1 quotes cut", True),
        ("Mend the row", True),
        ("mend its end", True),
        ("Nothing to mend.", True),
        ("amend the row", False),
        ("resuming at step 10", False),
        ("exit codes are listed below", False),
        ("21 quotes, 11 rows", False),
    ],
)
def test_the_rules_find_what_they_are_for(text: str, breaks: bool) -> None:
    assert bool(found_in(text)) == breaks


ERRORS = {
    "UsageError": 1,
    "DataError": 1,
    "ModelError": 1,
    "ResourceError": 1,
    "DivergedError": 1,
    "ApiError": 2,
    "bad": 1,
}


def test_every_error_says_what_to_do() -> None:
    """Its second sentence, as `errors.py` has it: written out, or made elsewhere, and never left out or empty."""
    without = []
    for path in sorted(ROOT.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(call.func, "id", None) if isinstance(call, ast.Call) else None
            if name not in ERRORS or any(isinstance(argument, ast.Starred) for argument in call.args):
                continue
            fix = call.args[ERRORS[name]] if len(call.args) > ERRORS[name] else None
            if fix is None or (isinstance(fix, ast.Constant) and not fix.value):
                without.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert not without, without
