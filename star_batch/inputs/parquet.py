"""Parquet files: which there are, their row groups and columns, and the rows of one. Knows no row's meaning and no Ray.

A derived id is `<file>#<row>`: the file's name below the input's root and the row's number in it. Folders called
`column=value`, as Hive and Spark write them, are columns of text, where their files have no such column.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from star_batch.config import Input
from star_batch.errors import InputError
from star_batch.inputs.base import Format, places_of
from star_batch.inputs.columns import label_columns, unified_schema, wanted_columns
from star_batch.inputs.discover import find_files
from star_batch.inputs.partitions import partitions, with_columns
from star_batch.inputs.pieces import NumberedRows, limited
from star_batch.inputs.row_groups import Footer, read_footer, read_group
from star_batch.inputs.rows import InputPlan, in_threads
from star_batch.storage.location import Location
from star_batch.wording import printable

logger = logging.getLogger(__name__)


class Parquet(Format):
    """Files, folders and globs of Parquet; footers are read, and no row."""

    def plan(self, config: Input, output: Location | None = None) -> InputPlan:
        wanted = wanted_columns(config)
        root, files = find_files(places_of(config), output)
        columns = list(dict.fromkeys(column.column for column in wanted))
        found = in_threads(lambda file: read_footer(root, file, columns), list(files.values()))
        footers = _with_rows(dict(zip(files, found, strict=True)), root)
        given = {name: _given(files[name], columns, footer.schema) for name, footer in footers.items()}
        fan = len(config.asked)
        groups = [
            replace(group, given=given[name])
            for name, footer in footers.items()
            for group in _row_groups(name, files[name], footer, fan)
        ]
        schemas = {name: with_columns(footer.schema, dict(given[name])) for name, footer in footers.items()}
        return InputPlan(
            root=root,
            schema=unified_schema(wanted, schemas),
            labels=label_columns(wanted, schemas),
            id_column=config.id_column,
            pieces=tuple(limited(groups, config.limit)),
            questions=tuple(config.questions or ()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup(NumberedRows):
    """The first rows of one row group.

    `given`: columns whose value, the same in all rows, is not in the file.
    """

    index: int
    given: tuple[tuple[str, str | None], ...] = ()

    def tables(self, root: Location, schema: pa.Schema, *, most_rows: int, num_bytes: int) -> Iterator[pa.Table]:
        return read_group(
            root,
            self.path,
            self.index,
            schema,
            {name: value for name, value in self.given if name in schema.names},
            first_row=self.first_row,
            num_rows=self.rows_until_the_last,
            most_rows=most_rows,
            num_bytes=num_bytes,
        )


def _with_rows(footers: dict[str, Footer], root: Location) -> dict[str, Footer]:
    """Without files that hold nothing, whose columns may be anything, or none."""
    filled = {name: footer for name, footer in footers.items() if any(footer.rows)}
    shown = printable(root.shown)
    if not filled:
        raise InputError(f"{shown}: {len(footers)} Parquet files without a single row")
    if empty := footers.keys() - filled.keys():
        logger.info("%s: left out, as files without rows: %s", shown, f"{len(empty):,}")
    return filled


def _given(path: str, columns: Sequence[str], schema: pa.Schema) -> tuple[tuple[str, str | None], ...]:
    """Of the columns, those that the file does not have and its folders do."""
    folders = partitions(path)
    return tuple((name, folders[name]) for name in columns if name in folders and name not in schema.names)


def _row_groups(name: str, path: str, footer: Footer, fan: int) -> Iterator[RowGroup]:
    first = 0
    for index, (rows, largest) in enumerate(zip(footer.rows, footer.largest, strict=True)):
        if rows:
            yield RowGroup(path=path, name=name, index=index, first_row=first, num_rows=rows, fan=fan, largest=largest)
        first += rows
