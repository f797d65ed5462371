"""What there is to read: files, row groups and columns, checked before anything heavy starts.

Reads Parquet footers, and of a folder of images the names. Knows no row and no Ray.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pyarrow as pa

from star_batch.config import Input
from star_batch.errors import ConfigError, InputError
from star_batch.inputs.columns import label_columns, unified_schema, wanted_columns
from star_batch.inputs.discover import find_files, with_scheme
from star_batch.inputs.listing import list_images
from star_batch.inputs.row_groups import Footer, read_footer
from star_batch.inputs.rows import (
    FOLDER_COLUMN,
    ID_COLUMN,
    QUESTION_COLUMN,
    Group,
    ImageFiles,
    InputPlan,
    RowGroup,
    distinct,
    in_threads,
    read_rows,
)
from star_batch.storage.location import Location, scheme_of
from star_batch.wording import printable

__all__ = [
    "FOLDER_COLUMN",
    "ID_COLUMN",
    "QUESTION_COLUMN",
    "Group",
    "ImageFiles",
    "InputPlan",
    "RowGroup",
    "distinct",
    "plan_input",
    "read_rows",
]

_NAMES_PER_GROUP = 1024

logger = logging.getLogger(__name__)


def plan_input(config: Input, output: Location | None = None) -> InputPlan:
    """Find the files, read their footers, and check the columns.

    Args:
        output: the job's own, whose answers are left out where they are below a folder of the input.

    Raises:
        InputError: nothing there, not Parquet, no rows, or a column is missing or of a wrong type.
        ConfigError: the prompt template, a kept column's name or one of the image roots cannot work.
    """
    if config.kind == "openai":
        raise ConfigError("input.kind openai: requests become rows when their job runs; with limit it runs on a few")
    for root in config.image_roots or ():
        Location.of(root)
    return _plan_images(config, output) if config.kind == "images" else _plan_parquet(config, output)


def _plan_parquet(config: Input, output: Location | None) -> InputPlan:
    wanted = wanted_columns(config)
    root, files = find_files(_locations(config), output)
    columns = list(dict.fromkeys(column.column for column in wanted))
    found = in_threads(lambda file: read_footer(root, file, columns), list(files.values()))
    footers = _with_rows(dict(zip(files, found, strict=True)), root)
    fan = len(config.asked)
    groups = [group for name, footer in footers.items() for group in _row_groups(name, files[name], footer, fan)]
    schemas = {name: footer.schema for name, footer in footers.items()}
    return InputPlan(
        root=root,
        schema=unified_schema(wanted, schemas),
        labels=label_columns(wanted, schemas),
        id_column=config.id_column,
        row_groups=tuple(_limited(groups, config.limit)),
        questions=tuple(config.questions or ()),
    )


def _with_rows(footers: dict[str, Footer], root: Location) -> dict[str, Footer]:
    """Without files that hold nothing, whose columns may be anything, or none."""
    filled = {name: footer for name, footer in footers.items() if any(footer.rows)}
    shown = printable(root.shown)
    if not filled:
        raise InputError(f"{shown}: {len(footers)} Parquet files without a single row")
    if empty := footers.keys() - filled.keys():
        logger.info("%s: left out, as files without rows: %s", shown, f"{len(empty):,}")
    return filled


def _plan_images(config: Input, output: Location | None) -> InputPlan:
    if columns := [name for wanted in wanted_columns(config) if (name := wanted.column) != config.image_column]:
        raise ConfigError(f"prompt: {{{columns[0]}}} names a column, and a folder of images has none")
    locations = _locations(config)
    folder = os.path.commonpath([place.path for place in locations])
    root = replace(locations[0], url=with_scheme(folder, locations[0]))
    names = list_images(locations, folder, output).slice(0, config.limit).combine_chunks()
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


def _locations(config: Input) -> list[Location]:
    locations = [Location.of(path, config.storage_options, retry_seconds=config.retry_seconds) for path in config.paths]
    if len({scheme_of(location.url) for location in locations}) != 1:
        raise ConfigError("input.path: all paths must be on the same file system")
    return locations


def _row_groups(name: str, path: str, footer: Footer, fan: int) -> Iterator[RowGroup]:
    first = 0
    for index, (rows, largest) in enumerate(zip(footer.rows, footer.largest, strict=True)):
        if rows:
            yield RowGroup(path=path, name=name, index=index, first_row=first, num_rows=rows, fan=fan, largest=largest)
        first += rows


def _limited(groups: Iterable[RowGroup], limit: int | None) -> Iterator[RowGroup]:
    for group in groups:
        rows = group.num_rows if limit is None else min(group.num_rows, limit)
        if rows:
            yield replace(group, num_rows=rows)
        limit = None if limit is None else limit - rows
