"""Names for whole numbers: what Hugging Face's `datasets` calls a ClassLabel. Knows no file and no job.

They stand in the Parquet schema's metadata, which anybody may have written: what is not exactly as expected is no name.
"""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_KEY = b"huggingface"


def label_names(schema: pa.Schema) -> dict[str, pa.LargeStringArray]:
    """The names of every column of whole numbers that has some, in the order of the numbers."""
    given = {
        column: _names(feature)
        for column, feature in _features((schema.metadata or {}).get(_KEY, b"")).items()
        if schema.names.count(column) == 1 and pa.types.is_integer(schema.field(column).type)
    }
    return {column: names for column, names in given.items() if names is not None}


def named(numbers: pa.ChunkedArray, names: pa.LargeStringArray) -> pa.ChunkedArray:
    """The name of each number; null where there is none, as for -1, which means no label."""
    # What does not fit becomes negative.
    places = numbers.cast(pa.int64(), safe=False)
    is_named = pc.and_(pc.greater_equal(places, 0), pc.less(places, len(names)))
    return pc.take(names, pc.if_else(is_named, places, pa.scalar(None, pa.int64())))


def _features(metadata: bytes) -> Mapping[str, Any]:
    try:
        found: Any = json.loads(metadata)
    except (ValueError, RecursionError):
        return {}
    for key in ("info", "features"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _names(feature: Any) -> pa.LargeStringArray | None:
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return None
    names = feature.get("names")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return None
    try:
        return pa.array(names, pa.large_string())
    except (UnicodeEncodeError, pa.ArrowException):  # half of a surrogate pair, which JSON can spell
        return None
