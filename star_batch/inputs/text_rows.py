"""A text cut into rows: lines of JSON, or rows of CSV and TSV, whose quoted fields may hold line ends. Opens no file.

What is wrong with a row stays with its first line: behind a quote without its partner the next line is read anew.
Memory is bounded by the longest row that is taken.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

from star_batch.errors import ValueInvalid
from star_batch.inputs.untyped import parse_json
from star_batch.wording import printable, quoted

MOST_BYTES = 64 * 2**20
"""A row may have, its images included."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line: its number, the byte where it begins, as much of it as is taken, and how long it is."""

    number: int
    start: int
    text: bytes
    size: int


@dataclass(frozen=True, slots=True)
class TextRow:
    """A row, known by its first line; `fields` are those of a table's row, unless something is wrong."""

    line: Line
    error: str | None = None
    fields: Sequence[str] = ()


def read_lines(chunks: Iterable[bytes], number: int = 1, start: int = 0) -> Iterator[Line]:
    """The lines of a text whose first has that number and begins at that byte."""
    pieces: list[bytes] = []
    size = held = 0
    for part, is_end in chain(_parts(chunks), [(b"", True)]):
        if held <= MOST_BYTES:
            pieces.append(part[: MOST_BYTES + 1 - held])
            held += len(pieces[-1])
        size += len(part)
        if is_end:
            text = b"".join(pieces)
            if size:
                yield Line(number, start, text, size)
            number, start, pieces = number + 1, start + size, []
            size = held = 0


def _parts(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Parts of lines, and whether a line ends with them."""
    for chunk in chunks:
        at = 0
        while (end := chunk.find(b"\n", at) + 1) > 0:
            yield chunk[at:end], True
            at = end
        yield chunk[at:], False


class JsonLines:
    """An object a line."""

    header: tuple[str, ...] = ()

    def rows(self, lines: Iterable[Line]) -> Iterator[TextRow]:
        return (TextRow(line, _too_long(line.size)) for line in lines if line.text.strip())

    def values(self, row: TextRow) -> dict[str, Any]:
        """Raises:
        ValueInvalid: there are none.
        """
        if row.error is not None:
            raise ValueInvalid(row.error)
        try:
            found = parse_json(row.line.text)
        except ValueError as error:
            raise ValueInvalid(f"is broken JSON: {printable(error)}") from None
        if not isinstance(found, dict):
            raise ValueInvalid(f"is no JSON object but {quoted(found, 40)}")
        return found


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of fields with a `delimiter` between them, as many as the header has.

    A quote counts where a field begins. `is_loose`: one without a partner is a letter like any other.
    """

    delimiter: str
    header: tuple[str, ...] = ()
    is_loose: bool = False

    def rows(self, lines: Iterable[Line]) -> Iterator[TextRow]:
        """Without a header, rows have as many fields as they like."""
        ahead, more = deque[Line](), iter(lines)
        while (first := _next(ahead, more)) is not None:
            if not first.text.strip(b" \r\n"):
                continue
            held = self._held(first, ahead, more)
            row = self._row(first, held)
            if row is None and len(held) > 1:
                # Its lines but the first may be rows of their own.
                ahead.extendleft(reversed(held[1:]))
            yield row or self._alone(first)

    def values(self, row: TextRow) -> dict[str, Any]:
        """What is empty is null.

        Raises:
            ValueInvalid: there are none.
        """
        if row.error is not None:
            raise ValueInvalid(row.error)
        return {name: text or None for name, text in zip(self.header, row.fields, strict=True)}

    def _held(self, first: Line, ahead: deque[Line], more: Iterator[Line]) -> list[Line]:
        """The line, and those behind it as long as a quote is open."""
        held, size = [first], first.size
        is_open = _is_open(self.delimiter, first.text, False)
        while is_open and size <= MOST_BYTES and (line := _next(ahead, more)) is not None:
            held.append(line)
            size += line.size
            is_open = _is_open(self.delimiter, line.text, True)
        return held

    def _row(self, first: Line, held: list[Line]) -> TextRow | None:
        """None, if the lines together are no good row."""
        if sum(line.size for line in held) > MOST_BYTES:
            return None
        fields = _fields(self.delimiter, b"".join(line.text for line in held).decode("utf-8", "backslashreplace"))
        return None if fields is None or self._misfit(fields) else TextRow(first, None, fields)

    def _alone(self, line: Line) -> TextRow:
        """The line for itself: as loosely as is allowed, or what is wrong with it."""
        if error := _too_long(line.size):
            return TextRow(line, error)
        text = line.text.decode("utf-8", "backslashreplace").rstrip("\r\n")
        fields = text.split(self.delimiter) if self.is_loose else _fields(self.delimiter, text)
        if fields is None:
            return TextRow(line, "a quote has no partner, or text behind it")
        error = self._misfit(fields)
        return TextRow(line, error, () if error else fields)

    def _misfit(self, fields: Sequence[str]) -> str | None:
        if not self.header or len(fields) == len(self.header):
            return None
        return f"has {len(fields):,} fields, and the header {len(self.header):,}"


def _next(ahead: deque[Line], more: Iterator[Line]) -> Line | None:
    return ahead.popleft() if ahead else next(more, None)


def _too_long(size: int) -> str | None:
    return f"has {size:,} bytes; the limit is {MOST_BYTES:,}" if size > MOST_BYTES else None


_INSIDE = rb'[^"]*+(?:""[^"]*+)*+"'
_CLOSE = re.compile(_INSIDE)


@cache
def _opening(delimiter: str) -> "re.Pattern[bytes]":
    return re.compile(re.escape(delimiter.encode()) + b'"')


def _is_open(delimiter: str, line: bytes, is_open: bool) -> bool:
    """Whether a quoted field goes on behind the line; `is_open`: one began before it."""
    at = 0
    if not is_open and line.startswith(b'"'):
        at, is_open = 1, True
    while True:
        if is_open:
            if (closed := _CLOSE.match(line, at)) is None:
                return True
            at = closed.end()
        if (opened := _opening(delimiter).search(line, at)) is None:
            return False
        at, is_open = opened.end(), True


@cache
def _field(delimiter: str) -> "re.Pattern[str]":
    mark = re.escape(delimiter)
    return re.compile(rf'(?:"({_INSIDE.decode()[:-1]})"|(?!")([^{mark}]*+))({mark}|\Z)')


def _fields(delimiter: str, text: str) -> list[str] | None:
    """The fields of one row; None, if a quoted one is not quoted to its end."""
    text, at, fields = text.removesuffix("\n").removesuffix("\r"), 0, list[str]()
    while (found := _field(delimiter).match(text, at)) is not None:
        fields.append(found[2] if found[1] is None else found[1].replace('""', '"'))
        if not found[3]:
            return fields
        at = found.end()
    return None
