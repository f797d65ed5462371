"""Which input formats there are, and what each means for a job's options. Imports none of them.

A new format is a file in `star_batch/inputs/` and a line here; somebody's own package calls `register_format` of
`star_batch.inputs` from a plugin (`star_batch.plugins`).
"""

from dataclasses import dataclass

from star_batch.plugins import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What `input.kind` may be.

    `format` is the class that reads it, or where that is, as `module:Class`: it is imported when it is asked for.
    `has_columns`: options may name columns. `asks`: the job says what is asked; otherwise the records do.
    """

    format: type | str
    has_columns: bool = False
    asks: bool = True


KINDS: Registry[Kind] = Registry(
    "input format",
    {
        "parquet": Kind(format="star_batch.inputs.parquet:Parquet", has_columns=True),
        "arrow": Kind(format="star_batch.inputs.arrow:Arrow", has_columns=True),
        "images": Kind(format="star_batch.inputs.images:Images"),
        "webdataset": Kind(format="star_batch.inputs.webdataset:WebDataset", has_columns=True),
        "lines": Kind(format="star_batch.inputs.lines:Lines", has_columns=True),
        "llava": Kind(format="star_batch.inputs.llava_json:Conversations", has_columns=True),
        "openai": Kind(format="star_batch.inputs.openai:OpenAI", asks=False),
    },
)
"""The formats by their names."""
