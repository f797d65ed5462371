"""A few answered rows with their pictures and the tokens kept of them: what the report's gallery shows.

A row is picked by a hash of its id: the same rows in any order, after any crash. Each is written before it is
committed, so that it is there for whoever goes on. Knows no page; without samples a job is as complete as with.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from star_batch.commit.digests import digest_ids
from star_batch.commit.layout import METRICS
from star_batch.commit.parts import hash_ids, to_parquet
from star_batch.records import Answer, Picture, Record
from star_batch.report import Choice, Grid, Sample
from star_batch.storage.location import STORAGE_ERRORS, Location
from star_batch.storage.parquet import read_parquet

_PREFIX = "sample-"
_LONGEST_SIDE = 448
_JPEG_QUALITY = 82
_MOST_TOKENS = 2**20
"""Visual tokens of an image; the page has a shape made of them."""

_MAX_CHOICES = 5
_CHOICES = pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float64())]))

SAMPLE_SCHEMA = pa.schema(
    [
        ("fingerprint", pa.string()),
        ("id", pa.string()),
        ("prompt", pa.large_string()),
        ("answer", pa.large_string()),
        ("reference", pa.large_string()),
        ("picture", pa.large_binary()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("num_visual", pa.int32()),
        ("kept", pa.list_(pa.list_(pa.int32()))),
        ("choices", _CHOICES),
        ("grid", pa.struct([("side", pa.int32()), ("rows", pa.int32()), ("columns", pa.int32())])),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Picks a share of the rows, and keeps what became of them below the output. Small: it travels to every actor."""

    output: Location
    fingerprint: str
    share: float

    @classmethod
    def of(cls, output: Location, fingerprint: str, *, num_samples: int, num_rows: int) -> Self:
        """About `num_samples` of `num_rows` rows; storage trouble is not waited out."""
        place = Location(output.url, output.options, retry_seconds=0.0)
        return cls(output=place, fingerprint=fingerprint, share=min(1.0, num_samples / num_rows))

    def picks(self, id: str) -> bool:
        return _rank(id) < self.share

    def keep(self, rows: Sequence[tuple[Record, Answer, str | None]]) -> None:
        """Write records with their answers and references, under a name that a second attempt takes again."""
        samples = [_sample(record, answer, reference) for record, answer, reference in rows]
        table = pa.Table.from_pylist(
            [asdict(sample) | {"fingerprint": self.fingerprint} for sample in samples], schema=SAMPLE_SCHEMA
        )
        name = f"{_PREFIX}{hash_ids([sample.id for sample in samples])}.parquet"
        self.output.at(METRICS, name).write_bytes(to_parquet(table))


def read_samples(output: Location, fingerprint: str) -> list[Sample]:
    """What was kept of a job's rows, in an order that is the same every time; what cannot be read is left out."""
    names = [name for name in output.at(METRICS).files() if name.startswith(_PREFIX) and name.endswith(".parquet")]
    rows = [row for name in names for row in _read(output.at(METRICS, name)) if row.pop("fingerprint") == fingerprint]
    samples = {sample.id: sample for sample in map(_from_row, rows) if sample is not None}
    return [samples[id] for id in sorted(samples, key=_rank)]


def _rank(id: str) -> float:
    """A number from 0 to 1 that belongs to an id."""
    return int.from_bytes(digest_ids([id])[:8]) / 2**64


def _sample(record: Record, answer: Answer, reference: str | None) -> Sample:
    pixels = _shown(record)
    height, width = pixels.shape[:2]
    is_whole = len(record.images) == 1
    return Sample(
        id=record.id,
        prompt=record.prompt or "",
        answer=answer.text or "",
        reference=reference,
        picture=_jpeg(pixels),
        width=width,
        height=height,
        num_visual=answer.num_visual or 0,
        kept=answer.kept or (),
        grid=grid_of(height, width, answer.num_visual or 0) if is_whole else None,
        choices=_likeliest(answer.label_probabilities or {}),
    )


def _likeliest(probabilities: Mapping[str, float]) -> tuple[Choice, ...]:
    ordered = sorted(probabilities.items(), key=lambda pair: -pair[1])
    return tuple(Choice(label, probability) for label, probability in ordered[:_MAX_CHOICES])


def _shown(record: Record) -> NDArray[np.uint8]:
    """Its first image, or the overview of that."""
    picture = record.images[0]
    assert isinstance(picture, Picture)
    view: NDArray[np.uint8] = picture.views[0]
    return view


def grid_of(height: int, width: int, num_visual: int) -> Grid | None:
    """How square tokens tile the pixels, row by row, less a rest on the right and below; None where they do not."""
    side = math.isqrt(height * width // num_visual) if num_visual else 0
    if not side or (height // side) * (width // side) != num_visual:
        return None
    return Grid(side=side, rows=height // side, columns=width // side)


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """What the model sees: the preprocessor has resized and cropped it, so that tokens lie where they belong."""
    picture, buffer = Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _read(file: Location) -> list[dict[str, Any]]:
    try:
        table = read_parquet(file.read_bytes())
        if "choices" not in table.column_names:  # samples had none before there were labels on cards
            table = table.append_column("choices", pa.nulls(table.num_rows, _CHOICES))
        table = table.select(SAMPLE_SCHEMA.names).cast(SAMPLE_SCHEMA)
        table.validate(full=True)
        rows: list[dict[str, Any]] = table.to_pylist()
    except (pa.ArrowException, KeyError, ValueError, *STORAGE_ERRORS):
        return []
    return rows


def _from_row(row: dict[str, Any]) -> Sample | None:
    """None for what cannot be shown: it was read from a file."""
    grid, kept, reference = row.pop("grid"), row.pop("kept"), row.pop("reference")
    choices = row.pop("choices") or []
    if None in row.values() or not (0 <= row["num_visual"] <= _MOST_TOKENS and row["width"] > 0 and row["height"] > 0):
        return None
    if not (_is_kept(kept, row["num_visual"]) and _tiles(grid, row["num_visual"])):
        return None
    return Sample(
        **row,
        reference=reference,
        kept=tuple(map(tuple, kept)),
        grid=Grid(**grid) if grid else None,
        choices=tuple(Choice(**choice) for choice in choices[:_MAX_CHOICES] if _is_choice(choice)),
    )


def _is_choice(choice: dict[str, Any] | None) -> bool:
    return choice is not None and choice["label"] is not None and 0.0 <= (choice["probability"] or 0.0) <= 1.0


def _is_kept(kept: list[list[int] | None] | None, num_visual: int) -> bool:
    return kept is not None and all(
        group is not None and all(token is not None and 0 <= token < num_visual for token in group) for group in kept
    )


def _tiles(grid: dict[str, int | None] | None, num_visual: int) -> bool:
    """Whether it is none, or has a cell for each token."""
    if grid is None:
        return True
    side, rows, columns = (grid[name] or 0 for name in ("side", "rows", "columns"))
    return min(side, rows, columns) > 0 and rows * columns == num_visual
