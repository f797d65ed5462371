"""CPU stage: one planned row to pictures and words, or to an error row that says why not. Knows no GPU.

Rows that share an image have it decoded once. Whatever is wrong with one row is a `RecordError` and stays there.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from star_batch import images
from star_batch.commit.readable import to_python
from star_batch.config import Input, Question
from star_batch.errors import (
    ConfigError,
    ImageMissing,
    PromptMissing,
    Quarantined,
    RecordError,
    RequestRefused,
    ValueInvalid,
)
from star_batch.inputs.fetch import Fetched
from star_batch.inputs.pieces import FOLDER_COLUMN, ID_COLUMN, QUESTION_COLUMN
from star_batch.inputs.prompts import Template, is_missing
from star_batch.inputs.sources import Sources
from star_batch.options import Decoding
from star_batch.records import Picture, Record
from star_batch.wording import quoted

_ROWS_PER_STEP = 64
_KEPT = "keep:"
_WORDS = ["id", "prompt", "max_new_tokens", "temperature", "top_p", "seed", "stop", "choices"]

Pieces: TypeAlias = Callable[[tuple[str, ...]], Iterator[tuple[tuple[str, ...], str | None]]]
"""Ids of rows, cut into what is prepared together, or must not be and why."""

PICTURE = pa.struct([("pixels", pa.large_binary()), ("shape", pa.list_(pa.int32())), ("size", pa.list_(pa.int32()))])
"""A `Picture`: the bytes of its views, their shape, and the size of the image."""

PREPARED_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("pictures", pa.list_(PICTURE)),
        pa.field("prompt", pa.large_string()),
        pa.field("question_name", pa.string()),
        pa.field("max_new_tokens", pa.int32()),
        pa.field("temperature", pa.float64()),
        pa.field("top_p", pa.float64()),
        pa.field("seed", pa.int64()),
        pa.field("stop", pa.list_(pa.string())),
        pa.field("choices", pa.list_(pa.string())),
        pa.field("reference", pa.large_string()),
        pa.field("error", pa.large_string()),
        pa.field("error_type", pa.string()),
        pa.field("fetch_seconds", pa.float64()),
        pa.field("decode_seconds", pa.float64()),
    ]
)
"""What an actor gets. Kept columns follow."""


class PictureMaker(Protocol):
    """What this stage needs of a checkpoint."""

    def picture(self, image: Image.Image) -> Picture: ...


def kept_fields(schema: pa.Schema, columns: Sequence[str]) -> list[pa.Field]:
    """The fields of carried columns under the names they have between the stages, where they cannot clash."""
    return [schema.field(name).with_name(_KEPT + name) for name in columns]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """The stage: planned rows in, as many rows of `PREPARED_SCHEMA` and kept columns out, in order."""

    input: Input
    schema: pa.Schema
    sources: Sources
    load: Callable[[], PictureMaker] = field(repr=False)

    def __call__(self, rows: pa.Table, deadly: str | None = None) -> pa.Table:
        """With a reason why the rows' images are `deadly`, they are not touched."""
        templates = {name: Template.parse(question.prompt) for name, question in self.input.asked.items()}
        pictures = self._pictures(rows, deadly)
        prepared = [
            _Row(self.input, templates, row, shown).prepare()
            for row, shown in zip(self._values(rows, templates), pictures, strict=True)
        ]
        kept = self.input.keep_columns
        table = pa.Table.from_pylist(prepared, schema=PREPARED_SCHEMA)
        for kept_field in kept_fields(self.schema, kept):
            table = table.append_column(kept_field, rows[kept_field.name.removeprefix(_KEPT)])
        return table

    def _values(self, rows: pa.Table, templates: Mapping[str | None, Template]) -> list[dict[str, Any]]:
        """The rows as plain Python, but for images and for what is only carried along."""
        read = {getattr(self.input, name) for name in type(self.input).model_fields if name.endswith("_column")}
        read |= {question.reference_column for question in self.input.asked.values()}
        read |= {column for template in templates.values() for column in template.columns}
        unread = {self.input.image_column, FOLDER_COLUMN, *(set(self.input.keep_columns) - read)}
        columns = {name: to_python(rows[name]) for name in rows.column_names if name not in unread}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _pictures(self, rows: pa.Table, deadly: str | None) -> list[list["_Picture"]]:
        """The images of each row, which holds one or a list of them."""
        preprocessor = self.load()
        if deadly is not None:
            return [[_Picture(Fetched(None, Quarantined(deadly)), self.input, preprocessor)]] * rows.num_rows
        several = [row if isinstance(row, list) else [row] for row in rows[self.input.image_column].to_pylist()]
        folders = _folders(rows)
        fetched = self.sources.read_all(
            [source for row in several for source in row],
            [folder for row, folder in zip(several, folders, strict=True) for _ in row],
        )
        shared = {id(each): _Picture(each, self.input, preprocessor) for each in fetched}
        each = iter(fetched)
        return [[shared[id(found)] for found in islice(each, len(row))] for row in several]


def _folders(rows: pa.Table) -> list[str | None]:
    """Of the files that the rows are from; a folder's name may be no text."""
    if FOLDER_COLUMN not in rows.column_names:
        return [None] * rows.num_rows
    return [os.fsdecode(folder) for folder in rows[FOLDER_COLUMN].to_pylist()]


