"""Blocks of somebody's dataset: their rows packed, so that they travel unchanged, and as rows that can be prepared.

On their way Ray puts blocks together and cuts them again, for which they must have one schema; a dataset's need not. So
each row travels as bytes that hold its own schema, and is unpacked where it is needed. Knows no engine and no job.
"""

import contextlib
import io
import itertools
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from ray.data.block import BlockAccessor
from ray.data.extensions import ArrowPythonObjectArray, ArrowPythonObjectType

from star_batch.errors import InputError
from star_batch.inputs.columns import Wanted, label_columns, unified_schema
from star_batch.inputs.labels import label_names, named
from star_batch.inputs.pieces import ID_COLUMN
from star_batch.storage.location import explain
from star_batch.wording import printable, quoted

PACKED = "star_batch:row"
"""The column of packed rows, beside `ID_COLUMN`."""

_SOURCE = "the rows"
_BANDS = (1, 3, 4)


def packed(block: pa.Table) -> pa.Table:
    """As many rows, each with an id of its own.

    Raises:
        InputError: two columns have one name.
    """
    if len(set(block.column_names)) < block.num_columns:
        raise InputError(f"{_SOURCE} have two columns of one name: {printable(', '.join(block.column_names))}")
    token = uuid.uuid4().hex
    rows = [_to_bytes(batch.slice(n, 1)) for batch in block.to_batches() for n in range(batch.num_rows)]
    ids = [f"{token}-{n}" for n in range(len(rows))]
    return pa.table({ID_COLUMN: pa.array(ids, pa.string()), PACKED: pa.array(rows, pa.large_binary())})


def _to_bytes(row: pa.RecordBatch) -> bytes:
    columns = [_compact(column) for column in row.columns]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, row.schema) as stream:
        stream.write_batch(pa.RecordBatch.from_arrays(columns, schema=row.schema))
    return bytes(sink.getvalue())


def _compact(column: pa.Array) -> pa.Array:
    """A row would take along all values of its dictionary."""
    if not pa.types.is_dictionary(column.type):
        return column
    with contextlib.suppress(pa.ArrowException):
        return column.cast(column.type.value_type).dictionary_encode().cast(column.type)
    return column


def unpacked(rows: pa.ChunkedArray) -> list[pa.Table]:
    """The rows in order, neighbours of one schema together."""
    tables: list[list[pa.Table]] = []
    for row in rows:
        table = pa.ipc.open_stream(row.as_buffer()).read_all()
        if not tables or not tables[-1][-1].schema.equals(table.schema, check_metadata=True):
            tables.append([])
        tables[-1].append(table)
    return [pa.concat_tables(alike) for alike in tables]


def with_answers(rows: pa.ChunkedArray, answers: pa.Table) -> Iterator[pa.Table]:
    """Packed rows with the columns of their answers behind their own, in order, neighbours of one schema together."""
    offset = 0
    for table in _agreeing(unpacked(rows)):
        own = answers.slice(offset, table.num_rows)
        offset += table.num_rows
        for field, column in zip(own.schema, own.columns, strict=True):
            table = table.append_column(field.with_nullable(True), column)
        yield table


