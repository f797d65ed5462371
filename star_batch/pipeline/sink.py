"""The end of the Ray pipeline: blocks of answers become commit units. Knows no engine and no input."""

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
from ray.data.block import Block
from ray.data.datasource import Datasink

from star_batch.commit.snapshots import Epoch
from star_batch.commit.unit import commit_rows


class AnswersSink(Datasink[None]):  # type: ignore[misc]  # Ray is not typed
    """Commits what Ray hands to a write task: blocks that have `rows_per_file` rows together, or are the last."""

    def __init__(self, epoch: Epoch, schema: pa.Schema, rows_per_file: int) -> None:
        self._epoch = epoch
        self._schema = schema
        self._rows_per_file = rows_per_file

    @property
    def min_rows_per_write(self) -> int:
        return self._rows_per_file

    def write(self, blocks: Iterable[Block], ctx: object) -> None:
        tables = [_conform(block, self._schema) for block in blocks]
        table = pa.concat_tables(tables) if tables else self._schema.empty_table()
        if table.num_rows:
            commit_rows(self._epoch, table)


@dataclass(slots=True, kw_only=True)
class CommitPace:
    """Whether answers should wait for others to share a file with: not at a pace at which `rows` take over `seconds`.

    So what waits at any moment is less than a file, and was made in less than `seconds`. Times are a clock's.
    """

    rows: float
    seconds: float
    last: float

    def is_slow(self, rows: int, now: float) -> bool:
        """Whether these many answers, all that came since the last time, came slowly."""
        passed, self.last = now - self.last, now
        return passed * self.rows > rows * self.seconds


def _conform(block: Block, schema: pa.Schema) -> pa.Table:
    table = block if isinstance(block, pa.Table) else pa.Table.from_pandas(block, preserve_index=False)
    return table.select(schema.names).cast(schema) if table.num_rows else schema.empty_table()
