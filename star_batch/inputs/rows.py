"""The planned rows: their ids, and reading them, a row group at a time. Finds nothing and checks nothing; knows no Ray.

A derived id is `<file>#<row>`: the file's name below the input's root and the row's number in it, so that
it does not depend on how a read is split and a person can find the row again. An image's is its name below the root.
Where several questions are asked, each row is there once for each of them, as `<id>#<question>`.
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
from star_batch.inputs.discover import with_scheme
from star_batch.inputs.row_groups import BYTES_PER_TABLE, read_group
from star_batch.storage.location import Location
from star_batch.wording import printable

ID_COLUMN = "star_batch:id"
"""The column of ids in every table that this package reads; always text, never null."""

QUESTION_COLUMN = "star_batch:question"
"""The name of the question that a row asks, where there are several."""

FOLDER_COLUMN = "star_batch:folder"
"""The folder of the Parquet file that a row is from, as bytes; rows may name the files that are there."""

_THREADS = 16
_ROWS_PER_TABLE = 1024
_NUM_SHOWN = 3

S = TypeVar("S")
R = TypeVar("R")
Places: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """`num_rows` rows of the input, each asked `fan` questions; of these only the positions in `wanted`, if given."""

    num_rows: int
    fan: int
    wanted: pa.Int64Array | None = None

    def __len__(self) -> int:
        return self.num_rows * self.fan if self.wanted is None else len(self.wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup(_Rows):
    """The first rows of one row group; `first_row` is the number in the file of the group's first.

    `largest`: bytes that reading may cost at once, beside the rows themselves.
    """

    path: str
    name: str
    index: int
    first_row: int
    largest: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles(_Rows):
    """The first of some images, by their names below the root."""

    names: pa.LargeStringArray


Group: TypeAlias = RowGroup | ImageFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class InputPlan:
    """Row groups to read with the columns that the job needs, cast to one `schema` for all files; or image files.

    `labels`: columns of numbers that are read as their names.
    """

    root: Location
    schema: pa.Schema
    id_column: str | None
    row_groups: tuple[Group, ...]
    questions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def num_rows(self) -> int:
        return sum(len(group) for group in self.row_groups)

    @property
    def num_files(self) -> int:
        images = sum(group.num_rows for group in self.row_groups if isinstance(group, ImageFiles))
        return images + len({group.path for group in self.row_groups if isinstance(group, RowGroup)})

    def ids(self) -> pa.ChunkedArray:
        """The id of every row, one chunk per row group.

        Raises:
            InputError: the id column cannot be read.
        """
        return pa.chunked_array(in_threads(self._group_ids, self.row_groups), type=pa.string())

    def _group_ids(self, group: Group) -> pa.StringArray:
        if self.id_column is None:
            rows, questions = _wanted(group, 0, group.num_rows)
            return _asked_ids(self, _derived_ids(group, 0, group.num_rows).take(rows), questions)
        tables = list(read_rows(self, group, columns=[self.id_column]))
        return pa.chunked_array([table[ID_COLUMN] for table in tables], type=pa.string()).combine_chunks()

    def digests(self) -> Digests:
        """What `ids` gives, as digests: the ids of a row group at a time are in memory.

        Raises:
            InputError: the id column cannot be read.
        """
        return joined(in_threads(lambda group: digest_ids(self._group_ids(group).to_pylist()), self.row_groups))

    def only(self, is_wanted: Mask) -> "InputPlan":
        """The same plan with these of its rows: the images of others are never read."""
        groups, offset = [], 0
        for group in self.row_groups:
            positions = np.flatnonzero(is_wanted[offset : offset + len(group)])
            groups.append(_narrowed(group, pa.array(positions, pa.int64())))
            offset += len(group)
        return replace(self, row_groups=tuple(group for group in groups if len(group)))


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
    group: Group,
    columns: Sequence[str] | None = None,
    rows_per_table: int = _ROWS_PER_TABLE,
    bytes_per_table: int = BYTES_PER_TABLE,
) -> Iterator[pa.Table]:
    """The wanted rows of one row group, in order, in small tables: `ID_COLUMN`, then the plan's columns.

    A table holds no more rows than `rows_per_table`, and about as many bytes as `bytes_per_table` or one row.

    Raises:
        InputError: the file cannot be read, or is broken there.
    """
    schema = plan.schema if columns is None else pa.schema([plan.schema.field(name) for name in columns])
    offset, rows_at_once = 0, -(-rows_per_table // group.fan)
    if isinstance(group, ImageFiles):
        tables = _read_names(group, schema, rows_at_once)
    else:
        tables = read_group(
            plan.root,
            group.path,
            group.index,
            schema,
            first_row=group.first_row,
            num_rows=_rows_until_the_last(group),
            most_rows=rows_at_once,
            num_bytes=bytes_per_table // group.fan,
        )
    for table in tables:
        rows, questions = _wanted(group, offset, table.num_rows)
        ids = _ids(plan, group, offset, table)
        offset += table.num_rows
        if len(rows):
            asked = _asked(plan, table.add_column(0, ID_COLUMN, ids), rows, questions)
            yield asked if columns is not None else _with_folder(plan, group, asked)


def _with_folder(plan: InputPlan, group: Group, rows: pa.Table) -> pa.Table:
    if isinstance(group, ImageFiles):
        return rows
    folder = os.fsencode(with_scheme(os.path.dirname(group.path), plan.root))
    return rows.append_column(FOLDER_COLUMN, pa.repeat(pa.scalar(folder, pa.binary()), rows.num_rows))


def _rows_until_the_last(group: Group) -> int:
    return group.num_rows if group.wanted is None else group.wanted[-1].as_py() // group.fan + 1


def _read_names(group: ImageFiles, schema: pa.Schema, rows_per_table: int) -> Iterator[pa.Table]:
    for start in range(0, group.num_rows, rows_per_table):
        yield pa.table([group.names.slice(start, rows_per_table)], schema=schema)


def _wanted(group: Group, offset: int, num_rows: int) -> tuple[Places, Places]:
    """Of so many rows from `offset` on, those that are wanted, each once for every question that it is to be asked;
    and the questions."""
    first, end = offset * group.fan, (offset + num_rows) * group.fan
    if group.wanted is None:
        places = np.arange(end - first, dtype=np.int64)
    else:
        wanted = group.wanted.to_numpy()
        places = wanted[slice(*np.searchsorted(wanted, [first, end]))] - first
    rows, questions = np.divmod(places, group.fan)
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


def _ids(plan: InputPlan, group: Group, offset: int, table: pa.Table) -> pa.Array | pa.ChunkedArray:
    derived = _derived_ids(group, offset, table.num_rows)
    if plan.id_column is None or plan.id_column not in table.column_names:
        return derived
    # A row without an id becomes an error row, which needs a name of its own.
    return pc.coalesce(table[plan.id_column].cast(pa.string()), derived)


def _derived_ids(group: Group, offset: int, num_rows: int) -> pa.StringArray:
    if isinstance(group, ImageFiles):
        return group.names.slice(offset, num_rows).cast(pa.string())
    first = group.first_row + offset
    numbers = pa.array(range(first, first + num_rows), pa.int64()).cast(pa.string())
    return pc.binary_join_element_wise(group.name, numbers, "#")


def _narrowed(group: Group, positions: pa.Int64Array) -> Group:
    if len(positions) == len(group):
        return group
    return replace(group, wanted=positions if group.wanted is None else group.wanted.take(positions))


def in_threads(work: Callable[[S], R], items: Sequence[S]) -> list[R]:
    """What comes of each, in order."""
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(work, items))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NUM_SHOWN])
    return f"{shown}, ..." if len(names) > _NUM_SHOWN else shown
