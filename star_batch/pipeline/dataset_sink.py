"""The end of somebody's own Ray Data pipeline: any dataset, written so that each id is there once. Knows no engine.

What it promises of each id that is written holds whatever dies when; that none is missing, only where ids are given.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import Datasink

from star_batch.commit.digests import Digests, digest_ids, is_in, joined
from star_batch.commit.readable import readable
from star_batch.commit.session import Session, answered
from star_batch.commit.snapshots import Epoch
from star_batch.commit.unit import commit_rows
from star_batch.errors import ConfigError, InputError, StarBatchError
from star_batch.pipeline.blocks import without_extensions
from star_batch.storage.location import Location, explain
from star_batch.wording import printable, quoted

_ROWS_PER_FILE = 512
_WORD = "AnswersSink"

_open: dict[str, "DatasetSink"] = {}
"""Sinks of this process that hold a lease, by their output. Ray tells nobody that somebody pressed Ctrl-C."""


class DatasetSink(Datasink[None]):  # type: ignore[misc]  # Ray is not typed
    """`dataset.write_datasink(AnswersSink("s3://bucket/out"))`: each id is visible there once, whatever dies when.

    A second run adds what is missing and leaves the rest alone; `left` keeps it from answering that again. Readers see
    no half files, `star-batch verify OUT` checks, and `_SUCCESS` is written last. Of rows that share an id one is kept,
    an answer rather than an error. With `ids` a run only succeeds when all of them are there and no others; without
    them nobody can say that a row is missing, as whatever the pipeline loses before is never seen here.

    Args:
        output: a local folder, `s3://` or `gs://`.
        ids: of all rows that there are to be, as text, each once.
        id_column: text or whole numbers, never null. Written as `id`.
        error_column: says why there is no answer, and is written as `error`; without one every row is an answer.
        job: what the answers depend on, such as `stage.fingerprint.parts`; an output begun with another is refused.
        options: fsspec's for that file system.
        rows_per_file: fewer are written only at the end.
        seconds: a run that was not heard of for so long may be succeeded by another.

    Raises:
        ConfigError: an option is wrong.
    """

    def __init__(
        self,
        output: str,
        *,
        ids: Sequence[str] | None = None,
        id_column: str = "id",
        error_column: str | None = None,
        job: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        rows_per_file: int = _ROWS_PER_FILE,
        seconds: float = 60.0,
    ) -> None:
        _check(ids, rows_per_file, seconds)
        self._place = Location.of(output, options)
        self._output, self._options, self._seconds = output, dict(options or {}), seconds
        self._ids = list(ids) if ids is not None else None
        self._id_column, self._error_column = id_column, error_column
        self._job, self._rows_per_file = dict(job or {}), rows_per_file
        self._session: Session | None = None
        self._epoch: Epoch | None = None
        self._done: Any = None
        self._wanted: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """What a write task needs; no lease and no list of ids."""
        return self.__dict__ | {"_session": None, "_ids": None}

    def left(self, dataset: "ray.data.Dataset") -> "ray.data.Dataset":
        """The rows of a dataset that have no row in the output now: put this before whatever is expensive.

        Raises:
            OutputError: the output cannot be read, or holds answers of another job.
        """
        done = _shared(answered(self._output, self._job, self._options))
        return dataset.map_batches(
            only_left, fn_kwargs={"done": done, "id_column": self._id_column}, batch_size=None, batch_format="pyarrow"
        )

    def close(self) -> None:
        """Give the output back to others, if a write was broken off."""
        session, self._session = self._session, None
        if _open.get(self._place.url) is self:
            del _open[self._place.url]
        if session is not None:
            session.__exit__(None, None, None)

    # What Ray calls

    def get_name(self) -> str:
        return _WORD

    @property
    def min_rows_per_write(self) -> int:
        return self._rows_per_file

    def on_write_start(self, schema: object = None) -> None:
        """In the driver, before the first task."""
        if (before := _open.get(self._place.url)) is not None:
            with contextlib.suppress(StarBatchError):
                before.close()
        session = Session(
            output=self._output, ids=self._ids, job=self._job, options=self._options, seconds=self._seconds
        )
        self._session = session.__enter__()
        _open[self._place.url] = self
        self._epoch, self._done = session.epoch, _shared(session.done)
        self._wanted = _shared(joined([digest_ids(self._ids)])) if self._ids is not None else None

    def write(self, blocks: Iterable[Block], ctx: object) -> None:
        """In a task: all rows become visible together, or none."""
        assert self._epoch is not None, "a write has begun"
        for table in _in_few([self._conform(block) for block in blocks]):
            digests = joined([digest_ids(table["id"].to_pylist())])
            self._refuse_foreign(table, digests)
            left = table.filter(pa.array(~is_in(digests, _fetched(self._done))))
            if left.num_rows:
                commit_rows(self._epoch, left)

    def on_write_complete(self, write_result: object) -> None:
        """In the driver, after the last task."""
        if self._session is None:  # there was no row
            self.on_write_start()
        assert self._session is not None
        self._session.finish()
        self.close()

    def on_write_failed(self, error: Exception) -> None:
        """What is committed stays; another run goes on from there."""
        with contextlib.suppress(StarBatchError):  # the first error counts
            self.close()

    # Rows

    def _refuse_foreign(self, table: pa.Table, digests: Digests) -> None:
        if self._wanted is None:
            return
        foreign = table["id"].filter(pa.array(~is_in(digests, _fetched(self._wanted))))
        if len(foreign):
            raise InputError(f"{len(foreign)} rows are not among the ids given, such as {quoted(foreign[0].as_py())}")

    def _conform(self, block: Block) -> pa.Table:
        table = without_extensions(BlockAccessor.for_block(block).to_arrow())
        if not table.num_rows:
            return pa.table({"id": pa.array([], pa.string()), "error": pa.array([], pa.large_string())})
        table = _placed(table, "id", _ids(table, self._id_column), self._id_column)
        table = _placed(table, "error", self._errors(table), self._error_column or "error")
        try:
            return readable(table)
        except pa.ArrowException as error:
            raise InputError(
                f"a column has the name of one of the answers', and another type: {_said(error)}"
            ) from None

    def _errors(self, table: pa.Table) -> pa.ChunkedArray | pa.Array:
        if self._error_column is not None:
            return _column(table, self._error_column, "error_column")
        return table["error"] if "error" in table.column_names else pa.nulls(table.num_rows, pa.large_string())


def only_left(rows: pa.Table, done: Any, id_column: str) -> pa.Table:
    """The plain function that Ray runs in tasks."""
    if not rows.num_rows:
        return rows
    digests = joined([digest_ids(_ids(rows, id_column).to_pylist())])
    return rows.filter(pa.array(~is_in(digests, _fetched(done))))


def _check(ids: Sequence[str] | None, rows_per_file: int, seconds: float) -> None:
    if isinstance(ids, str | bytes) or not all(isinstance(id, str) for id in ids or ()):
        raise ConfigError(f"{_WORD}: ids: expected a list of texts")
    if not isinstance(rows_per_file, int) or rows_per_file < 1:
        raise ConfigError(f"{_WORD}: rows_per_file: expected 1 or more, not {quoted(rows_per_file)}")
    if not isinstance(seconds, int | float) or not 1.0 <= seconds <= 3600.0:
        raise ConfigError(f"{_WORD}: seconds: expected 1 to 3600, not {quoted(seconds)}")


def _shared(digests: Digests) -> Any:
    """Once for all tasks; nothing where there are none."""
    return ray.put(digests.tobytes()) if len(digests) else b""


def _fetched(shared: Any) -> Digests:
    return joined([shared if isinstance(shared, bytes) else ray.get(shared)])


def _column(table: pa.Table, name: str, option: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise InputError(f"no column {quoted(name)} for {option}; columns: {printable(', '.join(table.column_names))}")
    return table[name]


def _ids(table: pa.Table, name: str) -> pa.ChunkedArray:
    column = _column(table, name, "id_column")
    type = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_text = pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type)
    if not (is_text or pa.types.is_integer(type)):
        raise InputError(f"column {quoted(name)} for id_column holds {printable(type)}; expected text or whole numbers")
    if column.null_count:
        raise InputError(f"column {quoted(name)} for id_column: {column.null_count} rows have no id")
    try:
        ids = column.cast(pa.string())
        ids.validate(full=True)
    except pa.ArrowException as error:
        raise InputError(f"column {quoted(name)} for id_column: {_said(error)}") from None
    return ids


def _placed(table: pa.Table, name: str, column: pa.ChunkedArray | pa.Array, origin: str) -> pa.Table:
    """With a column of that name, which the protocol goes by."""
    if name not in table.column_names:
        return table.append_column(name, column)
    if name != origin:
        raise InputError(f"the rows have a column {name!r}, which is written from {quoted(origin)}: rename one of them")
    return table.set_column(table.column_names.index(name), name, column)


def _in_few(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """In one, if their types go together."""
    filled = [table for table in tables if table.num_rows]
    try:
        return [pa.concat_tables(filled, promote_options="default")] if filled else []
    except pa.ArrowException:
        return filled


def _said(error: pa.ArrowException) -> str:
    return printable(explain(error))
