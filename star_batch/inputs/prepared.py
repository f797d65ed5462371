"""Rows between the preprocessing and the engine: their schema, and how they become records. Decodes nothing."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from star_batch.config import Input
from star_batch.errors import ConfigError
from star_batch.records import ANSWER_SCHEMA, Picture, Record
from star_batch.wording import quoted

KEPT = "keep:"
"""Begins the names of carried columns between the stages, where they cannot clash."""

_WORDS = ["id", "prompt", "max_new_tokens", "temperature", "top_p", "seed", "stop", "choices"]

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


def kept_fields(schema: pa.Schema, columns: Sequence[str]) -> list[pa.Field]:
    """The fields of carried columns under the names they have between the stages, where they cannot clash."""
    return [schema.field(name).with_name(KEPT + name) for name in columns]


def kept_names(input: Input) -> Mapping[str, str]:
    """Under which name each carried column stands among the answers.

    Raises:
        ConfigError: two of them would have the same.
    """
    own = frozenset(ANSWER_SCHEMA.names)
    names = {name: f"{input.keep_prefix}{name}" if name in own else name for name in input.keep_columns}
    for column, name in names.items():
        if name in own or (name != column and name in names):
            raise ConfigError(
                f"keep_columns: {quoted(column)} would be carried as {quoted(name)}, and there is such a column: "
                "give another keep_prefix"
            )
    return names


def to_records(rows: pa.Table, input: Input, with_kept: Callable[[str], bool] = lambda id: False) -> list[Record]:
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
            raw=input.raw_prompt,
            system=input.system,
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
