"""The one door through which Arrow's own files are opened, streams and random-access files alike; none of it runs.

Both are a schema, then batches of rows, each behind a header that says how long it is. Headers are read here, so that
a file is known without its rows, and nothing reaches Arrow's reader before its sizes are checked. Extension types are
never resolved: see `untrusted`. Values are checked before anyone uses them, as Arrow takes offsets on trust.

Knows no column by name, and not where a file lies.
"""

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from star_batch.storage.flatbuffer import Table
from star_batch.storage.untrusted import decoded, decoding, hidden, refuse_extensions
from star_batch.wording import printable

_MAGIC = b"ARROW1"
_MAGIC_LENGTH = 8
_CONTINUES = 0xFFFFFFFF
_FIRST_READ = 4096
_LONGEST_HEADER = 64 * 2**20
_MOST_UNPACKED = 16 * 2**30
_MOST_ROWS_PER_BYTE, _MOST_ROWS_PER_PACKED_BYTE = 8, 4096
"""A value takes a bit or more; packed, no more than so many share a byte."""
_KINDS: dict[int, Literal["schema", "dictionary", "batch"]] = {1: "schema", 2: "dictionary", 3: "batch"}


@dataclass(frozen=True, slots=True)
class Message:
    """One part of a file: its header, and its body from the byte `body` to `end`."""

    kind: Literal["schema", "dictionary", "batch"]
    start: int
    body: int
    end: int
    num_rows: int
    header: bytes = field(repr=False)


def read_schema(file: Any) -> tuple[pa.Schema, Message]:
    """The schema, whose types are Arrow's own, never an extension type; and its part of the file.

    Raises:
        ExtensionRefused: a column, or a part of one, has an extension type that is not plain.
        pa.ArrowException: no Arrow file.
    """
    size = file.seek(0, io.SEEK_END)
    if not size:
        raise pa.ArrowInvalid("it is empty")
    start = _MAGIC_LENGTH if _read(file, 0, len(_MAGIC)) == _MAGIC else 0
    message = _message(file, start, size)
    if message is None or message.kind != "schema":
        raise pa.ArrowInvalid("it does not begin as Arrow files do")
    with decoding():
        refuse_extensions(message.header)
        return pa.ipc.read_schema(pa.py_buffer(hidden(message.header))), message


def messages(file: Any, start: int) -> Iterator[Message]:
    """What follows, by its headers; bodies are not read.

    Raises:
        pa.ArrowException: broken, or cut off.
    """
    size = file.seek(0, io.SEEK_END)
    while (message := _message(file, start, size)) is not None:
        if message.kind == "schema":
            raise pa.ArrowInvalid("it has a second schema")
        yield message
        start = message.end


