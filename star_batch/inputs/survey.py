"""A first look at somebody's data: which format it is, and which columns hold images, ids, questions, labels.

Guesses from names, types and a few rows. Knows no job.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from star_batch.config import Input
from star_batch.errors import InputError
from star_batch.formats import begins_as_image
from star_batch.inputs.base import plan_input
from star_batch.inputs.discover import find_files
from star_batch.inputs.labels import label_names
from star_batch.inputs.listing import is_image, list_images
from star_batch.inputs.row_groups import Footer, read_footer, read_group
from star_batch.inputs.rows import read_rows
from star_batch.storage.location import Location, failing_as
from star_batch.storage.urls import scheme_of
from star_batch.wording import printable

_SAMPLE_ROWS = 32
_SAMPLE_BYTES = 32 * 2**20
_MOST_CHOICES = 50
_MOST_PIECES = 20
_IDS = ("id", "key", "uuid", "image_id", "sample_id", "question_id", "row_id", "uid")
_QUESTIONS = ("question", "prompt", "instruction", "query")
_LABELS = ("label", "class", "category", "target", "labels")
_REFERENCES = ("answer", "reference", "ground_truth", "caption", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was found; a column is None where there is none. `choices`: the label's values, if they are few.

    `hosts`: where images are that have to be fetched from the web.
    """

    kind: str
    num_rows: int
    columns: tuple[tuple[str, str], ...] = ()
    image: str | None = None
    id: str | None = None
    question: str | None = None
    label: str | None = None
    reference: str | None = None
    choices: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


def survey(path: str) -> Survey:
    """Look at files of Parquet, or else at a folder of images.

    Raises:
        InputError: there is neither, it cannot be read, or no column holds images.
        ConfigError: the path cannot be one.
    """
    place = Location.of(path)
    try:
        root, files = find_files([place])
    except InputError:
        with failing_as(InputError, "read the input", place):
            if not place.is_folder():
                raise
        return Survey(kind="images", num_rows=len(list_images([place], place.path)))
    return _of_parquet(path, root, list(files.values()))


def _of_parquet(path: str, root: Location, files: Sequence[str]) -> Survey:
    footers = {file: read_footer(root, file, []) for file in files}
    file = next((file for file, footer in footers.items() if any(footer.rows)), None)
    if file is None:
        raise InputError(f"{printable(root.shown)}: no file has a row")
    footer = footers[file]
    values = {field.name: _values(root, file, footer, field) for field in footer.schema}
    images = [name for name, some in values.items() if any(map(_shows_image, some))]
    if not images:
        columns = printable(", ".join(footer.schema.names))
        raise InputError(f"{printable(root.shown)}: no column holds images, or names of some; columns: {columns}")
    image = "image" if "image" in images else images[0]
    label = _named(footer.schema, _LABELS, pa.types.is_integer) or next(iter(label_names(footer.schema)), None)
    return Survey(
        kind="parquet",
        num_rows=sum(sum(each.rows) for each in footers.values()),
        columns=tuple((field.name, str(field.type)) for field in footer.schema),
        image=image,
        id=_named(footer.schema, _IDS, pa.types.is_integer),
        question=_named(footer.schema, _QUESTIONS),
        label=label,
        reference=_named(footer.schema, _REFERENCES, pa.types.is_integer),
        choices=_choices(path, image, label) if label is not None else (),
        hosts=tuple(sorted({host for value in values[image] for host in _hosts(value)})),
    )


def _values(root: Location, file: str, footer: Footer, field: pa.Field) -> list[Any]:
    """A few values of a column that may hold images."""
    type = field.type.value_type if pa.types.is_list(field.type) or pa.types.is_large_list(field.type) else field.type
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    is_pair = pa.types.is_struct(type) and {"bytes", "path"} == {each.name for each in type}
    if not is_pair and not any(is_kind(type) for is_kind in kinds):
        return []
    index = next(number for number, rows in enumerate(footer.rows) if rows)
    tables = read_group(
        root,
        file,
        index,
        pa.schema([field]),
        {},
        first_row=0,
        num_rows=min(_SAMPLE_ROWS, footer.rows[index]),
        most_rows=_SAMPLE_ROWS,
        num_bytes=_SAMPLE_BYTES,
    )
    return [value for table in tables for value in table[field.name].to_pylist()]


def _shows_image(value: Any) -> bool:
    return any(_is_one(each) for each in (value if isinstance(value, list) else [value]))


def _is_one(value: Any) -> bool:
    if isinstance(value, dict):
        return _is_one(value.get("bytes")) or _is_one(value.get("path"))
    if isinstance(value, bytes):
        return begins_as_image(value)
    return isinstance(value, str) and (value.startswith("data:image/") or is_image(value.partition("?")[0]))


def _hosts(value: Any) -> Iterator[str]:
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, str) and "://" in each and scheme_of(each) in ("http", "https"):
            yield each.partition("://")[2].partition("/")[0]


def _named(schema: pa.Schema, names: Sequence[str], also: Any = lambda type: False) -> str | None:
    """The first of these names, in any case, that is a column of text, or of another type that will do."""
    for name in names:
        for field in schema:
            is_text = pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
            if field.name.lower() == name and schema.names.count(field.name) == 1 and (is_text or also(field.type)):
                return str(field.name)
    return None


def _choices(path: str, image: str, label: str) -> tuple[str, ...]:
    """The label's values in the first pieces of the input, unless they are many."""
    config = Input(path=path, prompt="?", image_column=image, keep_columns=(label,))
    plan = plan_input(config)
    found: dict[str, None] = {}
    for piece in plan.pieces[:_MOST_PIECES]:
        for table in read_rows(plan, piece, [label]):
            found |= {
                str(value): None for value in table[label].to_pylist() if value is not None and str(value).strip()
            }
        if len(found) > _MOST_CHOICES:
            return ()
    return tuple(sorted(found))
