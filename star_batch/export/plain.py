"""Values of Arrow's types as JSON and CSV have them. Knows no file and no column by name."""

import base64
import decimal
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from star_batch.commit.readable import to_python

_LINE_ENDS = {ord(char): f"\\u{ord(char):04x}" for char in "\u0085\u2028\u2029"}
"""Letters that JSON takes within a text, and that some readers take for the end of a line."""


def plain(value: Any) -> Any:
    """As JSON has it: bytes in base64, times by ISO 8601, decimals as text; what is not finite is null."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, decimal.Decimal):
        return str(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def rows_of(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Its rows, plain.

    Raises:
        InputError: values that neither Python nor a text can hold.
    """
    columns = [to_python(pa.chunked_array([column])) for column in batch.columns]
    for row in zip(*columns, strict=True):
        yield {name: plain(value) for name, value in zip(batch.schema.names, row, strict=True)}


def to_json(value: Any) -> str:
    """On one line, whatever it holds."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).translate(_LINE_ENDS)


def is_flat(type: pa.DataType) -> bool:
    """Whether CSV can say it as it is."""
    types = pa.types
    kinds = (types.is_boolean, types.is_integer, types.is_floating, types.is_string, types.is_large_string)
    return any(is_kind(type) for is_kind in kinds)


def flattened(column: pa.Array) -> pa.Array:
    """A column that CSV can say: nested values as JSON, others that are neither number nor text as such text."""
    if is_flat(column.type):
        return column.cast(pa.float64()) if pa.types.is_float16(column.type) else column
    values = (plain(value) for value in to_python(pa.chunked_array([column])))
    texts = [value if value is None or isinstance(value, str) else to_json(value) for value in values]
    return pa.array(texts, pa.large_string())
