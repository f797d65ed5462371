"""Answered rows with their images, read again from the input by id. Decodes no image."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from star_batch.commit.digests import Digests, digest_ids, is_in, joined
from star_batch.config import Input
from star_batch.export.plain import rows_of
from star_batch.inputs.base import plan_input
from star_batch.inputs.pieces import ID_COLUMN
from star_batch.inputs.rows import InputPlan, distinct, read_rows
from star_batch.inputs.sources import Sources
from star_batch.storage.location import Location

logger = logging.getLogger(__name__)

_ANSWERS_AT_ONCE = 20_000
_IMAGES_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Illustrated:
    """An answered row, plain, and its images as they are encoded in the input."""

    row: dict[str, Any]
    images: list[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Illustrator:
    """Finds the images of rows; `ids` are those of the plan."""

    plan: InputPlan
    ids: Digests
    sources: Sources
    image_column: str

    @classmethod
    def of(cls, output: Location, input: Input) -> "Illustrator":
        """Raises:
        InputError, ConfigError: the input cannot be read.
        """
        source = input.model_copy(update={"keep_columns": (), "limit": None})
        plan, ids = distinct(plan_input(source, output), "first")
        sources = Sources.of(source, plan.root, only_names=plan.only_names)
        return cls(plan=plan, ids=ids, sources=sources, image_column=source.image_column)

    def illustrated(self, rows: pa.RecordBatchReader) -> Iterator[Illustrated]:
        """The rows that have an answer, in the input's order some thousands at a time; rows without image are left out.

        Raises:
            InputError: the input cannot be read.
            OutputError: the answers cannot.
        """
        left_out = 0
        for group in _groups(rows):
            found = 0
            for each in self._of_group(group):
                found += 1
                yield each
            left_out += len(group) - found
        if left_out:
            logger.warning("%s answers were left out, as their images cannot be read any more", f"{left_out:,}")

    def _of_group(self, rows: dict[str, dict[str, Any]]) -> Iterator[Illustrated]:
        wanted = self.plan.only(is_in(self.ids, joined([digest_ids(rows)])))
        for piece in wanted.pieces:
            for table in read_rows(wanted, piece, rows_per_table=_IMAGES_AT_ONCE):
                fetched = self.sources.read_column(table, self.image_column)
                for id, found in zip(table[ID_COLUMN].to_pylist(), fetched, strict=True):
                    images = [each.data for each in found if each.error is None and each.data]
                    if images and len(images) == len(found):
                        yield Illustrated(rows[id], images)


def _groups(rows: pa.RecordBatchReader) -> Iterator[dict[str, dict[str, Any]]]:
    """Answered rows by id, so many at a time."""
    group: dict[str, dict[str, Any]] = {}
    for batch in rows:
        group |= {row["id"]: row for row in rows_of(batch.filter(batch["error"].is_null()))}
        if len(group) >= _ANSWERS_AT_ONCE:
            yield group
            group = {}
    if group:
        yield group
