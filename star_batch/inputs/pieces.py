"""Pieces of an input: what one read takes, and the names of the columns that every table of rows has. Knows no format.

A piece knows how its rows are read and what they are called; which of them are wanted is told to it.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from star_batch.storage.location import Location

ID_COLUMN = "star_batch:id"
"""The column of ids in every table that this package reads; always text, never null."""

QUESTION_COLUMN = "star_batch:question"
"""The name of the question that a row asks, where there are several."""

FOLDER_COLUMN = "star_batch:folder"
"""The folder of the file that a row is from, as bytes; rows may name the files that are there."""

PROBLEM_COLUMN = "star_batch:problem"
"""Why a row cannot be answered, where its format knows that already; null answers it. A format may add this column."""

PROBLEM = pa.struct([("kind", pa.string()), ("why", pa.large_string())])
"""The `error_type` that the row gets, and the reason."""

BYTES_PER_TABLE = 32 * 2**20
"""Of rows that are read at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece(ABC):
    """`num_rows` rows of the input, each asked `fan` questions; of these only the positions in `wanted`, if given.

    `largest`: bytes that reading may cost at once, beside the rows themselves.
    """

    num_rows: int
    fan: int = 1
    wanted: pa.Int64Array | None = None
    largest: int = 0

    def __len__(self) -> int:
        return self.num_rows * self.fan if self.wanted is None else len(self.wanted)

    @abstractmethod
    def tables(self, root: Location, schema: pa.Schema, *, most_rows: int, num_bytes: int) -> Iterator[pa.Table]:
        """The piece's rows from the first to the last that is wanted, in order, with the columns of `schema`.

        `PROBLEM_COLUMN` may follow. What stands in rows that are not wanted does not matter.

        A table holds at most `most_rows` rows, and about as many bytes as `num_bytes` or one row.

        Raises:
            InputError: the piece cannot be read, or is broken there.
        """

    @abstractmethod
    def derived_ids(self, first: int, num_rows: int) -> pa.StringArray:
        """Stable ids for rows that bring none: a person finds the row again by them, however a read is split."""

    @property
    def file(self) -> str | None:
        """The name, below the input's root, of the file that it is a part of; None where each row is a file."""
        return None

    def folder(self, root: Location) -> str | None:
        """Where the file is whose rows these are, if rows may name what lies beside it."""
        return None

    def narrowed(self, positions: pa.Int64Array) -> Self:
        """Of what is wanted, only these positions."""
        if len(positions) == len(self):
            return self
        return replace(self, wanted=positions if self.wanted is None else self.wanted.take(positions))

    @property
    def rows_until_the_last(self) -> int:
        """So many rows have to be read."""
        return self.num_rows if self.wanted is None else self.wanted[-1].as_py() // self.fan + 1

    def wanted_rows(self) -> Collection[int]:
        """The rows of which something is wanted, up to the last of them."""
        if self.wanted is None:
            return range(self.num_rows)
        return set((self.wanted.to_numpy() // self.fan).tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePiece(Piece):
    """Rows of one file: its `path`, and its `name` below the input's root. Rows may name what lies beside it."""

    path: str
    name: str

    @property
    def file(self) -> str | None:
        return self.name

    def folder(self, root: Location) -> str | None:
        return root.at_path(os.path.dirname(self.path)).url


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedRows(FilePiece):
    """Rows that follow each other, called `<file>#<row>`; `first_row` is the number in the file of the first."""

    first_row: int = 0

    def derived_ids(self, first: int, num_rows: int) -> pa.StringArray:
        start = self.first_row + first
        numbers = pa.array(range(start, start + num_rows), pa.int64()).cast(pa.string())
        return pc.binary_join_element_wise(self.name, numbers, "#")


P = TypeVar("P", bound=Piece)


def limited(pieces: Iterable[P], limit: int | None) -> Iterator[P]:
    """The first rows of all, no more than `limit`."""
    for piece in pieces:
        rows = piece.num_rows if limit is None else min(piece.num_rows, limit)
        if rows:
            yield replace(piece, num_rows=rows)
        limit = None if limit is None else limit - rows
