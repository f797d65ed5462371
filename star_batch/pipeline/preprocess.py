"""CPU stage: one planned row to pixels and words, or to an error row that says why not. Knows no GPU.

Images of a batch are fetched concurrently. Whatever is wrong with one row is a `RecordError` and stays there.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from star_batch import images
from star_batch.config import Input
from star_batch.errors import (
    ConfigError,
    ImageFetchFailed,
    ImageMissing,
    PromptMissing,
    Quarantined,
    RecordError,
    ValueInvalid,
)
from star_batch.pipeline.plan import ID_COLUMN
from star_batch.pipeline.storage import STORAGE_ERRORS, Location, explain, scheme_of
from star_batch.pipeline.template import Template
from star_batch.records import Pixels, Record

_FETCH_THREADS = 16
_ROWS_PER_STEP = 64
_KEPT = "keep:"
_SCHEMES = ("file", "s3", "gs")

Pieces: TypeAlias = Callable[[tuple[str, ...]], Iterator[tuple[tuple[str, ...], str | None]]]
"""Ids of rows, cut into what is prepared together, or must not be and why."""

PREPARED_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("pixels", pa.large_binary()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("prompt", pa.large_string()),
        pa.field("max_new_tokens", pa.int32()),
        pa.field("choices", pa.list_(pa.string())),
        pa.field("reference", pa.large_string()),
        pa.field("error", pa.large_string()),
        pa.field("error_type", pa.string()),
        pa.field("fetch_seconds", pa.float64()),
        pa.field("decode_seconds", pa.float64()),
    ]
)
"""What an actor gets; `pixels` are the bytes of a `[height, width, 3]` uint8 array. Kept columns follow."""


class Preprocessor(Protocol):
    """What this stage needs of a checkpoint."""

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]: ...


def kept_fields(schema: pa.Schema, columns: Sequence[str]) -> list[pa.Field]:
    """The fields of carried columns under the names they have between the stages, where they cannot clash."""
    return [schema.field(name).with_name(_KEPT + name) for name in columns]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """The stage: planned rows in, as many rows of `PREPARED_SCHEMA` and kept columns out, in order."""

    input: Input
    schema: pa.Schema
    root: Location
    load: Callable[[], Preprocessor] = field(repr=False)

    def __call__(self, rows: pa.Table, deadly: str | None = None) -> pa.Table:
        """With a reason why the rows' images are `deadly`, they are not touched."""
        preprocessor = self.load()
        template = Template.parse(self.input.prompt) if self.input.prompt is not None else None
        fetched = (
            self._fetch_all(rows[self.input.image_column].to_pylist())
            if deadly is None
            else [_Fetched(None, Quarantined(deadly))] * rows.num_rows
        )
        columns = [name for name in rows.column_names if name != self.input.image_column]
        prepared = [
            _Row(self.input, template, row, image).prepare(preprocessor)
            for row, image in zip(rows.select(columns).to_pylist(), fetched, strict=True)
        ]
        kept = self.input.keep_columns
        table = pa.Table.from_pylist(prepared, schema=PREPARED_SCHEMA)
        for kept_field in kept_fields(self.schema, kept):
            table = table.append_column(kept_field, rows[kept_field.name.removeprefix(_KEPT)])
        return table

    def _fetch_all(self, sources: Sequence[Any]) -> list["_Fetched"]:
        if all(_inline(source) is not None for source in sources):
            return [_Fetched(_inline(source)) for source in sources]
        with ThreadPoolExecutor(_FETCH_THREADS) as threads:
            return list(threads.map(self._fetch, sources))

    def _fetch(self, source: Any) -> "_Fetched":
        started = time.perf_counter()
        try:
            data, error = self._read(source), None
        except RecordError as failure:
            data, error = None, failure
        return _Fetched(data, error, time.perf_counter() - started)

    def _read(self, source: Any) -> bytes:
        inline = _inline(source)
        if inline is not None:
            return inline
        path = source.get("path") if isinstance(source, Mapping) else source
        if not path or not path.strip():
            raise ImageMissing("no image")
        location = self._locate(path)
        try:
            return location.read_bytes()
        except STORAGE_ERRORS as error:
            raise ImageFetchFailed(f"{location.shown}: {explain(error, location.options)}") from None

    def _locate(self, path: str) -> Location:
        """A relative path is below the input's folder; the input's options serve its own file system only."""
        if "://" not in path and not path.startswith("/"):
            return self.root.at(path)
        if scheme_of(path) not in _SCHEMES:
            raise ImageFetchFailed(f"{scheme_of(path)}:// is not a file system for images; use a path, s3:// or gs://")
        options = self.root.options if scheme_of(path) == scheme_of(self.root.url) else {}
        try:
            return Location.of(path, options, retry_seconds=self.root.retry_seconds)
        except ConfigError as error:
            raise ImageFetchFailed(str(error)) from None


