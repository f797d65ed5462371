"""The one door through which Parquet files are opened, inputs and outputs alike: what a file brings never runs.

A file may carry an Arrow schema (`ARROW:schema`) whose extension types Python classes rebuild, and some of these
unpickle: Ray's pickled objects when a value is looked at, older tensor types when the schema alone is. So such a schema
is never resolved. It is read as plain text first; a file with extension types in it is then opened without it, by
Parquet's own types. Those made of plain numbers and text are read as what they are stored as, all others are refused.

Knows no column by name, and not where a file lies.
"""

import base64
import binascii
import io
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from star_batch.storage.untrusted import NAME, decoded, decoding, refuse_extensions
from star_batch.storage.untrusted import ExtensionRefused as ExtensionRefused

_KEY, _HIDDEN_KEY = b"ARROW:schema", b"ARROW-schema"
_MAGIC = b"PAR1"
_TAIL = 8
"""The footer's length in four bytes, and the magic word."""
_FIRST_READ = 65_536
_BUFFER = 2 * 2**20
_FIRST_ROWS = 16


def open_parquet(file: Any) -> pq.ParquetFile:
    """A Parquet file, open at its footer; its types are Arrow's own, never an extension type.

    Args:
        file: binary, to read and to seek in.

    Raises:
        ExtensionRefused: a column, or a part of one, has an extension type that is not plain.
        pa.ArrowException: not Parquet.
    """
    footer = _footer(file)
    # The same length, so that nothing else in the footer has to change.
    with decoding():
        hidden = _metadata(footer.replace(_KEY, _HIDDEN_KEY))
        is_plain = _is_plain((hidden.metadata or {}).get(_HIDDEN_KEY), footer.count(_KEY))
        return pq.ParquetFile(
            file,
            metadata=_metadata(footer) if is_plain else hidden,
            arrow_extensions_enabled=False,
            # Columns are streamed; both would otherwise have the whole of each in memory.
            buffer_size=_BUFFER,
            pre_buffer=False,
        )


