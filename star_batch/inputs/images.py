"""A folder of image files: each is a row, and its id is its path below the folder. Opens no image; knows no Ray."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from star_batch.config import Input
from star_batch.errors import ConfigError
from star_batch.inputs.base import Format, places_of
from star_batch.inputs.columns import wanted_columns
from star_batch.inputs.listing import list_images
from star_batch.inputs.pieces import Piece
from star_batch.inputs.rows import InputPlan
from star_batch.storage.location import Location

_NAMES_PER_PIECE = 1024


class Images(Format):
    """Folders are listed; what is asked about each image is the same."""

    def plan(self, config: Input, output: Location | None = None) -> InputPlan:
        if columns := [name for wanted in wanted_columns(config) if (name := wanted.column) != config.image_column]:
            raise ConfigError(f"prompt: {{{columns[0]}}} names a column, and a folder of images has none")
        places = places_of(config)
        folder = os.path.commonpath([place.path for place in places])
        root = places[0].at_path(folder)
        names = list_images(places, folder, output).slice(0, config.limit).combine_chunks()
        starts = range(0, len(names), _NAMES_PER_PIECE)
        # Copied: a slice would take all of the names along to wherever it is sent.
        parts = [pa.concat_arrays([names.slice(start, _NAMES_PER_PIECE), names[:0]]) for start in starts]
        fan = len(config.asked)
        return InputPlan(
            root=root,
            schema=pa.schema([(config.image_column, pa.large_string())]),
            only_names=True,
            pieces=tuple(ImageFiles(num_rows=len(part), fan=fan, names=part) for part in parts),
            questions=tuple(config.questions or ()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles(Piece):
    """The first of some images, by their names below the root."""

    names: pa.LargeStringArray

    def derived_ids(self, first: int, num_rows: int) -> pa.StringArray:
        return self.names.slice(first, num_rows).cast(pa.string())

    def tables(self, root: Location, schema: pa.Schema, *, most_rows: int, num_bytes: int) -> Iterator[pa.Table]:
        for start in range(0, self.num_rows, most_rows):
            yield pa.table([self.names.slice(start, most_rows)], schema=schema)
