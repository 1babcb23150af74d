"""A JSON array cut into its elements, without parsing it and without holding it.

`json.load` would need the whole file, three times over, and would tell of a bad row only that "line 1 column 8123977"
is wrong. This walk looks at nothing but quotes, backslashes, brackets, commas and line feeds, all of them ASCII, so it
can work on the bytes of a UTF-8 file block by block. Each element comes out as a `Piece`, with the line where it
begins, and is parsed on its own: one bad row is one problem, and a row over a mebibyte is passed over without being
kept. What can neither end an element nor a line (a string that closes on its line, all that is no sign) is passed over
by one search, and not sign by sign."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from florilegium.data.lines import MAX_ROW_BYTES, Piece

_OUTSIDE = re.compile(rb'[\[{]+|["\]},\n]')
_IN_STRING = re.compile(rb'["\\\n]')
# Possessive: a string that does not close on its line is tried once, and left to the walk.
_STRING = rb'"(?:[^"\\\n]++|\\[^\n])*+"'
_INERT_ROW = re.compile(
    rb'(?:[^"\[\]{},\n]++|' + _STRING + rb")++"
)  # directly in the array, where a comma ends an element
_INERT = re.compile(rb'(?:[^"\[\]{}\n]++|' + _STRING + rb")++")
_BLOCK = 1 << 16


class ArrayCutter:
    """Feed it blocks, take pieces. Afterwards `closed` tells whether the array ended, `trailing` where text followed
    its end."""

    def __init__(self, offset: int) -> None:
        self.line = 1
        self.offset = offset
        self.closed = False
        self.trailing: Piece | None = None
        self._depth = 0
        self._line_start = offset
        self._in_string = self._escaped = False
        self._elements = 0
        self._begin()

    def feed(self, block: bytes) -> Iterator[Piece]:
        position = 0
        while position < len(block):
            if self.closed:
                self._look_behind_the_end(block[position:])
                return
            if self._escaped:
                self._escaped = False
                self._keep_sign(block[position : position + 1])
                position += 1
                continue
            if not self._in_string and (inert := (_INERT if self._depth > 1 else _INERT_ROW).match(block, position)):
                self._keep(inert.group())
                position = inert.end()
            found = (_IN_STRING if self._in_string else _OUTSIDE).search(block, position)
            self._keep(block[position : found.start() if found else len(block)])
            if found is None:
                return
            yield from self._meet(found.group())
            position = found.end()

    def _meet(self, sign: bytes) -> Iterator[Piece]:
        if sign == b'"':
            self._in_string = not self._in_string
        elif self._in_string:
            self._escaped = sign == b"\\"
        elif sign[:1] in b"[{":  # one or more: a hostile file may nest by the hundred thousand
            outermost = self._depth == 0
            self._depth += len(sign)
            if outermost:
                self.offset, sign = self.offset + 1, sign[1:]
        elif self._depth == 1 and sign in b",]":
            yield from self._end_element(last=sign == b"]")
            return
        # A closing bracket of the wrong kind at depth 1 stays in its element, for the JSON parser to complain about.
        elif sign in b"]}" and self._depth > 1:
            self._depth -= 1
        self._keep_sign(sign)

    def _keep_sign(self, sign: bytes) -> None:
        self._keep(sign)
        if sign == b"\n":
            self.line, self._line_start = self.line + 1, self.offset

    def _end_element(self, last: bool) -> Iterator[Piece]:
        if self._data or self._too_long or self._elements or not last:
            yield self._piece()
        self._elements += 1
        self.offset += 1
        self._begin()
        if last:
            self._depth, self.closed = 0, True

    def _begin(self) -> None:
        self._data = bytearray()
        self._too_long = False
        self._mark_start(0)

    def _mark_start(self, blanks: int) -> None:
        self._start = (self.line, self.offset + blanks, self.offset + blanks - self._line_start + 1)

    def _keep(self, data: bytes) -> None:
        kept = data if self._data or self._too_long else data.lstrip()
        if kept and not self._data and not self._too_long:
            self._mark_start(len(data) - len(kept))
        self.offset += len(data)
        if len(self._data) + len(kept) > MAX_ROW_BYTES:
            self._data.clear()
            self._too_long = True
        elif not self._too_long:
            self._data += kept

    def _look_behind_the_end(self, data: bytes) -> None:
        text = data.lstrip()
        blanks = len(data) - len(text)
        if text and self.trailing is None:
            self.trailing = Piece(text[:80], self.line + data[:blanks].count(b"\n"), self.offset + blanks)
        self.line += data.count(b"\n")
        self.offset += len(data)

    def _piece(self) -> Piece:
        return Piece(None if self._too_long else bytes(self._data), *self._start)


def cut_array(file: BinaryIO) -> tuple[ArrayCutter, Iterator[Piece]]:
    """The cutter of a file that begins with `[`, and its elements; the cutter's state is to be read when they have run
    out."""
    cutter = ArrayCutter(file.tell())

    def pieces() -> Iterator[Piece]:
        while not cutter.trailing and (block := file.read(_BLOCK)):
            yield from cutter.feed(block)

    return cutter, pieces()
