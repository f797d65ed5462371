"""An input format from outside: JSON lines that name images beside the file. Registered when it is imported."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from star_batch.config import Input
from star_batch.inputs import Format, InputPlan, Piece, register_format
from star_batch.inputs.base import places_of
from star_batch.inputs.columns import unified_schema, wanted_columns
from star_batch.storage.location import Location


class Lines(Format):
    """One file; its first line has all of the columns."""

    def plan(self, config: Input, output: Location | None = None) -> InputPlan:
        [file] = places_of(config)
        rows = _read(file)
        schema = unified_schema(wanted_columns(config), {file.shown: pa.Table.from_pylist(rows).schema})
        folder, _, name = file.url.rpartition("/")
        piece = LinesPiece(num_rows=len(rows), fan=len(config.asked), name=name)
        return InputPlan(root=replace(file, url=folder), schema=schema, pieces=(piece,), id_column=config.id_column)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesPiece(Piece):
    """The whole file."""

    name: str

    def tables(self, root: Location, schema: pa.Schema, *, most_rows: int, num_bytes: int) -> Iterator[pa.Table]:
        rows = _read(root.at(self.name))
        for first in range(0, self.rows_until_the_last, most_rows):
            yield pa.Table.from_pylist(rows[first : first + most_rows], schema=schema)

    def derived_ids(self, first: int, num_rows: int) -> pa.StringArray:
        return pa.array([f"{self.name}:{number}" for number in range(first, first + num_rows)], pa.string())


def _read(file: Location) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().splitlines()]


register_format("plain_lines", Lines, has_columns=True)
