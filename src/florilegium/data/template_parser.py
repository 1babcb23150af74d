"""What stands between a template's columns: the parser of its text, and the separators that take a rendered text apart
again.

    "{quote} ->: {tags}"   ->   columns ("quote", "tags"), literals ("", " ->: ", "")

Only `{name}` is a placeholder. There is no `str.format` here, no attribute, no index, no Jinja: a template may come
from a file that somebody else wrote, and `"{q.__class__.__mro__}"` must be a usage error and not a look into the
interpreter.

A separator is found in one of two ways. A *sign*, three or more characters that are neither letters nor digits nor
space (`->:`), is found with or without the white space round it: a model that writes `Be kind.->: life` is understood,
and no value may hold it. A shorter or wordier one (` - `, ` by `, `, tagged: `) is found only with its white space, so
that "self-made" does not end at the dash and "baby" does not end at "by"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from florilegium.data.quote import first_doubled
from florilegium.errors import UsageError

_BRACES = re.compile(r"\{([^{}]*)\}|[{}]")
# Words of letters and digits, with blanks or hyphens between: "Quote Text". Anything else could be a format or code.
_NAME = re.compile(r"[^\W\d]\w*(?:[ -]+\w+)*")
_USE = 'Write a placeholder as {name}, such as --template "{quote} ->: {tags}"'


@dataclass(frozen=True)
class Separator:
    """The literal between two columns."""

    literal: str

    @cached_property
    def core(self) -> str:
        return self.literal.strip()

    @cached_property
    def is_sign(self) -> bool:
        return len(self.core) >= 3 and not any(c.isalnum() or c.isspace() for c in self.core)

    def find(self, text: str, start: int) -> tuple[int, int] | None:
        """Begin and end of the first separator in `text[start:]`; None where there is none.

        `text` has no white space at its end: a separator before an empty last value has lost its own, and is found
        there all the same."""
        wanted = self.core if self.is_sign else self.literal
        begin = text.find(wanted, start)
        if begin >= 0:
            return begin, begin + len(wanted)
        begin = len(text) - len(self.literal.rstrip())
        if begin >= start and text.endswith(self.literal.rstrip()):
            return begin, len(text)
        return None


def split_template(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns of a template's text, and the literals round them (one more than columns).

    Raises: UsageError for braces that are no placeholder, for no placeholder, for one twice, and for two with nothing
    between them."""
    columns: list[str] = []
    literals: list[str] = []
    end = 0
    for found in _BRACES.finditer(text):
        columns.append(_name(text, found))
        literals.append(text[end : found.start()])
        end = found.end()
    literals.append(text[end:])
    _refuse(text, columns, literals)
    return tuple(columns), tuple(literals)


def placeholder_for(name: str) -> str:
    """The name as it may stand in braces: signs that a template cannot hold become blanks."""
    plain = " ".join(re.sub(r"[^\w -]", " ", name).split()).strip("-")
    return plain if _NAME.fullmatch(plain) else f"column {plain}"


def _name(text: str, found: re.Match[str]) -> str:
    name = found[1]
    if name is None:
        raise UsageError(f"unmatched {found[0]!r} in the template {text!r}", _USE)
    if not _NAME.fullmatch(name):
        raise UsageError(f"{found[0]!r} in the template is not the name of a column", _USE)
    return str(name)


def _refuse(text: str, columns: list[str], literals: list[str]) -> None:
    if any(c == "\x00" or "\ud800" <= c <= "\udfff" for c in text):
        raise UsageError("the template contains an invalid character (NUL or half of a surrogate pair)", _USE)
    if not columns:
        raise UsageError(f"the template {text!r} has no placeholder", _USE)
    doubled = first_doubled(columns)
    if doubled:
        raise UsageError(f"{{{doubled}}} appears twice in the template", "Name each column once")
    for left, right, literal in zip(columns, columns[1:], literals[1:], strict=False):
        if not literal.strip():
            between = f"nothing but white space between {{{left}}} and {{{right}}} in the template"
            raise UsageError(between, f'Put a separator there that no text holds, such as "{{{left}}} ->: {{{right}}}"')