def read_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole file that is in memory.

    Raises:
        ExtensionRefused: as `open_parquet` does.
        pa.ArrowException: not Parquet, or broken, or one of the columns is not there.
    """
    file = open_parquet(io.BytesIO(data))
    with decoding():
        if missing := set(columns or ()) - set(file.schema_arrow.names):
            raise pa.ArrowInvalid(f"no columns {sorted(missing)}")
        return file.read(columns=columns)


def read_batches(
    file: pq.ParquetFile, row_group: int, columns: Sequence[str], *, num_rows: int, most_rows: int, num_bytes: int
) -> Iterator[pa.RecordBatch]:
    """The first rows of a row group, in order, in batches of about `num_bytes`, and of 1 to `most_rows` rows.

    What is in memory is a batch and, as Parquet has it, one page of each column, which a writer may have made large.

    Raises:
        pa.ArrowException: broken, or a row is too large for Arrow.
    """
    start, most = 0, min(most_rows, num_rows)
    while start < num_rows:
        try:
            for batch in decoded(_from_row(file, row_group, columns, start, most, num_bytes)):
                start += batch.num_rows
                yield batch.slice(0, batch.num_rows - max(0, start - num_rows))
                if start >= num_rows:
                    return
            raise pa.ArrowInvalid(f"row group {row_group} ends after {start:,} rows, of which its footer has more")
        except pa.ArrowNotImplementedError:
            # A nested column of more than 2 GiB in one batch: rows have grown that much.
            if most == 1:
                raise
            most = max(1, most // 8)


def _from_row(
    file: pq.ParquetFile, row_group: int, columns: Sequence[str], start: int, most: int, num_bytes: int
) -> Iterator[pa.RecordBatch]:
    rows = min(most, _FIRST_ROWS, max(1, num_bytes // _bytes_per_row(file.metadata.row_group(row_group), columns)))
    seen = 0
    for batch in file.iter_batches(batch_size=rows, row_groups=[row_group], columns=list(columns)):
        skipped = min(max(0, start - seen), batch.num_rows)
        seen += batch.num_rows
        if skipped < batch.num_rows:
            yield batch.slice(skipped)
        # Rows may be larger than the footer says, as what repeats is stored once: what was read tells.
        fitting = num_bytes * batch.num_rows // max(1, batch.nbytes)
        rows = max(1, min(4 * rows, fitting, most))
        file.reader.set_batch_size(rows)


def largest_column(row_group: pq.RowGroupMetaData, columns: Sequence[str]) -> int:
    """Bytes of the largest of these, as stored and as read: what reading may cost at once, where it is one page."""
    sizes = [chunk.total_compressed_size + chunk.total_uncompressed_size for chunk in _chunks(row_group, columns)]
    return max(sizes, default=0)


def contradiction(file: pq.ParquetFile, columns: Sequence[str]) -> str | None:
    """What a footer says of its numbers of rows that cannot be, seen at these columns; nothing where it all agrees."""
    total = 0
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        if group.num_rows < 0:
            return f"row group {number} has {group.num_rows:,} rows"
        for index in _indices(group, columns):
            if not _fits(group.column(index).num_values, group.num_rows, file.schema.column(index)):
                found = f"{group.column(index).num_values:,} values in a column"
                return f"row group {number} has {group.num_rows:,} rows, and {found}"
        total += group.num_rows
    counted = file.metadata.num_rows
    return None if counted == total else f"{counted:,} rows in all, and {total:,} in its row groups"


def _fits(num_values: int, num_rows: int, column: pq.ColumnSchema) -> bool:
    """Nulls and empty lists count as values; where a column repeats, a row has one or more."""
    return num_values == num_rows or (num_values > num_rows and column.max_repetition_level > 0)


def _bytes_per_row(row_group: pq.RowGroupMetaData, columns: Sequence[str]) -> int:
    num_bytes = sum(chunk.total_uncompressed_size for chunk in _chunks(row_group, columns))
    return int(max(1, num_bytes // max(1, row_group.num_rows)))


def _chunks(row_group: pq.RowGroupMetaData, columns: Sequence[str]) -> Iterator[pq.ColumnChunkMetaData]:
    return (row_group.column(index) for index in _indices(row_group, columns))


def _indices(row_group: pq.RowGroupMetaData, columns: Sequence[str]) -> Iterator[int]:
    for index in range(row_group.num_columns):
        path = row_group.column(index).path_in_schema
        if any(path == name or path.startswith(f"{name}.") for name in columns):
            yield index


def _footer(file: Any) -> bytes:
    size = file.seek(0, io.SEEK_END)
    if not size:
        raise pa.ArrowInvalid("it is empty")
    tail = _read_end(file, size, min(size, _FIRST_READ))
    length = int.from_bytes(tail[-_TAIL:-4], "little")
    if size < _TAIL + len(_MAGIC) or tail[-4:] != _MAGIC or length > size - _TAIL - len(_MAGIC):
        raise pa.ArrowInvalid("it does not end as Parquet files do")
    if length + _TAIL > len(tail):
        tail = _read_end(file, size, length + _TAIL)
    return tail[-length - _TAIL : -_TAIL]


def _read_end(file: Any, size: int, length: int) -> bytes:
    file.seek(size - length)
    return bytes(file.read(length))


def _metadata(footer: bytes) -> pq.FileMetaData:
    return pq.read_metadata(pa.BufferReader(_MAGIC + footer + len(footer).to_bytes(4, "little") + _MAGIC))


def _is_plain(described: bytes | None, num_described: int) -> bool:
    """Whether the Arrow schema may be resolved: it is there once, means one thing, and has no extension type."""
    if described is None:
        return num_described == 0
    try:
        message = base64.b64decode(described, validate=True)
    except binascii.Error:
        return False
    refuse_extensions(message)
    # Who reads base64 more leniently than we did may see another schema.
    return num_described == 1 and NAME not in message and base64.b64encode(message) == described
