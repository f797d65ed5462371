"""Which columns a job needs, and the one type that each of them has in all files. Knows schemas, and no file.

Columns that a job does not need may be as they like.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from star_batch.commit.readable import to_python
from star_batch.config import ALL_COLUMNS, Input
from star_batch.errors import InputError
from star_batch.inputs.byte_lists import image_type, is_list
from star_batch.inputs.labels import label_names
from star_batch.inputs.prepared import kept_names
from star_batch.inputs.prompts import Template
from star_batch.storage.location import explain
from star_batch.wording import printable

_NAMED = ("prompt_column", "reference_column", "prompt", "keep_columns")
"""Options whose columns hold words: numbers that have names become these."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A column, the option that names it, and what type it may have."""

    column: str
    option: str
    expected: str
    accepts: Callable[[pa.DataType], bool]


def wanted_columns(config: Input) -> list[Wanted]:
    """In the order of the options; a column that several name is there for each of them.

    Raises:
        ConfigError: the prompt template or a kept column's name cannot work.
    """
    questions = config.asked.values()
    template = dict.fromkeys(column for question in questions for column in Template.parse(question.prompt).columns)
    references = dict.fromkeys(question.reference_column for question in questions)
    named = [
        (config.id_column, "id_column", "text or whole numbers", _is_text_or_int),
        (config.image_column, "image_column", "bytes, paths or URIs, or lists of them", _is_image_or_list),
        (config.prompt_column, "prompt_column", "text", _is_text),
        (config.max_new_tokens_column, "max_new_tokens_column", "whole numbers", pa.types.is_integer),
        (config.choices_column, "choices_column", "lists of text", _is_text_list),
        (config.decoding_column, "decoding_column", f"a struct of {', '.join(_DECODING)}", _is_decoding),
        (config.refused_column, "refused_column", "text", _is_text),
        *((column, "reference_column", "text, numbers or booleans", _is_scalar) for column in references),
        *((column, "prompt", "text, numbers or booleans", _is_scalar) for column in template),
        *((column, "keep_columns", "anything", _is_anything) for column in config.keep_columns),
    ]
    kept_names(config)
    return [Wanted(column, *rest) for column, *rest in named if column is not None]


def with_kept_columns(config: Input, schema: pa.Schema) -> Input:
    """The same with each kept column by its name, where it says `*`; `schema` is that of the plan.

    Raises:
        ConfigError: two kept columns would have the same name among the answers.
    """
    if ALL_COLUMNS not in config.keep_columns:
        return config
    others = [field.name for field in schema if field.name != config.image_column and not _holds_bytes(field.type)]
    named = [name for name in config.keep_columns if name != ALL_COLUMNS]
    kept = config.model_copy(update={"keep_columns": tuple(dict.fromkeys([*named, *others]))})
    kept_names(kept)
    return kept


def _in_full(wanted: Sequence[Wanted], schemas: Mapping[str, pa.Schema]) -> list[Wanted]:
    """`*` among them stands for every column that is not wanted for its images and holds no bytes."""
    star = next((column for column in wanted if column.column == ALL_COLUMNS), None)
    if star is None or star.option != "keep_columns":
        return list(wanted)
    images = {column.column for column in wanted if column.option == "image_column"}
    fields = [field for schema in schemas.values() for field in schema if not _holds_bytes(field.type)]
    others = dict.fromkeys(field.name for field in fields if field.name not in images)
    return [
        *(column for column in wanted if column is not star),
        *(replace(star, column=name) for name in others),
    ]


def unified_schema(wanted: Sequence[Wanted], schemas: Mapping[str, pa.Schema]) -> pa.Schema:
    """The wanted columns with the one type that all files' values go into; numbers that have names are text.

    Raises:
        InputError: a column is missing, there twice, of a wrong type, or of types that do not go together.
    """
    wanted = _in_full(wanted, schemas)
    for name, schema in schemas.items():
        _check_present(wanted, name, schema)
    columns = list(dict.fromkeys(column.column for column in wanted))
    named = {name: label_names(schema) for name, schema in schemas.items()}
    unnamed = {column.column for column in wanted if column.option not in _NAMED}
    images = {column.column for column in wanted if column.option == "image_column"}
    found = {
        column: {
            name: pa.large_string()
            if column in named[name].keys() - unnamed
            else _read_as(schema.field(column).type, column in images)
            for name, schema in schemas.items()
        }
        for column in columns
    }
    types = {column: _unified(column, there) for column, there in found.items()}
    for column in wanted:
        _check_type(column, types[column.column])
    return pa.schema([(column, _never_null(type)) for column, type in types.items()])


def label_columns(wanted: Sequence[Wanted], schemas: Mapping[str, pa.Schema]) -> tuple[str, ...]:
    """Of the columns that `unified_schema` makes text, those whose numbers have names."""
    wanted = _in_full(wanted, schemas)
    may_have = {column.column for column in wanted if column.option in _NAMED}
    may_have -= {column.column for column in wanted if column.option not in _NAMED}
    return tuple(sorted(may_have & {name for schema in schemas.values() for name in label_names(schema)}))


