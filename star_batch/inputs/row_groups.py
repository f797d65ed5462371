"""One Parquet file of the input: its footer, and the rows of its row groups, a few MiB at a time. Knows no ids.

What is wrong with a file names the file; what is wrong with a value names its column and its row.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from star_batch.config import ALL_COLUMNS
from star_batch.errors import InputError
from star_batch.inputs.discover import with_scheme
from star_batch.inputs.labels import label_names, named
from star_batch.storage.location import Location, explain, failing_as
from star_batch.storage.parquet import ExtensionRefused, contradiction, largest_column, open_parquet, read_batches
from star_batch.wording import printable


@dataclass(frozen=True, slots=True)
class Footer:
    """What a file holds; `rows` and `largest` (bytes of the largest wanted column) are of each row group."""

    schema: pa.Schema
    rows: tuple[int, ...]
    largest: tuple[int, ...]


def read_footer(root: Location, path: str, columns: Sequence[str]) -> Footer:
    """A file of the same file system as `root`.

    Raises:
        InputError: it cannot be read, is not Parquet, contradicts itself, or holds what is not read.
    """
    with _reading(root, path), _open(root, path) as file:
        parquet = open_parquet(file)
        columns = parquet.schema_arrow.names if ALL_COLUMNS in columns else columns
        groups = [parquet.metadata.row_group(index) for index in range(parquet.num_row_groups)]
        if why := contradiction(parquet, columns):
            raise InputError(f"{printable(_place(root, path).shown)}: its footer contradicts itself ({why})")
        return Footer(
            parquet.schema_arrow,
            tuple(group.num_rows for group in groups),
            tuple(largest_column(group, columns) for group in groups),
        )


def read_group(
    root: Location,
    path: str,
    index: int,
    schema: pa.Schema,
    *,
    first_row: int,
    num_rows: int,
    most_rows: int,
    num_bytes: int,
) -> Iterator[pa.Table]:
    """The first rows of a row group, in order, as tables of at most `most_rows` and about `num_bytes` each.

    Args:
        first_row: the number in the file of the group's first.

    Raises:
        InputError: the file cannot be read or is broken there, or a value does not fit the type of its column.
    """
    with _reading(root, path), _open(root, path) as file:
        parquet = open_parquet(file)
        names = label_names(parquet.schema_arrow)
        batches = read_batches(
            parquet, index, schema.names, num_rows=num_rows, most_rows=most_rows, num_bytes=num_bytes
        )
        for batch in batches:
            table = pa.Table.from_batches([batch])
            try:
                columns = [_fitted(table[field.name], field, names.get(field.name)) for field in schema]
            except _Misfit as misfit:
                shown = printable(_place(root, path).shown)
                raise InputError(f"{shown}: row {first_row + misfit.row:,}, {misfit}") from None
            yield pa.table(columns, schema=schema)
            first_row += batch.num_rows


class _Misfit(Exception):
    """The value of a row does not fit the type of its column."""

    def __init__(self, row: int, why: str) -> None:
        super().__init__(why)
        self.row = row


def _fitted(values: pa.ChunkedArray, field: pa.Field, names: pa.LargeStringArray | None) -> pa.ChunkedArray:
    if names is not None and pa.types.is_large_string(field.type):
        return named(values, names)
    try:
        return _decodable(values.cast(field.type))
    except pa.ArrowException as error:
        why = (
            f"column '{printable(field.name)}': cannot be read as {printable(field.type)}: {printable(explain(error))}"
        )
        raise _Misfit(_first_misfit(values, field.type), why) from None


def _decodable(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text that is not UTF-8 has its odd bytes spelt out (`caf\\xe9`), as Python could not read it at all."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        if not pa.types.is_large_string(values.type):
            raise
        found = values.cast(pa.large_binary()).to_pylist()
        spelt = [text if text is None else text.decode("utf-8", "backslashreplace") for text in found]
        return pa.chunked_array([pa.array(spelt, values.type)])
    return values


def _first_misfit(values: pa.ChunkedArray, type: pa.DataType) -> int:
    good, bad = 0, len(values)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            _decodable(values.slice(good, middle - good).cast(type))
            good = middle
        except pa.ArrowException:
            bad = middle
    return good


def _open(root: Location, path: str) -> Any:
    """Arrow's own way to a local file copies nothing."""
    return root.patiently(lambda: pa.OSFile(os.fsencode(path))) if root.is_local else root.open_file(path)


@contextlib.contextmanager
def _reading(root: Location, path: str) -> Iterator[None]:
    file = _place(root, path)
    shown = printable(file.shown)
    try:
        with failing_as(InputError, "read", file):
            yield
    except ExtensionRefused as error:
        raise InputError(f"{shown}: {error}") from None
    except pa.ArrowNotImplementedError as error:
        why = printable(explain(error, root.options))
        raise InputError(f"{shown}: holds what cannot be read, such as one row of more than 2 GiB: {why}") from None
    except (pa.ArrowException, UnicodeDecodeError) as error:
        why = printable(explain(error, root.options))
        raise InputError(f"{shown}: is not a readable Parquet file: {why}") from None


def _place(root: Location, path: str) -> Location:
    return replace(root, url=with_scheme(path, root))