@dataclass(frozen=True, slots=True)
class _Fetched:
    data: bytes | None
    error: RecordError | None = None
    seconds: float = 0.0


def _inline(source: Any) -> bytes | None:
    """Bytes that are there already: a binary column, or the `bytes` of a pair of bytes and path."""
    if isinstance(source, Mapping):
        source = source.get("bytes")
    return source if isinstance(source, bytes) else None


@dataclass(frozen=True, slots=True)
class _Row:
    """One row on its way; `values` are its columns but the image."""

    input: Input
    template: Template | None
    values: Mapping[str, Any]
    image: _Fetched

    def prepare(self, preprocessor: Preprocessor) -> dict[str, object]:
        started = time.perf_counter()
        row = {
            "id": self.values[ID_COLUMN],
            "reference": self._reference(),
            "fetch_seconds": self.image.seconds,
        }
        try:
            row |= self._words() | self._pixels(preprocessor)
        except RecordError as error:
            row |= {"error": str(error), "error_type": error.kind}
        return row | {"decode_seconds": time.perf_counter() - started}

    def _words(self) -> dict[str, object]:
        self._check_id()
        return {
            "prompt": self._prompt(),
            "max_new_tokens": self._max_new_tokens(),
            "choices": self._choices(),
        }

    def _pixels(self, preprocessor: Preprocessor) -> dict[str, object]:
        if self.image.error is not None:
            raise self.image.error
        if not self.image.data:
            raise ImageMissing("no image")
        picture = images.decode(self.image.data, max_pixels=self.input.max_image_pixels)
        pixels = preprocessor.pixels(picture)
        return {"pixels": pixels.tobytes(), "height": pixels.shape[0], "width": pixels.shape[1]}

    def _check_id(self) -> None:
        column = self.input.id_column
        if column is not None and self.values[column] is None:
            raise ValueInvalid(f"column {column!r} is null; the row was given an id of its own")

    def _prompt(self) -> str:
        column = self.input.prompt_column
        prompt = self.template.render(self.values) if self.template is not None else self.values[str(column)]
        if prompt is None or not prompt.strip():
            raise PromptMissing("no prompt")
        return str(prompt)

    def _max_new_tokens(self) -> int | None:
        column = self.input.max_new_tokens_column
        if column is None:
            return None
        value = self.values[column]
        if value is None or not 0 < value < 2**31:
            raise ValueInvalid(f"column {column!r}: {value!r} is not a number of tokens")
        return int(value)

    def _choices(self) -> list[str] | None:
        column = self.input.choices_column
        if column is None:
            return list(self.input.choices) if self.input.choices is not None else None
        value = self.values[column]
        if not value or any(choice is None or not choice for choice in value):
            raise ValueInvalid(f"column {column!r}: no choices, or an empty one")
        return list(value)

    def _reference(self) -> str | None:
        column = self.input.reference_column
        value = self.values[column] if column is not None else None
        return str(value) if value is not None else None


def preprocess_block(rows: pa.Table, stage: Preprocess, pieces: Pieces) -> Iterator[pa.Table]:
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


def to_records(rows: pa.Table, *, raw: bool, with_kept: Callable[[str], bool] = lambda id: False) -> list[Record]:
    """Prepared rows, none of them failed, as the engine takes them; `with_kept` picks those that ask what was kept."""
    pixels = _pixels(rows)
    words = rows.select(["id", "prompt", "max_new_tokens", "choices"]).to_pylist()
    return [
        Record(
            id=row["id"],
            image=image,
            prompt=row["prompt"],
            max_new_tokens=row["max_new_tokens"],
            choices=tuple(row["choices"]) if row["choices"] is not None else None,
            raw=raw,
            with_kept=with_kept(row["id"]),
        )
        for row, image in zip(words, pixels, strict=True)
    ]


def _pixels(rows: pa.Table) -> list[Pixels]:
    shapes = zip(rows["height"].to_pylist(), rows["width"].to_pylist(), strict=True)
    # Copied: what Ray hands out is read-only memory, shared, and kept alive as long as one view of it is.
    return [
        np.frombuffer(scalar.as_buffer(), np.uint8).reshape(height, width, 3).copy()
        for scalar, (height, width) in zip(rows["pixels"], shapes, strict=True)
    ]