def read_batches(file: Any, schema: Message, start: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The batches from the byte `start` on, one at a time in memory, with these columns, in the file's order.

    Raises:
        pa.ArrowException: broken, or a value is none of its type; text need not be UTF-8.
    """
    with decoding():
        names = pa.ipc.read_schema(pa.py_buffer(hidden(schema.header))).names
        chosen = pa.ipc.IpcReadOptions(included_fields=[names.index(name) for name in columns])
        source = pa.PythonFile(_Feed(_chunks(file, schema, start)), mode="r")
        for batch in decoded(iter(pa.ipc.open_stream(source, options=chosen))):
            _check(batch)
            yield batch


def cut(batch: pa.RecordBatch, *, most_rows: int, num_bytes: int) -> Iterator[pa.RecordBatch]:
    """In order, pieces of at most `most_rows` rows, and of about `num_bytes` or one row."""
    if batch.num_rows <= most_rows and (batch.num_rows <= 1 or batch.nbytes <= num_bytes):
        yield batch
        return
    half = batch.num_rows // 2
    for part in (batch.slice(0, half), batch.slice(half)):
        yield from cut(part, most_rows=most_rows, num_bytes=num_bytes)


class _Feed(io.RawIOBase):
    """Chunks as a file to read from; no read goes beyond the end of a chunk."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> Any:
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._left = memoryview(chunk)
        size = len(self._left) if size < 0 else size
        found, self._left = self._left[:size], self._left[size:]
        return found


def _chunks(file: Any, schema: Message, start: int) -> Iterator[bytes]:
    yield hidden(schema.header)
    for message in messages(file, start):
        body = _read(file, message.body, message.end - message.body)
        if len(body) < message.end - message.body:
            raise pa.ArrowInvalid("it has become shorter")
        _check_unpacked(message, body)
        yield message.header
        yield body


def _read(file: Any, start: int, length: int) -> bytes:
    file.seek(start)
    return bytes(file.read(length))


def _message(file: Any, start: int, size: int) -> Message | None:
    """The part that begins there; None where the last has ended."""
    head = _read(file, start, _FIRST_READ)
    if len(head) < 4:
        raise pa.ArrowInvalid("it ends without Arrow's mark of an end: it is cut off, or still being written")
    (length,) = struct.unpack_from("<I", head)
    prefix = 4
    if length == _CONTINUES and len(head) >= 8:
        (length,) = struct.unpack_from("<I", head, 4)
        prefix = 8
    if length == 0:
        return None
    end = prefix + length
    if length > _LONGEST_HEADER or start + end > size:
        raise pa.ArrowInvalid(f"no Arrow header is at byte {start:,}")
    return _parsed(head[:end] if end <= len(head) else _read(file, start, end), prefix, start, size)


def _parsed(header: bytes, prefix: int, start: int, size: int) -> Message:
    root = Table.root(header[prefix:])
    kind = _KINDS.get(root.number(1, "B"))
    body, length = start + len(header), root.number(3, "q")
    if kind is None or length < 0:
        raise pa.ArrowInvalid(f"no part of an Arrow file begins at byte {start:,}")
    if body + length > size:
        raise pa.ArrowInvalid(
            f"the part at byte {start:,} says that it is {length:,} bytes long: it is cut off, or still being written"
        )
    rows = _num_rows(root.table(2), length) if kind == "batch" else 0
    return Message(kind, start, body, body + length, rows, header)


def _num_rows(batch: Table, length: int) -> int:
    rows = batch.number(0, "q")
    most = _MOST_ROWS_PER_PACKED_BYTE if batch.has(3) else _MOST_ROWS_PER_BYTE
    if not 0 <= rows <= most * length:
        raise pa.ArrowInvalid(f"a batch of {length:,} bytes says that it has {rows:,} rows")
    return rows


def _check_unpacked(message: Message, body: bytes) -> None:
    """Of what is packed, each buffer begins with its own size."""
    prefix = 8 if message.header[:4] == b"\xff\xff\xff\xff" else 4
    table = Table.root(message.header[prefix:]).table(2)
    batch = table.table(1) if message.kind == "dictionary" else table
    if not batch.has(3):
        return
    sizes = (struct.unpack_from("<q", body, offset)[0] for offset in batch.starts(2, len(body) - 8))
    if (total := sum(max(size, 0) for size in sizes)) > _MOST_UNPACKED:
        raise pa.ArrowInvalid(f"a batch of {len(body):,} bytes says that it unpacks to {total:,} bytes")


def _check(batch: pa.RecordBatch) -> None:
    batch.validate()
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowException as error:
            if not _is_odd_text(column):
                raise pa.ArrowInvalid(f"column '{printable(name)}': {error}") from None


def _is_odd_text(column: pa.Array) -> bool:
    """Whether nothing is wrong but that it is not UTF-8, which is told apart later."""
    kinds = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
    if column.type not in kinds:
        return False
    try:
        raw = pa.Array.from_buffers(kinds[column.type], len(column), column.buffers(), offset=column.offset)
        raw.validate(full=True)
    except pa.ArrowException:
        return False
    return True
