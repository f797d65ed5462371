"""Types of columns that readers of Parquet have in common; what some of them lack is written as what all have.

pandas, polars, DuckDB and Hugging Face's datasets read the answers. Some of them know no maps (here lists of pairs) and
no small decimals. Views of lists stay: Arrow's own cast of them is broken where one is null. Knows no file.
"""

from typing import Any

import pyarrow as pa

from star_batch.errors import InputError
from star_batch.records import ANSWER_SCHEMA
from star_batch.wording import printable

_MOST_DIGITS = 38


def readable_type(type: pa.DataType) -> pa.DataType:
    """The type that holds the same values, and that every reader knows."""
    types = pa.types
    if types.is_dictionary(type):
        return readable_type(type.value_type)
    if types.is_map(type):
        pair = [("key", readable_type(type.key_type)), ("value", readable_type(type.item_type))]
        return pa.list_(pa.struct(pair))
    if types.is_decimal(type):
        return pa.decimal128(type.precision, type.scale) if type.precision <= _MOST_DIGITS else type
    if types.is_struct(type):
        return pa.struct([_readable_field(field) for field in type])
    if types.is_fixed_size_list(type):
        return pa.list_(_readable_field(type.value_field), type.list_size)
    if types.is_large_list(type):
        return pa.large_list(_readable_field(type.value_field))
    if types.is_list(type):
        return pa.list_(_readable_field(type.value_field))
    return pa.large_string() if types.is_null(type) else type


def _readable_field(field: pa.Field) -> pa.Field:
    return field.with_type(readable_type(field.type))


def readable(table: pa.Table) -> pa.Table:
    """A table of answers, perhaps of an earlier version, in types that every reader knows; itself if it has no others.

    Raises:
        pa.ArrowException: a column is none of the answers'.
    """
    fields = [field.with_type(_type_of(field)) for field in table.schema]
    wanted = pa.schema(fields, table.schema.metadata)
    return table if wanted.equals(table.schema) else table.cast(wanted)


def _type_of(field: pa.Field) -> pa.DataType:
    is_ours = field.name in ANSWER_SCHEMA.names
    return ANSWER_SCHEMA.field(field.name).type if is_ours else readable_type(field.type)


def to_python(column: pa.ChunkedArray) -> list[Any]:
    """Its values, or as text where Python has no such values: dates of the year 10000.

    Raises:
        InputError: nor as text, such as times of an unknown zone.
    """
    try:
        return list(column.to_pylist())
    except (OverflowError, ValueError, LookupError):
        pass
    try:
        return list(column.cast(pa.large_string()).to_pylist())
    except pa.ArrowException as error:
        raise InputError(f"values of type {printable(column.type)} cannot be read: {printable(error)}") from None