def _agreeing(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """The same with types that Ray can put into one block: values of a column that has others become Python objects."""
    names = dict.fromkeys(name for table in tables for name in table.column_names)
    odd = [
        name
        for name in names
        if not _go_together({t.schema.field(name).type for t in tables if name in t.schema.names})
    ]
    return [_with_objects(table, [name for name in odd if name in table.column_names]) for table in tables]


def _go_together(types: set[pa.DataType]) -> bool:
    """As far as Ray puts them together itself."""
    kinds = (pa.types.is_struct, pa.types.is_list, lambda type: isinstance(type, pa.BaseExtensionType))
    rest = [type for type in types if not pa.types.is_null(type)]
    if any(isinstance(type, ArrowPythonObjectType) for type in rest):
        return not any(isinstance(t, pa.BaseExtensionType) and not isinstance(t, ArrowPythonObjectType) for t in rest)
    return len(rest) <= 1 or any(all(map(is_kind, rest)) for is_kind in kinds)


def _with_objects(table: pa.Table, columns: Iterable[str]) -> pa.Table:
    for name in columns:
        objects = ArrowPythonObjectArray.from_objects(_values(table, name))
        table = table.set_column(table.column_names.index(name), name, objects)
    return table


def _values(table: pa.Table, name: str) -> list[Any]:
    """As a function over rows would see them."""
    rows = BlockAccessor.for_block(table.select([name])).iter_rows(public_row_format=True)
    return [row[name] for row in rows]


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """With a type that fits everything where only values can tell, as of Python objects and tensors."""
    fields = [field.with_type(pa.null()) if _is_extension(field.type) else field for field in schema]
    return pa.schema(fields, schema.metadata)


def planned(rows: pa.Table, ids: Sequence[str], wanted: Sequence[Wanted]) -> pa.Table:
    """The wanted columns in the types that a job reads them in, beside `ID_COLUMN`.

    Raises:
        InputError: a column is missing, or holds something else.
    """
    columns = dict.fromkeys(each.column for each in wanted)
    images = {each.column for each in wanted if each.option == "image_column"}
    for name in [name for name in columns if name in rows.column_names]:
        if _is_extension(rows.schema.field(name).type):
            values = _values(rows, name)
            array = _inferred(name, [_image(name, value) for value in values] if name in images else values)
            rows = rows.set_column(rows.column_names.index(name), name, array)
    schema = unified_schema(wanted, {_SOURCE: rows.schema})
    names, labels = label_names(rows.schema), label_columns(wanted, {_SOURCE: rows.schema})
    cast = [
        named(rows[field.name], names[field.name]) if field.name in labels else _cast(rows[field.name], field)
        for field in schema
    ]
    return pa.table(cast, schema=schema).add_column(0, ID_COLUMN, pa.array(ids, pa.string()))


def _is_extension(type: pa.DataType) -> bool:
    return isinstance(type, pa.BaseExtensionType)


def without_extensions(rows: pa.Table) -> pa.Table:
    """The same values in Arrow's own types: tensors as lists of lists, Python objects as what they are.

    Raises:
        InputError: objects that Arrow has no type for.
    """
    for name in [field.name for field in rows.schema if _is_extension(field.type)]:
        array = _inferred(name, _values(rows, name))
        rows = rows.set_column(rows.column_names.index(name), name, array)
    return rows


def _inferred(name: str, values: list[Any]) -> pa.Array:
    try:
        if {str, bytes} <= set(map(type, values)):
            raise TypeError("Arrow would take the text for bytes")
        return pa.array([value.tolist() if isinstance(value, np.ndarray) else value for value in values])
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        kinds = ", ".join(dict.fromkeys(type(value).__name__ for value in values if value is not None))
        raise InputError(f"column {quoted(name)} holds Python objects ({printable(kinds)})") from None


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    try:
        cast = column.cast(field.type)
        cast.validate(full=True)  # text that is no text
    except pa.ArrowException as error:
        raise InputError(f"column {quoted(field.name)}: {printable(explain(error))}") from None
    return cast


def _image(name: str, value: Any) -> Any:
    """What Ray's `read_images` and functions over rows make of images, as encoded bytes; all else as it is."""
    if isinstance(value, list | tuple):
        return [_image(name, each) for each in value]
    if isinstance(value, np.ndarray):
        value = _of_pixels(name, value)
    return _encoded(name, value) if isinstance(value, Image.Image) else value


def _of_pixels(name: str, pixels: np.ndarray[Any, Any]) -> Image.Image:
    is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in _BANDS)
    if pixels.dtype != np.uint8 or not is_image or not pixels.size:
        raise InputError(
            f"column {quoted(name)} holds an array of {printable(pixels.dtype)} {list(pixels.shape)}; "
            "expected uint8 [height, width] or [height, width, 1, 3 or 4]"
        )
    return Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def _encoded(name: str, image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    try:
        image.save(buffer, "PNG", compress_level=0)  # it is decoded at once
    except (OSError, ValueError, KeyError, SyntaxError) as error:
        what = printable(f"{type(error).__name__}: {error}")
        raise InputError(f"column {quoted(name)} holds an image that cannot be written: {what}") from None
    return buffer.getvalue()


def halves(rows: pa.Table, ids: Sequence[str]) -> Iterator[tuple[pa.Table, Sequence[str]]]:
    """So that what is wrong with one row is said of that row alone."""
    middle = rows.num_rows // 2
    for first, end in itertools.pairwise((0, middle, rows.num_rows)):
        yield rows.slice(first, end - first), ids[first:end]
