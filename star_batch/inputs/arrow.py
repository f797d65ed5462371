"""Arrow's own files: data sets that Hugging Face's `save_to_disk` wrote, Feather, and other streams of batches.

Headers are read to plan, and no row. A derived id is `<file>#<row>`, as for Parquet. A batch is in memory at a time.
Knows no row's meaning and no Ray.
"""

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from star_batch.config import Input
from star_batch.errors import InputError
from star_batch.inputs.base import Format, places_of
from star_batch.inputs.columns import label_columns, unified_schema, wanted_columns
from star_batch.inputs.discover import ARROW, find_files
from star_batch.inputs.fitting import Misfit, fitted
from star_batch.inputs.labels import label_names
from star_batch.inputs.pieces import NumberedRows, limited
from star_batch.inputs.rows import InputPlan, in_threads
from star_batch.inputs.saved import of_data_sets
from star_batch.storage.arrow import Message, cut, messages, read_batches, read_schema
from star_batch.storage.location import Location, explain, failing_as
from star_batch.storage.untrusted import ExtensionRefused
from star_batch.wording import printable

_ROWS_PER_PIECE, _BYTES_PER_PIECE = 1024, 64 * 2**20

logger = logging.getLogger(__name__)


class Arrow(Format):
    """Files, folders and globs of Arrow files; in a folder of `save_to_disk`, what its lists name."""

    def plan(self, config: Input, output: Location | None = None) -> InputPlan:
        wanted, places = wanted_columns(config), places_of(config)
        root, found = find_files(places, output, ARROW)
        files = of_data_sets(root, found, places)
        headers = in_threads(lambda file: _read_headers(root, *file), list(files.items()))
        filled = {headers.name: headers for headers in headers if headers.pieces}
        if not filled:
            raise InputError(f"{printable(root.shown)}: {len(files)} Arrow files without a single row")
        schemas = {name: headers.schema for name, headers in filled.items()}
        fan = len(config.asked)
        pieces = [replace(piece, fan=fan) for headers in filled.values() for piece in headers.pieces]
        return InputPlan(
            root=root,
            schema=_storable(unified_schema(wanted, schemas)),
            labels=label_columns(wanted, schemas),
            id_column=config.id_column,
            pieces=tuple(limited(pieces, config.limit)),
            questions=tuple(config.questions or ()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches(NumberedRows):
    """Some batches of a file, which begin at the byte `start`."""

    start: int

    def tables(self, root: Location, schema: pa.Schema, *, most_rows: int, num_bytes: int) -> Iterator[pa.Table]:
        left = self.rows_until_the_last
        with _reading(root, self.path) as file:
            own, message = read_schema(file)
            names, row = label_names(own), self.first_row
            for batch in read_batches(file, message, self.start, schema.names):
                for part in cut(batch.slice(0, left), most_rows=most_rows, num_bytes=num_bytes):
                    yield self._fitted(root, row, part, schema, names)
                    row, left = row + part.num_rows, left - part.num_rows
                if not left:
                    return
            raise pa.ArrowInvalid("it has fewer rows than when it was planned")

    def _fitted(
        self, root: Location, row: int, part: pa.RecordBatch, schema: pa.Schema, names: Mapping[str, pa.Array]
    ) -> pa.Table:
        try:
            return fitted(pa.Table.from_batches([part]), schema, names)
        except Misfit as misfit:
            shown = printable(root.at_path(self.path).shown)
            raise InputError(f"{shown}: row {row + misfit.row:,}, {misfit}") from None


@dataclass(frozen=True, slots=True)
class _Headers:
    """What a file holds."""

    name: str
    schema: pa.Schema
    pieces: Sequence[Batches]


def _read_headers(root: Location, name: str, path: str) -> _Headers:
    with _reading(root, path) as file:
        schema, message = read_schema(file)
        pieces = list(_pieces(name, path, message.end, messages(file, message.end)))
        return _Headers(name, schema, [piece for piece in pieces if piece.num_rows])


def _pieces(name: str, path: str, start: int, found: Iterator[Message]) -> Iterator[Batches]:
    """Batches that are read together. Those of a file with dictionaries are one piece, as each may need all before."""
    first = Batches(num_rows=0, path=path, name=name, start=start)
    piece, whole = first, first
    has_dictionaries = False
    cuts = list[Batches]()
    for message in found:
        size = message.end - message.body
        has_dictionaries |= message.kind == "dictionary"
        piece, whole = _with(piece, message, size), _with(whole, message, size)
        if piece.num_rows >= _ROWS_PER_PIECE or message.end - piece.start >= _BYTES_PER_PIECE:
            cuts.append(piece)
            piece = replace(first, start=message.end, first_row=whole.num_rows)
    yield from [whole] if has_dictionaries else [*cuts, piece]


def _with(piece: Batches, message: Message, size: int) -> Batches:
    return replace(piece, num_rows=piece.num_rows + message.num_rows, largest=max(piece.largest, size))


def _storable(schema: pa.Schema) -> pa.Schema:
    """Arrow has types that Parquet, and so an output, does not have."""
    for wanted in schema:
        try:
            pq.write_metadata(pa.schema([wanted]), io.BytesIO())
        except pa.ArrowException:
            shown = f"column '{printable(wanted.name)}' has the type {printable(wanted.type)}"
            raise InputError(f"{shown}, which Parquet does not have") from None
    return schema


@contextlib.contextmanager
def _reading(root: Location, path: str) -> Iterator[Any]:
    place = root.at_path(path)
    shown = printable(place.shown)
    try:
        with failing_as(InputError, "read", place), _open(root, path) as file:
            yield file
    except ExtensionRefused as error:
        raise InputError(f"{shown}: {error}") from None
    except (pa.ArrowException, UnicodeDecodeError) as error:
        why = printable(explain(error, root.options))
        raise InputError(f"{shown}: is not a readable Arrow file: {why}") from None


def _open(root: Location, path: str) -> Any:
    """Remotely what is asked for and no more: headers are small and far from each other."""
    if root.is_local:
        return root.patiently(lambda: pa.OSFile(os.fsencode(path)))
    return root.open_file(path, cache_type="none")
