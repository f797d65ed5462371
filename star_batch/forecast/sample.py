"""A few of a job's rows, taken through the job's own preprocessing: what the rest will be like. Knows no engine."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from PIL import Image

from star_batch.config import JobConfig
from star_batch.inputs.columns import with_kept_columns
from star_batch.inputs.pieces import Piece
from star_batch.inputs.prepared import to_records
from star_batch.inputs.preprocess import Preprocess
from star_batch.inputs.rows import InputPlan, read_rows
from star_batch.inputs.sources import Sources
from star_batch.models import Preprocessor, load_preprocessor
from star_batch.records import Picture, Record
from star_batch.wording import printable

_MAX_ROW_GROUPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSample:
    """`records` are ready for an engine; `failed` counts the others by type, `examples` has one of each.

    `sizes` are (width, height) of the images as they were found; `seconds` how long a row took one core.
    """

    records: tuple[Record, ...]
    references: tuple[str | None, ...]
    failed: dict[str, int]
    examples: dict[str, str]
    sizes: tuple[tuple[int, int], ...]
    seconds: float

    @property
    def num_failed(self) -> int:
        return sum(self.failed.values())

    @property
    def num_rows(self) -> int:
        return len(self.records) + self.num_failed


@dataclass(slots=True)
class _Measuring:
    """A preprocessor that notes the size of every image it is given."""

    preprocessor: Preprocessor
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def picture(self, image: Image.Image, size: tuple[int, int] | None = None) -> Picture:
        self.sizes.append(size or image.size)
        return self.preprocessor.picture(image, size)

    def shrink(self, size: tuple[int, int]) -> int:
        return self.preprocessor.shrink(size)


def take_sample(config: JobConfig, plan: InputPlan, num_rows: int) -> RowSample:
    """The first rows of row groups from all over the input, about `num_rows` of them together.

    Raises:
        InputError: a file cannot be read.
        ModelError: the checkpoint has no preprocessor.
    """
    model = config.model
    measuring = _Measuring(
        load_preprocessor(model.name, revision=model.revision, trust_remote_code=model.trust_remote_code)
    )
    stage = Preprocess(
        input=with_kept_columns(config.input, plan.schema),
        schema=plan.schema,
        sources=Sources.of(config.input, plan.root, only_names=plan.only_names),
        load=lambda: measuring,
    )
    tables = [table for group in _spread(plan.pieces, num_rows) for table in read_rows(plan, group)]
    started = time.process_time()
    prepared = pa.concat_tables([stage(table) for table in tables])
    seconds = time.process_time() - started
    good = prepared.filter(prepared["error"].is_null())
    failed = prepared.filter(prepared["error"].is_valid())
    return RowSample(
        records=tuple(to_records(good, config.input)),
        references=tuple(good["reference"].to_pylist()),
        failed=dict(Counter(failed["error_type"].to_pylist())),
        examples=_examples(failed),
        sizes=tuple(measuring.sizes),
        seconds=seconds / max(1, prepared.num_rows),
    )


def _examples(failed: pa.Table) -> dict[str, str]:
    rows = failed.select(["id", "error", "error_type"]).to_pylist()
    return {row["error_type"]: f"{printable(row['id'])}: {printable(row['error'])}" for row in reversed(rows)}


def _spread(groups: Sequence[Piece], num_rows: int) -> list[Piece]:
    """A few row groups at even distances, each with its share of the rows: a whole one may be too large to read."""
    places = np.unique(np.linspace(0, len(groups) - 1, min(_MAX_ROW_GROUPS, len(groups), num_rows)).astype(int))
    share = -(-num_rows // len(places))
    return [replace(groups[place], num_rows=min(groups[place].num_rows, share)) for place in places]
