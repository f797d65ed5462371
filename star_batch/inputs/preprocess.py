"""CPU stage: one planned row to pictures and words, or to an error row that says why not. Knows no GPU.

Rows that share an image have it decoded once. Whatever is wrong with one row is a `RecordError` and stays there.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from star_batch.commit.readable import to_python
from star_batch.config import Input
from star_batch.errors import Quarantined
from star_batch.inputs.fetch import Fetched
from star_batch.inputs.pieces import FOLDER_COLUMN, ID_COLUMN
from star_batch.inputs.planned_row import PictureMaker, PlannedRow, PreparedPicture
from star_batch.inputs.prepared import KEPT, PREPARED_SCHEMA, kept_fields
from star_batch.inputs.prompts import Template
from star_batch.inputs.sources import Sources

_ROWS_PER_STEP = 64

Stage: TypeAlias = Callable[[pa.Table, str | None], pa.Table]
"""As `Preprocess` is called."""

Pieces: TypeAlias = Callable[[tuple[str, ...]], Iterator[tuple[tuple[str, ...], str | None]]]
"""Ids of rows, cut into what is prepared together, or must not be and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """The stage: planned rows in, as many rows of `PREPARED_SCHEMA` and kept columns out, in order."""

    input: Input
    schema: pa.Schema
    sources: Sources
    load: Callable[[], PictureMaker] = field(repr=False)

    def __call__(self, rows: pa.Table, deadly: str | None = None) -> pa.Table:
        """With a reason why the rows' images are `deadly`, they are not touched."""
        questions = self.input.asked
        templates = {name: Template.parse(question.prompt) for name, question in questions.items()}
        pictures = self._pictures(rows, deadly)
        prepared = [
            PlannedRow(self.input, questions, templates, row, shown).prepare()
            for row, shown in zip(self._values(rows, templates), pictures, strict=True)
        ]
        kept = self.input.keep_columns
        table = pa.Table.from_pylist(prepared, schema=PREPARED_SCHEMA)
        for kept_field in kept_fields(self.schema, kept):
            table = table.append_column(kept_field, rows[kept_field.name.removeprefix(KEPT)])
        return table

    def _values(self, rows: pa.Table, templates: Mapping[str | None, Template]) -> list[dict[str, Any]]:
        """The rows as plain Python, but for images and for what is only carried along."""
        read = {getattr(self.input, name) for name in type(self.input).model_fields if name.endswith("_column")}
        read |= {question.reference_column for question in self.input.asked.values()}
        read |= {column for template in templates.values() for column in template.columns}
        unread = {self.input.image_column, FOLDER_COLUMN, *(set(self.input.keep_columns) - read)}
        columns = {name: to_python(rows[name]) for name in rows.column_names if name not in unread}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _pictures(self, rows: pa.Table, deadly: str | None) -> list[list[PreparedPicture]]:
        """The images of each row, which holds one or a list of them."""
        preprocessor = self.load()
        if deadly is not None:
            return [[PreparedPicture(Fetched(None, Quarantined(deadly)), self.input, preprocessor)]] * rows.num_rows
        fetched = self.sources.read_column(rows, self.input.image_column)
        shared = {id(each): PreparedPicture(each, self.input, preprocessor) for row in fetched for each in row}
        return [[shared[id(found)] for found in row] for row in fetched]


def preprocess_block(rows: pa.Table, stage: Stage, pieces: Pieces) -> Iterator[pa.Table]:
    """The stage as the plain function that Ray runs in tasks; a few rows at a time, as pixels are large."""
    for first in range(0, rows.num_rows, _ROWS_PER_STEP):
        step = rows.slice(first, _ROWS_PER_STEP)
        # All of them before the first is handed on: a task may wait there for long, and be killed while it waits.
        yield pa.concat_tables(
            [
                stage(step.filter(pc.is_in(step[ID_COLUMN], pa.array(ids, pa.string()))), deadly)
                for ids, deadly in pieces(tuple(step[ID_COLUMN].to_pylist()))
            ]
        )
