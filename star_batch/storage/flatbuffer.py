"""The few fields of Arrow's headers that are read before Arrow's own reader sees them. Knows no file.

Headers are FlatBuffers: tables, whose fields are found by their number. Anybody may have written them, so that no
offset is followed out of the bytes.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

_BUFFER = 16
"""An offset and a length."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table at a position in the bytes."""

    data: bytes = field(repr=False)
    position: int

    @classmethod
    def root(cls, data: bytes) -> "Table":
        """Raises:
        pa.ArrowInvalid: these are no FlatBuffers, as for all methods.
        """
        return cls(data, _unpacked("I", data, 0))

    def has(self, number: int) -> bool:
        """Whether the field is there."""
        return self._place(number) is not None

    def number(self, number: int, kind: str) -> int:
        """A field of `struct`'s kind; 0 where it is not there."""
        place = self._place(number)
        return 0 if place is None else _unpacked(kind, self.data, place)

    def table(self, number: int) -> "Table":
        """A field that is a table."""
        place = self._place(number)
        if place is None:
            raise pa.ArrowInvalid("an Arrow header lacks a part")
        return Table(self.data, place + _unpacked("I", self.data, place))

    def starts(self, number: int, most: int) -> Iterator[int]:
        """Of a field that is a vector of buffers, the offsets of those that are not empty; none is above `most`."""
        place = self._place(number)
        if place is None:
            return
        vector = place + _unpacked("I", self.data, place)
        length = _unpacked("I", self.data, vector)
        for at in range(vector + 4, vector + 4 + _BUFFER * length, _BUFFER):
            offset, size = _unpacked("q", self.data, at), _unpacked("q", self.data, at + 8)
            if size and not 0 <= offset <= most:
                raise pa.ArrowInvalid("an Arrow header names bytes that are not there")
            if size:
                yield offset

    def _place(self, number: int) -> int | None:
        table = self.position - _unpacked("i", self.data, self.position)
        slot = 4 + 2 * number
        if slot + 2 > _unpacked("H", self.data, table):
            return None
        offset = _unpacked("H", self.data, table + slot)
        return self.position + offset if offset else None


def _unpacked(kind: str, data: bytes, position: int) -> int:
    size = struct.calcsize(f"<{kind}")
    if not 0 <= position <= len(data) - size:
        raise pa.ArrowInvalid("an Arrow header is broken")
    return int(struct.unpack_from(f"<{kind}", data, position)[0])
