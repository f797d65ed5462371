"""What there is to read: files, row groups, columns and ids, checked before anything heavy starts.

Reads Parquet footers and, where ids are given or some rows are done, the id column; of a folder of images the
names. Knows no Ray.

A derived id is `<file>#<row>`: the file's name below the input's root and the row's number in it, so that
it does not depend on how a read is split and a person can find the row again. An image's is its name below the root.
Where several questions are asked, each row is there once for each of them, as `<id>#<question>`.
"""

import contextlib
import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from star_batch.config import Input
from star_batch.errors import ConfigError, InputError
from star_batch.pipeline.digests import Digests, Mask, digest_ids, is_repeated, joined
from star_batch.pipeline.listing import list_images
from star_batch.pipeline.storage import Location, explain, failing_as, scheme_of
from star_batch.pipeline.template import Template
from star_batch.records import ANSWER_SCHEMA
from star_batch.storage.parquet import ExtensionRefused, open_parquet

ID_COLUMN = "star_batch:id"
"""The column of ids in every table that this package reads; always text, never null."""

QUESTION_COLUMN = "star_batch:question"
"""The name of the question that a row asks, where there are several."""

FOLDER_COLUMN = "star_batch:folder"
"""The folder of the Parquet file that a row is from: rows may name the files that are there."""

_SUFFIXES = (".parquet", ".pq", ".parq")
_FOOTER_THREADS = 16
_ROWS_PER_READ = 1024
_NAMES_PER_GROUP = 1024
_NUM_SHOWN = 3

