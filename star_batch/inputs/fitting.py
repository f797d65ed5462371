"""Rows of a file with the columns and the types that a job's plan has. Knows no file, and names rows by their place.

Numbers that have names become these, lists of bytes bytes, and text that is not UTF-8 has its odd bytes spelt out.
"""

from collections.abc import Mapping

import pyarrow as pa

from star_batch.inputs.byte_lists import as_images
from star_batch.inputs.labels import named
from star_batch.storage.location import explain
from star_batch.wording import printable


class Misfit(Exception):
    """The value of a row does not fit the type of its column."""

    def __init__(self, row: int, why: str) -> None:
        super().__init__(why)
        self.row = row


def fitted(table: pa.Table, schema: pa.Schema, names: Mapping[str, pa.LargeStringArray]) -> pa.Table:
    """The columns of `schema`; `names` are of numbers, by column.

    Raises:
        Misfit: a value is none of its column's type.
    """
    return pa.table([_fitted(table[field.name], field, names.get(field.name)) for field in schema], schema=schema)


def _fitted(values: pa.ChunkedArray, field: pa.Field, names: pa.LargeStringArray | None) -> pa.ChunkedArray:
    if names is not None and pa.types.is_large_string(field.type):
        return named(values, names)
    values = as_images(values, field.type)
    try:
        return _decodable(values.cast(field.type))
    except pa.ArrowException as error:
        why = (
            f"column '{printable(field.name)}': cannot be read as {printable(field.type)}: {printable(explain(error))}"
        )
        raise Misfit(_first_misfit(values, field.type), why) from None


def _decodable(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text that is not UTF-8 has its odd bytes spelt out (`caf\\xe9`), as Python could not read it at all."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        if not pa.types.is_large_string(values.type):
            raise
        found = values.cast(pa.large_binary()).to_pylist()
        spelt = [text if text is None else text.decode("utf-8", "backslashreplace") for text in found]
        return pa.chunked_array([pa.array(spelt, values.type)])
    return values


def _first_misfit(values: pa.ChunkedArray, type: pa.DataType) -> int:
    good, bad = 0, len(values)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            _decodable(values.slice(good, middle - good).cast(type))
            good = middle
        except pa.ArrowException:
            bad = middle
    return good
