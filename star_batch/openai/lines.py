"""A text cut into requests: one a line, or the elements of one JSON array. Knows no file and no field of a request.

Memory is bounded: of a request longer than `MOST_BYTES` only the beginning is held, and one without an end stops
the reading.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from star_batch.errors import InputError
from star_batch.wording import printable

MOST_BYTES = 64 * 2**20
"""A request may have, its images included."""

_ENDLESS_BYTES = 2**30
_HEAD_BYTES = 2**16
_MOST_VALUES = 500_000
_ARRAY = re.compile(rb"\s*\[\s*[{\]]")
_BLANK = re.compile(rb"\s*(\[\s*)?")
_OUTSIDE = re.compile(rb'["{}\[\],]')
_INSIDE = re.compile(rb'["\\]')


def split_requests(chunks: Iterable[bytes], shown: str) -> Iterator[bytes]:
    """The requests of a text in UTF-8 that comes in pieces of any size; blank ones are left out.

    A request that is too long is there with its first `MOST_BYTES` + 1 bytes.

    Args:
        shown: what errors call the text.

    Raises:
        InputError: a JSON array is broken or cut, or a request has no end.
    """
    pieces, head = iter(chunks), b""
    while _BLANK.fullmatch(head) and len(head) < _HEAD_BYTES and (more := next(pieces, b"")):
        head += more
    split = _Array(shown).split if _ARRAY.match(head) else _Lines(shown).split
    yield from split(chain([head], pieces))


class _Held:
    """One request as far as it has come."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._number = 0
        self._clear()

    def _clear(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def _add(self, piece: bytes) -> None:
        room = MOST_BYTES + 1 - self._size
        if room > 0:
            self._pieces.append(piece[:room])
        self._size += len(piece)
        if self._size > _ENDLESS_BYTES:
            raise InputError(
                f"{self._shown}: request {self._number + 1:,} has more than {_ENDLESS_BYTES:,} bytes and no end; "
                "this is no file of requests"
            )

    def _take(self) -> Iterator[bytes]:
        """The request, if it is not blank."""
        text = b"".join(self._pieces).removeprefix(codecs.BOM_UTF8)
        self._clear()
        if text.strip():
            self._number += 1
            yield text


class _Lines(_Held):
    """Each line for itself: what is wrong with one is that one's error."""

    def split(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                self._add(end)
                yield from self._take()
            self._add(rest)
        yield from self._take()


class _Array(_Held):
    """One document: if it is broken, nobody knows where the requests behind that begin, and it is refused whole."""

    _depth = 0
    _is_text = False
    _is_over = False

    def split(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        at = 0
        for chunk in chunks:
            start = 0
            while not self._is_over and (mark := (_INSIDE if self._is_text else _OUTSIDE).search(chunk, at)):
                at = mark.end() + (mark[0] == b"\\")
                if self._is_edge(mark[0]):
                    self._add(chunk[start : mark.start()])
                    start = mark.end()
                    yield from self._checked()
            if self._is_over and chunk[start:].strip():
                raise self._broken("something stands behind its end")
            self._add(chunk[start:])
            at = max(at - len(chunk), 0)
        if not self._is_over:
            raise self._broken(f"cut: it ends within request {self._number + 1:,}")

    def _is_edge(self, mark: bytes) -> bool:
        """Take a mark in; whether an element begins or ends there."""
        if mark in (b'"', b"\\"):
            self._is_text ^= mark == b'"'
            return False
        before = self._depth
        self._depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(mark, 0)
        self._is_over = self._depth == 0
        return self._is_over or (before == 0) or (before == 1 and mark == b",")

    def _checked(self) -> Iterator[bytes]:
        for text in self._take():
            if len(text) <= MOST_BYTES and not is_dense(text):
                self._check(text)
            yield text

    def _check(self, text: bytes) -> None:
        try:
            # Lenient where it costs that request alone.
            json.loads(text.decode("utf-8", "replace"), strict=False, parse_int=str)
        except RecursionError:
            return
        except ValueError as error:
            raise self._broken(f"request {self._number:,}: {error}") from None

    def _broken(self, what: str) -> InputError:
        return InputError(f"{self._shown}: is a JSON array that is broken or cut: {printable(what)}; bring it whole")


def is_dense(text: bytes) -> bool:
    """Whether JSON would take many times its size in memory: it holds more values than any request has."""
    return sum(text.count(mark) for mark in (b",", b"[", b"{")) > _MOST_VALUES