S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """`num_rows` rows of the input, each asked `fan` questions; of these only the positions in `wanted`, if given."""

    num_rows: int
    fan: int
    wanted: pa.Int64Array | None = None

    def __len__(self) -> int:
        return self.num_rows * self.fan if self.wanted is None else len(self.wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup(_Rows):
    """The first rows of one row group; `first_row` is the number in the file of the group's first."""

    path: str
    name: str
    index: int
    first_row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles(_Rows):
    """The first of some images, by their names below the root."""

    names: pa.LargeStringArray


Group: TypeAlias = RowGroup | ImageFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class InputPlan:
    """Row groups to read with the columns that the job needs, cast to one `schema` for all files; or image files."""

    root: Location
    schema: pa.Schema
    id_column: str | None
    row_groups: tuple[Group, ...]
    questions: tuple[str, ...] = ()

    @property
    def num_rows(self) -> int:
        return sum(len(group) for group in self.row_groups)

    @property
    def num_files(self) -> int:
        images = sum(group.num_rows for group in self.row_groups if isinstance(group, ImageFiles))
        return images + len({group.path for group in self.row_groups if isinstance(group, RowGroup)})

    def ids(self) -> pa.ChunkedArray:
        """The id of every row, one chunk per row group.

        Raises:
            InputError: the id column cannot be read.
        """
        return pa.chunked_array(_in_threads(self._group_ids, self.row_groups), type=pa.string())

    def _group_ids(self, group: Group) -> pa.StringArray:
        if self.id_column is None:
            return _take(_asked_ids(self, _derived_ids(group, 0, group.num_rows)), group, 0)
        tables = list(read_rows(self, group, columns=[self.id_column]))
        return pa.chunked_array([table[ID_COLUMN] for table in tables], type=pa.string()).combine_chunks()

    def digests(self) -> Digests:
        """What `ids` gives, as digests: the ids of a row group at a time are in memory.

        Raises:
            InputError: the id column cannot be read.
        """
        return joined(_in_threads(lambda group: digest_ids(self._group_ids(group).to_pylist()), self.row_groups))

    def only(self, is_wanted: Mask) -> "InputPlan":
        """The same plan with these of its rows: the images of others are never read."""
        groups, offset = [], 0
        for group in self.row_groups:
            positions = np.flatnonzero(is_wanted[offset : offset + len(group)])
            groups.append(_narrowed(group, pa.array(positions, pa.int64())))
            offset += len(group)
        return replace(self, row_groups=tuple(group for group in groups if len(group)))


def distinct(plan: InputPlan, duplicates: Literal["refuse", "first"]) -> tuple[InputPlan, Digests]:
    """A plan in which no id stands twice, with its ids. Derived ids never do.

    Raises:
        InputError: an id stands in several rows, and that is to be refused.
    """
    digests = plan.digests()
    repeated = is_repeated(digests) if plan.id_column is not None else np.zeros(len(digests), np.bool_)
    if not repeated.any():
        return plan, digests
    if duplicates == "refuse":
        names = _listed(sorted(set(plan.only(repeated).ids().to_pylist())))
        number = len(np.unique(digests[repeated]))
        raise InputError(
            f"column {plan.id_column!r}: {number} ids stand in several rows: {names}; "
            "make them distinct, or say duplicates: first"
        )
    return plan.only(~repeated), digests[~repeated]


def plan_input(config: Input) -> InputPlan:
    """Find the files, read their footers, and check the columns.

    Raises:
        InputError: nothing there, not Parquet, no rows, or a column is missing or of a wrong type.
        ConfigError: the prompt template, a kept column's name or one of the image roots cannot work.
    """
    if config.kind == "openai":
        raise ConfigError("input.kind openai: requests become rows when their job runs; with limit it runs on a few")
    for root in config.image_roots or ():
        Location.of(root)
    return _plan_images(config) if config.kind == "images" else _plan_parquet(config)


def _plan_parquet(config: Input) -> InputPlan:
    wanted = _wanted_columns(config)
    root, files = _find_files(config)
    footers = _in_threads(lambda file: _read_footer(root, file), list(files.values()))
    schema = _unified_schema(wanted, dict(zip(files, (footer.schema for footer in footers), strict=True)))
    fan = len(config.asked)
    pairs = zip(files, footers, strict=True)
    groups = [group for name, footer in pairs for group in _row_groups(name, files[name], footer, fan)]
    plan = InputPlan(
        root=root,
        schema=schema,
        id_column=config.id_column,
        row_groups=tuple(_limited(groups, config.limit)),
        questions=tuple(config.questions or ()),
    )
    if not plan.num_rows:
        raise InputError(f"{root.shown}: {len(files)} Parquet files without a single row")
    return plan


def _plan_images(config: Input) -> InputPlan:
    if columns := [name for wanted in _wanted_columns(config) if (name := wanted.column) != config.image_column]:
        raise ConfigError(f"prompt: {{{columns[0]}}} names a column, and a folder of images has none")
    locations = _locations(config)
    folder = os.path.commonpath([place.path for place in locations])
    root = replace(locations[0], url=_with_scheme(folder, locations[0]))
    names = list_images(locations, folder).slice(0, config.limit).combine_chunks()
    starts = range(0, len(names), _NAMES_PER_GROUP)
    # Copied: a slice would take all of the names along to wherever it is sent.
    parts = [pa.concat_arrays([names.slice(start, _NAMES_PER_GROUP), names[:0]]) for start in starts]
    fan = len(config.asked)
    return InputPlan(
        root=root,
        schema=pa.schema([(config.image_column, pa.large_string())]),
        id_column=None,
        row_groups=tuple(ImageFiles(num_rows=len(part), fan=fan, names=part) for part in parts),
        questions=tuple(config.questions or ()),
    )


def read_rows(
    plan: InputPlan,
    group: Group,
    columns: Sequence[str] | None = None,
    rows_per_table: int = _ROWS_PER_READ,
) -> Iterator[pa.Table]:
    """The wanted rows of one row group, in order, in small tables: `ID_COLUMN`, then the plan's columns.

    Raises:
        InputError: the file cannot be read, or is broken there.
    """
    schema = plan.schema if columns is None else pa.schema([plan.schema.field(name) for name in columns])
    offset, size = 0, -(-rows_per_table // group.fan)
    tables = (
        _read_names(group, schema, size) if isinstance(group, ImageFiles) else _read_parquet(plan, group, schema, size)
    )
    for table in tables:
        asked = _asked(plan, table.add_column(0, ID_COLUMN, _ids(plan, group, offset, table)))
        wanted = _take(asked, group, offset * group.fan)
        offset += table.num_rows
        if wanted.num_rows:
            yield wanted if columns is not None else _with_folder(plan, group, wanted)


def _with_folder(plan: InputPlan, group: Group, rows: pa.Table) -> pa.Table:
    if isinstance(group, ImageFiles):
        return rows
    folder = _with_scheme(os.path.dirname(group.path), plan.root)
    return rows.append_column(FOLDER_COLUMN, pa.repeat(pa.scalar(folder, pa.string()), rows.num_rows))


def _read_parquet(plan: InputPlan, group: RowGroup, schema: pa.Schema, rows_per_table: int) -> Iterator[pa.Table]:
    left = group.num_rows
    with _reading(plan.root, group.path), plan.root.open_file(group.path) as file:
        batches = open_parquet(file).iter_batches(
            batch_size=rows_per_table, row_groups=[group.index], columns=schema.names
        )
        for batch in batches:
            if left <= 0:
                return
            yield pa.Table.from_batches([batch.slice(0, left)]).select(schema.names).cast(schema)
            left -= batch.num_rows


def _read_names(group: ImageFiles, schema: pa.Schema, rows_per_table: int) -> Iterator[pa.Table]:
    for start in range(0, group.num_rows, rows_per_table):
        yield pa.table([group.names.slice(start, rows_per_table)], schema=schema)


def _asked(plan: InputPlan, table: pa.Table) -> pa.Table:
    """A row for each question about each row."""
    if not plan.questions:
        return table
    fan = len(plan.questions)
    rows = table.take(pa.array(np.repeat(np.arange(table.num_rows), fan)))
    names = pa.array(list(plan.questions) * table.num_rows, pa.string())
    rows = rows.set_column(0, ID_COLUMN, _asked_ids(plan, table[ID_COLUMN].combine_chunks()))
    return rows.append_column(QUESTION_COLUMN, names)


def _asked_ids(plan: InputPlan, ids: pa.StringArray) -> pa.StringArray:
    if not plan.questions:
        return ids
    repeated = ids.take(pa.array(np.repeat(np.arange(len(ids)), len(plan.questions))))
    return pc.binary_join_element_wise(repeated, pa.array(list(plan.questions) * len(ids), pa.string()), "#")


def _ids(plan: InputPlan, group: Group, offset: int, table: pa.Table) -> pa.Array | pa.ChunkedArray:
    derived = _derived_ids(group, offset, table.num_rows)
    if plan.id_column is None or plan.id_column not in table.column_names:
        return derived
    # A row without an id becomes an error row, which needs a name of its own.
    return pc.coalesce(table[plan.id_column].cast(pa.string()), derived)


def _derived_ids(group: Group, offset: int, num_rows: int) -> pa.StringArray:
    if isinstance(group, ImageFiles):
        return group.names.slice(offset, num_rows).cast(pa.string())
    first = group.first_row + offset
    numbers = pa.array(range(first, first + num_rows), pa.int64()).cast(pa.string())
    return pc.binary_join_element_wise(group.name, numbers, "#")


def _take(rows: Any, group: Group, offset: int) -> Any:
    """Of an array or a table that starts at `offset`, the wanted rows."""
    if group.wanted is None:
        return rows
    inside = pc.and_(pc.greater_equal(group.wanted, offset), pc.less(group.wanted, offset + len(rows)))
    return rows.take(pc.subtract(group.wanted.filter(inside), offset))


def _narrowed(group: Group, positions: pa.Int64Array) -> Group:
    if len(positions) == len(group):
        return group
    return replace(group, wanted=positions if group.wanted is None else group.wanted.take(positions))


# Files


def _find_files(config: Input) -> tuple[Location, dict[str, str]]:
    """The folder that names are relative to, and the files below it: name -> path."""
    locations = _locations(config)
    found = [_expand(location) for location in locations]
    root = os.path.commonpath([folder for folder, _ in found])
    paths = sorted({path for _, below in found for path in below})
    return replace(locations[0], url=_with_scheme(root, locations[0])), {
        os.path.relpath(path, root): path for path in paths
    }


def _locations(config: Input) -> list[Location]:
    locations = [Location.of(path, config.storage_options, retry_seconds=config.retry_seconds) for path in config.paths]
    if len({scheme_of(location.url) for location in locations}) != 1:
        raise ConfigError("input.path: all paths must be on the same file system")
    return locations


def _expand(location: Location) -> tuple[str, list[str]]:
    """A file, a folder or a glob: the folder that does not depend on what is found, and the files."""
    with failing_as(InputError, "read the input", location):
        path = location.path
        if _has_wildcard(path):
            folder, found = _fixed_part(path), location.patiently(lambda: location.fs.glob(path))
        elif location.is_folder():
            folder, found = path, location.patiently(lambda: location.fs.find(path))
        else:
            location.patiently(lambda: location.fs.info(path))
            return os.path.dirname(path), [path]
    files = [str(file) for file in found if _is_data_file(os.path.relpath(file, folder))]
    if not files:
        raise InputError(f"{location.shown}: no Parquet files there")
    return folder, files


def _has_wildcard(path: str) -> bool:
    return any(mark in path for mark in "*?[")


def _fixed_part(pattern: str) -> str:
    parts = pattern.split("/")
    return "/".join(parts[: next(index for index, part in enumerate(parts) if _has_wildcard(part))])


def _is_data_file(name: str) -> bool:
    is_hidden = any(part.startswith(("_", ".")) for part in name.split("/"))
    return name.endswith(_SUFFIXES) and not is_hidden


def _with_scheme(path: str, like: Location) -> str:
    return path if like.is_local else f"{scheme_of(like.url)}://{path}"


@dataclass(frozen=True, slots=True)
class _Footer:
    schema: pa.Schema
    rows: tuple[int, ...]
    """Of each row group."""


def _read_footer(root: Location, path: str) -> _Footer:
    with _reading(root, path), root.open_file(path) as file:
        parquet = open_parquet(file)
        groups = range(parquet.num_row_groups)
        return _Footer(parquet.schema_arrow, tuple(parquet.metadata.row_group(index).num_rows for index in groups))


def _row_groups(name: str, path: str, footer: _Footer, fan: int) -> Iterator[RowGroup]:
    first = 0
    for index, rows in enumerate(footer.rows):
        if rows:
            yield RowGroup(path=path, name=name, index=index, first_row=first, num_rows=rows, fan=fan)
        first += rows


def _limited(groups: Iterable[RowGroup], limit: int | None) -> Iterator[RowGroup]:
    for group in groups:
        rows = group.num_rows if limit is None else min(group.num_rows, limit)
        if rows:
            yield replace(group, num_rows=rows)
        limit = None if limit is None else limit - rows


@contextlib.contextmanager
def _reading(root: Location, path: str) -> Iterator[None]:
    file = replace(root, url=_with_scheme(path, root))
    try:
        with failing_as(InputError, "read", file):
            yield
    except ExtensionRefused as error:
        raise InputError(f"{file.shown}: {error}") from None
    except pa.ArrowException as error:
        raise InputError(f"{file.shown}: is not a readable Parquet file: {explain(error, root.options)}") from None


def _in_threads(work: Callable[[S], R], items: Sequence[S]) -> list[R]:
    with ThreadPoolExecutor(_FOOTER_THREADS) as threads:
        return list(threads.map(work, items))


# Columns


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A column, the option that names it, and what type it may have."""

    column: str
    option: str
    expected: str
    accepts: Callable[[pa.DataType], bool]


def _wanted_columns(config: Input) -> list[_Wanted]:
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
        *((_check_kept(column), "keep_columns", "anything", _is_anything) for column in config.keep_columns),
    ]
    return [_Wanted(column, *rest) for column, *rest in named if column is not None]


def _check_kept(column: str) -> str:
    if column in ANSWER_SCHEMA.names:
        raise ConfigError(f"keep_columns: {column!r} is the name of a column of the answers; rename it in the input")
    return column


def _unified_schema(wanted: Sequence[_Wanted], schemas: Mapping[str, pa.Schema]) -> pa.Schema:
    for name, schema in schemas.items():
        _check_present(wanted, name, schema)
    columns = list(dict.fromkeys(column.column for column in wanted))
    parts = [pa.schema([(c, _normal(schema.field(c).type)) for c in columns]) for schema in schemas.values()]
    try:
        unified = pa.unify_schemas(parts, promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(f"the files' columns have types that do not go together: {explain(error)}") from None
    for column in wanted:
        _check_type(column, unified.field(column.column).type)
    return pa.schema([(field.name, _never_null(field.type)) for field in unified])


def _check_present(wanted: Sequence[_Wanted], name: str, schema: pa.Schema) -> None:
    for column in wanted:
        if column.column not in schema.names:
            near = difflib.get_close_matches(column.column, schema.names, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            there = ", ".join(schema.names)
            raise InputError(f"{name}: no column {column.column!r} for {column.option}{hint}; columns: {there}")


def _check_type(column: _Wanted, type: pa.DataType) -> None:
    if not (pa.types.is_null(type) or column.accepts(type)):
        raise InputError(f"column {column.column!r} for {column.option} holds {type}; expected {column.expected}")


def _normal(type: pa.DataType) -> pa.DataType:
    """One type for all the ways Arrow has to say the same, with 64-bit offsets."""
    if pa.types.is_dictionary(type):
        return _normal(type.value_type)
    if _is_text(type):
        return pa.large_string()
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
    """Bytes, a path, or the pair of both that Hugging Face's datasets write."""
    if pa.types.is_struct(type):
        return {field.name for field in type} == {"bytes", "path"}
    return _is_binary(type) or _is_text(type)


def _is_image_or_list(type: pa.DataType) -> bool:
    return _is_image(type.value_type if _is_list(type) else type)


def _is_text_list(type: pa.DataType) -> bool:
    return _is_list(type) and _is_text(type.value_type)


def _is_list(type: pa.DataType) -> bool:
    return bool(pa.types.is_list(type) or pa.types.is_large_list(type))


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


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NUM_SHOWN])
    return f"{shown}, ..." if len(names) > _NUM_SHOWN else shown
