"""The planned rows: their ids, and reading them, a piece at a time. Finds nothing and checks nothing; knows no format.

A derived id is what the piece calls a row, such as `<file>#<row>`. Where several questions are asked, each row is
there once for each of them, as `<id>#<question>`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from star_batch.commit.digests import Digests, Mask, digest_ids, is_repeated, joined
from star_batch.errors import InputError
from star_batch.inputs.pieces import BYTES_PER_TABLE, FOLDER_COLUMN, ID_COLUMN, QUESTION_COLUMN, Piece
from star_batch.storage.location import Location
from star_batch.wording import printable

_THREADS = 16
_ROWS_PER_TABLE = 1024
_NUM_SHOWN = 3

S = TypeVar("S")
R = TypeVar("R")
Places: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputPlan:
    """Pieces to read with the columns that the job needs, cast to one `schema` for all of them.

    `labels`: columns of numbers that are read as their names. `only_names`: the image column holds nothing but names
    of files below `root`, whatever they look like.
    """

    root: Location
    schema: pa.Schema
    pieces: tuple[Piece, ...]
    id_column: str | None = None
    questions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    only_names: bool = False

    @property
    def num_rows(self) -> int:
        return sum(len(piece) for piece in self.pieces)

    @property
    def num_files(self) -> int:
        images = sum(piece.num_rows for piece in self.pieces if piece.file is None)
        return images + len({piece.file for piece in self.pieces} - {None})

    def ids(self) -> pa.ChunkedArray:
        """The id of every row, one chunk per piece.

        Raises:
            InputError: the id column cannot be read.
        """
        return pa.chunked_array(in_threads(self._piece_ids, self.pieces), type=pa.string())

    def _piece_ids(self, piece: Piece) -> pa.StringArray:
        if self.id_column is None:
            rows, questions = _wanted(piece, 0, piece.num_rows)
            return _asked_ids(self, piece.derived_ids(0, piece.num_rows).take(rows), questions)
        tables = list(read_rows(self, piece, columns=[self.id_column]))
        return pa.chunked_array([table[ID_COLUMN] for table in tables], type=pa.string()).combine_chunks()

    def digests(self) -> Digests:
        """What `ids` gives, as digests: the ids of a piece at a time are in memory.

        Raises:
            InputError: the id column cannot be read.
        """
        return joined(in_threads(lambda piece: digest_ids(self._piece_ids(piece).to_pylist()), self.pieces))

    def only(self, is_wanted: Mask) -> "InputPlan":
        """The same plan with these of its rows: the images of others are never read."""
        pieces, offset = [], 0
        for piece in self.pieces:
            positions = np.flatnonzero(is_wanted[offset : offset + len(piece)])
            pieces.append(piece.narrowed(pa.array(positions, pa.int64())))
            offset += len(piece)
        return replace(self, pieces=tuple(piece for piece in pieces if len(piece)))


def distinct(plan: InputPlan, duplicates: Literal["refuse", "first"]) -> tuple[InputPlan, Digests]:
    """A plan in which no id stands twice, with its ids. Derived ids never do.

    Raises:
        InputError: an id stands in several rows, and that is to be refused.
    """
    digests = plan.digests()
    repeated = is_repeated(digests) if plan.id_column is not None else np.zeros(len(digests), np.bool_)
    if not repeated.any():
        return plan, digests
    if duplicates == "refuse":
        names = printable(_listed(sorted(set(plan.only(repeated).ids().to_pylist()))))
        number = len(np.unique(digests[repeated]))
        raise InputError(
            f"column {plan.id_column!r}: {number} ids stand in several rows: {names}; "
            "make them distinct, or say duplicates: first"
        )
    return plan.only(~repeated), digests[~repeated]


def read_rows(
    plan: InputPlan,
    piece: Piece,
    columns: Sequence[str] | None = None,
    rows_per_table: int = _ROWS_PER_TABLE,
    bytes_per_table: int = BYTES_PER_TABLE,
) -> Iterator[pa.Table]:
    """The wanted rows of one piece, in order, in small tables: `ID_COLUMN`, then the plan's columns.

    A table holds no more rows than `rows_per_table`, and about as many bytes as `bytes_per_table` or one row.

    Raises:
        InputError: the file cannot be read, or is broken there.
    """
    schema = plan.schema if columns is None else pa.schema([plan.schema.field(name) for name in columns])
    offset, rows_at_once = 0, -(-rows_per_table // piece.fan)
    tables = piece.tables(plan.root, schema, most_rows=rows_at_once, num_bytes=bytes_per_table // piece.fan)
    for table in tables:
        rows, questions = _wanted(piece, offset, table.num_rows)
        ids = _ids(plan, piece, offset, table)
        offset += table.num_rows
        if len(rows):
            asked = _asked(plan, table.add_column(0, ID_COLUMN, ids), rows, questions)
            yield asked if columns is not None else _with_folder(plan, piece, asked)


def _with_folder(plan: InputPlan, piece: Piece, rows: pa.Table) -> pa.Table:
    folder = piece.folder(plan.root)
    if folder is None:
        return rows
    return rows.append_column(FOLDER_COLUMN, pa.repeat(pa.scalar(os.fsencode(folder), pa.binary()), rows.num_rows))


def _wanted(piece: Piece, offset: int, num_rows: int) -> tuple[Places, Places]:
    """Of so many rows from `offset` on, those that are wanted, each once for every question that it is to be asked;
    and the questions."""
    first, end = offset * piece.fan, (offset + num_rows) * piece.fan
    if piece.wanted is None:
        places = np.arange(end - first, dtype=np.int64)
    else:
        wanted = piece.wanted.to_numpy()
        places = wanted[slice(*np.searchsorted(wanted, [first, end]))] - first
    rows, questions = np.divmod(places, piece.fan)
    return rows, questions


def _asked(plan: InputPlan, table: pa.Table, rows: Places, questions: Places) -> pa.Table:
    if len(rows) != table.num_rows or plan.questions:
        table = table.take(pa.array(rows))
    if not plan.questions:
        return table
    ids = _asked_ids(plan, table[ID_COLUMN].combine_chunks(), questions)
    names = pa.array(plan.questions, pa.string()).take(pa.array(questions))
    return table.set_column(0, ID_COLUMN, ids).append_column(QUESTION_COLUMN, names)


def _asked_ids(plan: InputPlan, ids: pa.StringArray, questions: Places) -> pa.StringArray:
    if not plan.questions:
        return ids
    return pc.binary_join_element_wise(ids, pa.array(plan.questions, pa.string()).take(pa.array(questions)), "#")


def _ids(plan: InputPlan, piece: Piece, offset: int, table: pa.Table) -> pa.Array | pa.ChunkedArray:
    derived = piece.derived_ids(offset, table.num_rows)
    if plan.id_column is None or plan.id_column not in table.column_names:
        return derived
    # A row without an id becomes an error row, which needs a name of its own.
    return pc.coalesce(table[plan.id_column].cast(pa.string()), derived)


def in_threads(work: Callable[[S], R], items: Sequence[S]) -> list[R]:
    """What comes of each, in order."""
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(work, items))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NUM_SHOWN])
    return f"{shown}, ..." if len(names) > _NUM_SHOWN else shown
