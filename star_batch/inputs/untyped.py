"""Columns of formats that declare no types: each has the type that the options which name it want, and is text else.

So a type is never guessed from some first rows. What does not fit is an error of its row. Knows no file.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa

from star_batch.config import Input
from star_batch.errors import RecordError, ValueInvalid
from star_batch.inputs.columns import unified_schema, wanted_columns
from star_batch.inputs.pieces import PROBLEM, PROBLEM_COLUMN
from star_batch.openai.lines import is_dense
from star_batch.wording import quoted

Row: TypeAlias = tuple[Mapping[str, Any], RecordError | None]
"""Plain values by column, and what is wrong with them."""

UNWANTED: Row = ({}, None)
"""Stands for a row that nobody wants."""

_TEXTS = pa.list_(pa.large_string())
_TYPES: Mapping[str, pa.DataType] = {
    "max_new_tokens_column": pa.int64(),
    "choices_column": _TEXTS,
    "decoding_column": pa.struct(
        [
            ("max_new_tokens", pa.int64()),
            ("temperature", pa.float64()),
            ("top_p", pa.float64()),
            ("seed", pa.int64()),
            ("stop", _TEXTS),
        ]
    ),
}
"""By option. A column of two types has that of the first option."""

_BITS = 63


def untyped_schema(config: Input, there: Mapping[str, Iterable[str]], image: pa.DataType) -> pa.Schema:
    """The columns that the job needs, with their types.

    Args:
        config: the input.
        there: the names of the columns that each file has.
        image: the type of the image column, if no other option needs it as text.

    Raises:
        InputError: a column is missing.
        ConfigError: the prompt template or a kept column's name cannot work.
    """
    wanted = wanted_columns(config)
    needs_text = {each.column for each in wanted if each.option not in ("image_column", "keep_columns")}
    types: dict[str, pa.DataType] = {}
    for each in wanted:
        if each.option in _TYPES:
            types.setdefault(each.column, _TYPES[each.option])
    if config.image_column not in needs_text or not pa.types.is_list(image):
        types[config.image_column] = image
    schemas = {
        file: pa.schema([(name, types.get(name, pa.large_string())) for name in names]) for file, names in there.items()
    }
    return unified_schema(wanted, schemas)


def to_tables(rows: Iterable[Row], schema: pa.Schema, *, most_rows: int, num_bytes: int) -> Iterator[pa.Table]:
    """The rows as `to_table` makes them, so many and about so many bytes at a time."""
    held: list[Row] = []
    size = 0
    for row in rows:
        held.append(row)
        size += sum(len(value) for value in row[0].values() if isinstance(value, bytes | str))
        if len(held) >= most_rows or size >= num_bytes:
            yield to_table(held, schema)
            held, size = [], 0
    if held:
        yield to_table(held, schema)


def to_table(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    """Rows of plain values, fitted to the types.

    A value that does not fit is null, and an error of its row if that has none yet; all others are there, as a row
    has the same id whatever is wrong with it.
    """
    values: dict[str, list[Any]] = {name: [] for name in schema.names}
    problems = []
    for row, error in rows:
        for field in schema:
            value, misfit = _fitted(row.get(field.name), field)
            values[field.name].append(value)
            error = error or misfit
        problems.append(None if error is None else {"kind": error.kind, "why": clean(str(error))})
    columns = [pa.array(values[field.name], field.type) for field in schema]
    return pa.table([*columns, pa.array(problems, PROBLEM)], schema=schema.append(pa.field(PROBLEM_COLUMN, PROBLEM)))


def clean(text: str) -> str:
    """Halves of surrogate pairs, which JSON may hold and UTF-8 may not, are spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()


def parse_json(text: bytes) -> Any:
    """What JSON says, as far as it is no trap for memory.

    Raises:
        ValueError: it is broken, too deep, or holds more values than any row has.
    """
    if is_dense(text):
        raise ValueError("it holds too many values")
    try:
        return json.loads(text.decode("utf-8", "backslashreplace"))
    except RecursionError:
        raise ValueError("it is too deep") from None


def _fitted(value: Any, field: pa.Field) -> tuple[Any, ValueInvalid | None]:
    try:
        return _fit(value, field.type), None
    except (_Misfit, ValueError, OverflowError, RecursionError):
        return None, ValueInvalid(f"column {quoted(field.name)}: {quoted(value, 60)} is not {_said(field.type)}")


class _Misfit(Exception):
    """A value does not fit."""


def _fit(value: Any, type: pa.DataType) -> Any:
    if value is None:
        return None
    return next(fit for is_so, fit in _FITS if is_so(type))(value, type)


def _text(value: Any, type: pa.DataType) -> str:
    return clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _bytes(value: Any, type: pa.DataType) -> bytes:
    if not isinstance(value, bytes):
        raise _Misfit
    return value


def _integer(value: Any, type: pa.DataType) -> int | None:
    if isinstance(value, str):
        if not value.strip():
            return None
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**_BITS) <= value < 2**_BITS:
        raise _Misfit
    return value


def _number(value: Any, type: pa.DataType) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) >= 2.0**_BITS:
        raise _Misfit
    return float(value)


def _list(value: Any, type: pa.DataType) -> list[Any] | None:
    if isinstance(value, str):
        value = _several(value)
    if value is None:
        return None
    if not isinstance(value, list) or not all(each is None or isinstance(each, str) for each in value):
        raise _Misfit
    return [_fit(each, type.value_type) for each in value]


def _several(text: str) -> list[Any] | None:
    """A text that stands where a list may: a list in JSON, one thing, or none."""
    if text.lstrip().startswith("["):
        with contextlib.suppress(ValueError):
            return list(parse_json(text.encode("utf-8", "backslashreplace")))
    return [text] if text.strip() else None


def _struct(value: Any, type: pa.DataType) -> dict[str, Any] | None:
    if isinstance(value, str):
        value = parse_json(value.encode("utf-8", "backslashreplace")) if value.strip() else None
    if value is None:
        return None
    if not isinstance(value, Mapping) or not value.keys() <= {field.name for field in type}:
        raise _Misfit
    return {field.name: _fit(value.get(field.name), field.type) for field in type}


_FITS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any, pa.DataType], Any]], ...] = (
    (pa.types.is_large_string, _text),
    (pa.types.is_large_binary, _bytes),
    (pa.types.is_integer, _integer),
    (pa.types.is_floating, _number),
    (pa.types.is_list, _list),
    (pa.types.is_struct, _struct),
)


def _said(type: pa.DataType) -> str:
    if pa.types.is_integer(type):
        return "a whole number"
    return "a list of text" if pa.types.is_list(type) else "what that column has to hold"
