"""Columns that a file's folders name, as in `split=train/lang=de/0.parquet`: how Hive, Spark and others write tables.

Values are text, whatever they look like. Knows paths and schemas, and opens no file.
"""

import re
from collections.abc import Mapping
from urllib.parse import unquote

import pyarrow as pa

from star_batch.inputs.listing import as_text

_FOLDER = re.compile(r"([^=]+)=(.*)", re.DOTALL)
_NULL = "__HIVE_DEFAULT_PARTITION__"


def partitions(path: str) -> dict[str, str | None]:
    """Column -> value, of all folders of a file's path; of two of one name the deeper counts."""
    found = (_FOLDER.fullmatch(as_text(folder)) for folder in path.split("/")[:-1])
    return {_meant(each[1]): None if each[2] == _NULL else _meant(each[2]) for each in found if each is not None}


def with_columns(schema: pa.Schema, given: Mapping[str, object]) -> pa.Schema:
    """The schema and columns of text."""
    for name in given:
        schema = schema.append(pa.field(name, pa.large_string()))
    return schema


def _meant(text: str) -> str:
    """`%20` is a space; bytes that are no text stay as they are written."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text