def _check_present(wanted: Sequence[Wanted], name: str, schema: pa.Schema) -> None:
    for column in wanted:
        number = schema.names.count(column.column)
        if number > 1:
            raise InputError(
                f"{printable(name)}: {number} columns are called {column.column!r}, which {column.option} needs: "
                "write the file with one of them"
            )
        if not number:
            near = difflib.get_close_matches(column.column, schema.names, n=1)
            hint = f" (did you mean '{printable(near[0])}'?)" if near else ""
            there = printable(", ".join(schema.names))
            raise InputError(
                f"{printable(name)}: no column {column.column!r} for {column.option}{hint}; columns: {there}"
            )


def _read_as(type: pa.DataType, is_image: bool) -> pa.DataType:
    return image_type(type) if is_image else type


def _unified(column: str, there: Mapping[str, pa.DataType]) -> pa.DataType:
    """Of a column's type in each file."""
    first: dict[pa.DataType, str] = {}
    for name, type in there.items():
        first.setdefault(_normal(type), name)
    try:
        schemas = [pa.schema([(column, type)]) for type in first]
        return pa.unify_schemas(schemas, promote_options="permissive").field(column).type
    except pa.ArrowException as error:
        types = " and ".join(f"{type} in {name}" for type, name in list(first.items())[:2])
        raise InputError(
            f"column {column!r} has types that do not go together: {printable(types)}: {printable(explain(error))}"
        ) from None


def _check_type(column: Wanted, type: pa.DataType) -> None:
    if not (pa.types.is_null(type) or column.accepts(type)):
        raise InputError(
            f"column {column.column!r} for {column.option} holds {printable(type)}; expected {column.expected}"
        )
    if pa.types.is_timestamp(type) and column.option != "keep_columns":
        try:
            to_python(pa.chunked_array([pa.array([0], type)]))  # its time zone may be unknown
        except InputError as error:
            raise InputError(f"column {column.column!r} for {column.option}: {error}") from None
    if _has_twins(type):
        raise InputError(f"column {column.column!r} has two fields of one name: {printable(type)}")


def _has_twins(type: pa.DataType) -> bool:
    """Whether fields of one name are in a struct, which no dictionary can hold."""
    fields = [type.field(index) for index in range(type.num_fields)]
    is_struct = pa.types.is_struct(type)
    return (is_struct and len({field.name for field in fields}) < len(fields)) or any(
        _has_twins(field.type) for field in fields
    )


def _normal(type: pa.DataType) -> pa.DataType:
    """One type for all the ways Arrow has to say the same, with 64-bit offsets."""
    if pa.types.is_dictionary(type):
        return _normal(type.value_type)
    if _is_text(type):
        return pa.large_string()
    if pa.types.is_struct(type) and _is_image(type):
        return pa.struct([field.with_type(_normal(field.type)) for field in type])
    return pa.large_binary() if _is_binary(type) else type


def _never_null(type: pa.DataType) -> pa.DataType:
    return pa.large_string() if pa.types.is_null(type) else type


def _is_text(type: pa.DataType) -> bool:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_kind(type) for is_kind in kinds)


def _is_binary(type: pa.DataType) -> bool:
    types = pa.types
    kinds = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    return any(is_kind(type) for is_kind in kinds)


def _is_text_or_int(type: pa.DataType) -> bool:
    return _is_text(type) or bool(pa.types.is_integer(type))


def _is_scalar(type: pa.DataType) -> bool:
    return _is_text(type) or bool(pa.types.is_primitive(type) or pa.types.is_decimal(type))


def _is_image(type: pa.DataType) -> bool:
    """Bytes, a path, or a struct of `bytes` and perhaps a `path`, as Hugging Face's datasets write."""
    if pa.types.is_struct(type):
        return {"bytes"} <= {field.name for field in type} <= {"bytes", "path"}
    return _is_binary(type) or _is_text(type)


def _holds_bytes(type: pa.DataType) -> bool:
    """Whether it may be an image that is more than a name; or lists of such."""
    if is_list(type):
        return _holds_bytes(type.value_type)
    return _is_binary(type) or (pa.types.is_struct(type) and any(_holds_bytes(field.type) for field in type))


def _is_image_or_list(type: pa.DataType) -> bool:
    return _is_image(type.value_type if is_list(type) else type)


def _is_text_list(type: pa.DataType) -> bool:
    return is_list(type) and _is_text(type.value_type)


_DECODING: Mapping[str, Callable[[pa.DataType], bool]] = {
    "max_new_tokens": pa.types.is_integer,
    "temperature": lambda type: bool(pa.types.is_floating(type) or pa.types.is_integer(type)),
    "top_p": lambda type: bool(pa.types.is_floating(type) or pa.types.is_integer(type)),
    "seed": pa.types.is_integer,
    "stop": _is_text_list,
}


def _is_decoding(type: pa.DataType) -> bool:
    return pa.types.is_struct(type) and all(
        field.name in _DECODING and (pa.types.is_null(field.type) or _DECODING[field.name](field.type))
        for field in type
    )


def _is_anything(type: pa.DataType) -> bool:
    return True
