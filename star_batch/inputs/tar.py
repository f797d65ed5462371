"""The headers of a tar archive, read one after the other; the data between them is passed over. Unpacks nothing.

POSIX, PAX and GNU. What an archive says of itself is not trusted: sizes of headers and names are limited, and no name
leads anywhere. Knows no sample and no file system: bytes come from a `Window`.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

BLOCK = 512

_LONGEST_HEADER = 2**20
_LONGEST_NAME = 4096
_LARGEST = 2**62
_MOST_HEADERS = 64
_REGULAR = frozenset((b"0", b"\0", b"7"))
_WITHOUT_DATA = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))
_RECORD = re.compile(rb"(\d{1,20}) ([^=]+)=")
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")


class Broken(Exception):
    """Something at the byte `at` is no header, or an impossible one; where the next would begin is not known."""

    def __init__(self, at: int, why: str) -> None:
        super().__init__(f"{why} at byte {at:,}")


@dataclass(slots=True)
class Window:
    """Bytes of a file of `size` bytes, of which some more are read at once than are asked for.

    `read(start, end)`. Each reading on takes twice as much as the last, up to `most`; a jump begins again with `least`.
    """

    read: Callable[[int, int], bytes]
    size: int
    least: int = 4096
    most: int = 4096
    _start: int = 0
    _held: bytes = b""
    _step: int = field(default=0)

    def at(self, start: int, length: int) -> bytes:
        """As much of that as there is."""
        end, known = min(start + length, self.size), self._start + len(self._held)
        if start < self._start or end > known:
            is_next = self._start <= start <= known
            self._step = min(2 * self._step, self.most) if is_next and self._step else self.least
            self._held = self.read(start, min(max(end, start + self._step), self.size)) if start < self.size else b""
            self._start = start
        return self._held[start - self._start : max(end, start) - self._start]


@dataclass(frozen=True, slots=True)
class Member:
    """What an archive holds: `start` is where its first header begins, `data` where its bytes do."""

    name: str
    start: int
    data: int
    size: int
    kind: Literal["file", "folder", "link", "sparse", "other"]

    @property
    def end(self) -> int:
        return self.data + _padded(self.size)


def read_members(window: Window, start: int = 0, end: int | None = None) -> Iterator[Member]:
    """The members from the byte `start` on, to the end of the archive or to the byte `end`.

    The last may be longer than what is there of it.

    Raises:
        Broken: there is no header where one should be.
    """
    at = start
    while at < min(window.size, window.size if end is None else end):
        if not window.at(at, BLOCK).strip(b"\0"):
            return
        member = _read_member(window, at)
        yield member
        at = member.end


@dataclass(frozen=True, slots=True)
class _Header:
    name: bytes
    size: int
    type: bytes
    is_extended: bool


@dataclass(frozen=True, slots=True)
class _Said:
    """What headers before a member's own say about it."""

    name: bytes | None = None
    size: int | None = None
    is_sparse: bool = False


def _read_member(window: Window, start: int) -> Member:
    at, said = start, _Said()
    for _ in range(_MOST_HEADERS):
        header = _header(window.at(at, BLOCK), at)
        if header.type not in (b"x", b"X", b"g", b"L", b"K"):
            return _member(window, header, said, start, at + BLOCK)
        if header.size > _LONGEST_HEADER:
            raise Broken(at, f"a header of {header.size:,} bytes")
        content = window.at(at + BLOCK, header.size)
        if len(content) < header.size:
            raise Broken(at, "a header that is cut")
        said = _with(said, header.type, content, at)
        at += BLOCK + _padded(header.size)
    raise Broken(start, "headers without a member")


def _with(said: _Said, type: bytes, content: bytes, at: int) -> _Said:
    if type == b"L":
        return replace(said, name=content.rstrip(b"\0"))
    if type not in (b"x", b"X"):  # what is global names no member
        return said
    records = _records(content, at)
    if b"size" in records:
        said = replace(said, size=_decimal(records[b"size"], at))
    name = records.get(b"GNU.sparse.name", records.get(b"path"))
    is_sparse = any(key.startswith(b"GNU.sparse.") for key in records)
    return replace(said, name=said.name if name is None else name, is_sparse=is_sparse)


def _records(content: bytes, at: int) -> dict[bytes, bytes]:
    """Those of a PAX header: `<length> <key>=<value>` and a line feed each."""
    records, start = {}, 0
    while start < len(content) and content[start]:
        found = _RECORD.match(content, start)
        end = start + int(found[1]) if found else 0
        if found is None or not found.end() < end <= len(content) or content[end - 1 : end] != b"\n":
            raise Broken(at, "a PAX header that is broken")
        records[found[2]] = content[found.end() : end - 1]
        start = end
    return records


def _decimal(digits: bytes, at: int) -> int:
    if not (digits.isdigit() and len(digits) < 20):
        raise Broken(at, "a PAX header with an impossible size")
    return int(digits)


def _member(window: Window, header: _Header, said: _Said, start: int, data: int) -> Member:
    name = (header.name if said.name is None else said.name).split(b"\0")[0]
    size = header.size if said.size is None else said.size
    is_folder = header.type == b"5" or (header.type == b"\0" and name.endswith(b"/"))
    kind: Literal["file", "folder", "link", "sparse", "other"] = "folder" if is_folder else "other"
    if header.type == b"S" or (said.is_sparse and header.type in _REGULAR):
        kind, data = "sparse", _behind_maps(window, header, data)
    elif header.type in _REGULAR and not is_folder:
        kind = "file"
    elif header.type in (b"1", b"2"):
        kind = "link"
    if len(name) > _LONGEST_NAME or size > _LARGEST:
        raise Broken(start, "a header with an impossible size or name")
    size = 0 if header.type in _WITHOUT_DATA else size
    return Member(name.decode("utf-8", "backslashreplace"), start, data, size, kind)


def _behind_maps(window: Window, header: _Header, data: int) -> int:
    """GNU's own sparse files have blocks of maps before their data."""
    is_extended = header.type == b"S" and header.is_extended
    while is_extended:
        block = window.at(data, BLOCK)
        if len(block) < BLOCK:
            raise Broken(data, "a header that is cut")
        is_extended, data = bool(block[504]), data + BLOCK
    return data


def _header(block: bytes, at: int) -> _Header:
    if len(block) < BLOCK:
        raise Broken(at, "a header that is cut")
    said, size = _number(block[148:156]), _number(block[124:136])
    # Some count with signed bytes; they are the same where a name is ASCII.
    plain = sum(block) - sum(block[148:156]) + 8 * 0x20
    signed = plain - 256 * sum(byte > 127 for byte in block[:148] + block[156:]) if said != plain else plain
    if said not in (plain, signed) or size is None:
        raise Broken(at, "no header of a tar archive")
    name = block[:100].split(b"\0")[0]
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0")[0]):
        name = prefix + b"/" + name
    return _Header(name, size, block[156:157], bool(block[482]))


def _number(field: bytes) -> int | None:
    """In octal digits; or, as GNU writes large ones, in the bytes themselves."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    found = _OCTAL.fullmatch(field)
    return int(found[1] or b"0", 8) if found else None


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