class _Picture:
    """An image on its way to a picture; it goes there once, for the first of its rows that gets so far."""

    def __init__(self, fetched: Fetched, input: Input, preprocessor: PictureMaker) -> None:
        self._fetched = fetched
        self._input = input
        self._preprocessor = preprocessor
        self._value: dict[str, object] = {}
        self._error = fetched.error
        self._seconds = fetched.seconds

    def value(self) -> dict[str, object]:
        """Of type `PICTURE`.

        Raises:
            RecordError: the image cannot be had or read.
        """
        try:
            self._value = self._value or (self._decode() if self._error is None else {})
        except RecordError as error:
            self._error = error
        if self._error is not None:
            raise self._error
        return self._value

    def fetch_seconds(self) -> float:
        """What fetching took, told once."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _decode(self) -> dict[str, object]:
        if not self._fetched.data:
            raise ImageMissing("no image")
        image = images.decode(
            self._fetched.data, max_pixels=self._input.max_image_pixels, quote=self._fetched.may_quote
        )
        picture = self._preprocessor.picture(image)
        return {"pixels": picture.views.tobytes(), "shape": picture.views.shape, "size": picture.size}


@dataclass(frozen=True, slots=True)
class _Row:
    """One row on its way; `values` are its columns but the images, `templates` the questions' by name."""

    input: Input
    templates: Mapping[str | None, Template]
    values: Mapping[str, Any]
    pictures: Sequence[_Picture]

    def prepare(self) -> dict[str, object]:
        started = time.perf_counter()
        row = {
            "id": self.values[ID_COLUMN],
            "question_name": self._name,
            "reference": self._reference(),
            "fetch_seconds": sum(picture.fetch_seconds() for picture in self.pictures),
        }
        try:
            self._check_wanted()
            row |= self._words() | {"pictures": self._shown()}
        except RecordError as error:
            row |= {"error": str(error), "error_type": error.kind}
        return row | {"decode_seconds": time.perf_counter() - started}

    def _shown(self) -> list[dict[str, object]]:
        if not self.pictures:
            raise ImageMissing("no image")
        return [picture.value() for picture in self.pictures]

    @property
    def _name(self) -> str | None:
        """Which of several questions it asks."""
        return self.values.get(QUESTION_COLUMN)

    @property
    def _question(self) -> Question:
        return self.input.asked[self._name]

    def _check_wanted(self) -> None:
        column = self.input.refused_column
        if column is not None and self.values[column] is not None:
            raise RequestRefused(self.values[column])

    def _words(self) -> dict[str, object]:
        self._check_id()
        return {"prompt": self._prompt(), "choices": self._choices()} | self._decoding() | self._max_new_tokens()

    def _check_id(self) -> None:
        column = self.input.id_column
        if column is not None and self.values[column] is None:
            raise ValueInvalid(f"column {quoted(column)} is null; the row was given an id of its own")

    def _prompt(self) -> str:
        column = self.input.prompt_column
        prompt = self.templates[self._name].render(self.values) if column is None else self.values[column]
        if prompt is None or not prompt.strip():
            raise PromptMissing("no prompt")
        return str(prompt)

    def _max_new_tokens(self) -> dict[str, object]:
        column = self.input.max_new_tokens_column
        if column is None:
            return {}
        value = self.values[column]
        if value is None or not 0 < value < 2**31:
            raise ValueInvalid(f"column {quoted(column)}: {quoted(value)} is not a number of tokens")
        return {"max_new_tokens": value}

    def _decoding(self) -> dict[str, object]:
        """What the row itself says about decoding, checked."""
        column = self.input.decoding_column
        given = (self.values[column] or {}) if column is not None else {}
        chosen = {name: value for name, value in given.items() if not is_missing(value)}
        try:
            Decoding(**chosen)
        except ConfigError as error:
            raise ValueInvalid(f"column {quoted(column)}: {error}") from None
        if chosen.get("max_new_tokens", 0) >= 2**31:
            raise ValueInvalid(
                f"column {quoted(column)}: max_new_tokens={chosen['max_new_tokens']} is more than any model has"
            )
        return chosen

    def _choices(self) -> list[str] | None:
        column = self.input.choices_column
        if column is None:
            choices = self._question.choices
            return list(choices) if choices is not None else None
        value = self.values[column]
        if not value or any(choice is None or not choice for choice in value):
            raise ValueInvalid(f"column {quoted(column)}: no choices, or an empty one")
        return list(value)

    def _reference(self) -> str | None:
        column = self._question.reference_column
        value = self.values[column] if column is not None else None
        return str(value) if not is_missing(value) else None


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
    words = rows.select(_WORDS).to_pylist()
    return [
        Record(
            id=row["id"],
            image=[_picture(picture) for picture in pictures],
            prompt=row["prompt"],
            max_new_tokens=row["max_new_tokens"],
            choices=tuple(row["choices"]) if row["choices"] is not None else None,
            stop=tuple(row["stop"] or ()),
            raw=raw,
            temperature=row["temperature"],
            top_p=row["top_p"],
            seed=row["seed"],
            with_kept=with_kept(row["id"]),
        )
        for row, pictures in zip(words, rows["pictures"], strict=True)
    ]


def _picture(picture: pa.StructScalar) -> Picture:
    height, width = picture["size"].as_py()
    views = np.frombuffer(picture["pixels"].as_buffer(), np.uint8).reshape(picture["shape"].as_py())
    # Copied: what Ray hands out is read-only memory, shared, and kept alive as long as one view of it is.
    return Picture(views.copy(), (height, width))
