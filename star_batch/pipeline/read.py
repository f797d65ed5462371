"""The planned rows as a Ray dataset. Knows how to cut reads into tasks; what is read is the plan's.

Why not `ray.data.read_parquet`: it names a row only by a hash of its file's absolute path and its position,
so ids would change when a folder moves or Ray changes its hash, and nobody could find the row. It also reads
the images of rows that are already answered. `Datasource` is Ray's own door for other readers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from star_batch.inputs.pieces import Piece
from star_batch.inputs.rows import InputPlan, read_rows

_CPUS_PER_READ = 0.5
_SMALL = 256 * 2**20
_TASKS_PER_MACHINE = 4


def read_dataset(plan: InputPlan, rows_per_task: int) -> "ray.data.Dataset":
    """A lazy dataset of `ID_COLUMN` and the plan's columns."""
    source = PlannedRows(plan, rows_per_task)
    # As many blocks as tasks: Ray would otherwise cut each into hundreds of tiny ones.
    return ray.data.read_datasource(
        source,
        num_cpus=_CPUS_PER_READ,
        memory=memory_per_task(plan, ray.nodes()),
        override_num_blocks=source.num_tasks,
    )


def memory_per_task(plan: InputPlan, machines: Iterable[Mapping[str, Any]]) -> float | None:
    """Bytes that Ray sets aside for each task, where row pieces are so large that a few fill a machine.

    Never more than a part of the smallest machine's: what does not fit anywhere would wait for ever.
    """
    largest = max((piece.largest for piece in plan.pieces), default=0)
    if largest <= _SMALL:
        return None
    memory = [float(machine["Resources"].get("memory", 0.0)) for machine in machines if machine["Alive"]]
    return min([float(largest), *(there // _TASKS_PER_MACHINE for there in memory if there)])


class PlannedRows(Datasource):  # type: ignore[misc]  # Ray is not typed
    """Pieces of a plan, in tasks of about `rows_per_task` rows; a piece is never cut."""

    def __init__(self, plan: InputPlan, rows_per_task: int) -> None:
        super().__init__()
        self._plan = replace(plan, pieces=())
        self._tasks = list(_batched(plan.pieces, rows_per_task))

    @property
    def num_tasks(self) -> int:
        return len(self._tasks)

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        return [self._read_task(pieces, per_task_row_limit) for pieces in self._tasks]

    def _read_task(self, pieces: Sequence[Piece], limit: int | None) -> ReadTask:
        plan = self._plan
        rows = sum(len(piece) for piece in pieces)
        files = list(dict.fromkeys(piece.file for piece in pieces if piece.file is not None))
        metadata = BlockMetadata(num_rows=rows, size_bytes=None, input_files=files, exec_stats=None)
        return ReadTask(lambda: _read(plan, pieces), metadata, per_task_row_limit=limit)


def _read(plan: InputPlan, pieces: Iterable[Piece]) -> Iterator[pa.Table]:
    for piece in pieces:
        yield from read_rows(plan, piece)


def _batched(pieces: Iterable[Piece], rows_per_task: int) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    rows = 0
    for piece in pieces:
        batch.append(piece)
        rows += len(piece)
        if rows >= rows_per_task:
            yield batch
            batch, rows = [], 0
    if batch:
        yield batch
