"""One Parquet file of the input: its footer, and the rows of its row groups, a few MiB at a time. Knows no ids.

What is wrong with a file names the file; what is wrong with a value names its column and its row.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from star_batch.config import ALL_COLUMNS
from star_batch.errors import InputError
from star_batch.inputs.fitting import Misfit, fitted
from star_batch.inputs.labels import label_names
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
            raise InputError(f"{printable(root.at_path(path).shown)}: its footer contradicts itself ({why})")
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
    given: Mapping[str, str | None],
    *,
    first_row: int,
    num_rows: int,
    most_rows: int,
    num_bytes: int,
) -> Iterator[pa.Table]:
    """The first rows of a row group, in order, as tables of at most `most_rows` and about `num_bytes` each.

    Args:
        given: columns of the schema that are not in the file, with the value that every row has there.
        first_row: the number in the file of the group's first.

    Raises:
        InputError: the file cannot be read or is broken there, or a value does not fit the type of its column.
    """
    with _reading(root, path), _open(root, path) as file:
        parquet = open_parquet(file)
        names = label_names(parquet.schema_arrow)
        stored = [name for name in schema.names if name not in given]
        batches = read_batches(parquet, index, stored, num_rows=num_rows, most_rows=most_rows, num_bytes=num_bytes)
        for batch in batches:
            table = pa.Table.from_batches([batch])
            for name, value in given.items():
                table = table.append_column(name, pa.repeat(pa.scalar(value, pa.large_string()), table.num_rows))
            try:
                yield fitted(table, schema, names)
            except Misfit as misfit:
                shown = printable(root.at_path(path).shown)
                raise InputError(f"{shown}: row {first_row + misfit.row:,}, {misfit}") from None
            first_row += batch.num_rows


def _open(root: Location, path: str) -> Any:
    """Arrow's own way to a local file copies nothing."""
    return root.patiently(lambda: pa.OSFile(os.fsencode(path))) if root.is_local else root.open_file(path)


@contextlib.contextmanager
def _reading(root: Location, path: str) -> Iterator[None]:
    file = root.at_path(path)
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
