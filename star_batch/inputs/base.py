"""The protocol of an input format, and which formats there are. Knows none of them but by name.

A new format is one file here that says what is there and reads it in pieces, and one line in `FORMATS`. Somebody's own
package registers its format with `register_format`, from a `star_batch.plugins` entry point.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

from star_batch.commit.markers import Commit
from star_batch.config import Input, JobConfig
from star_batch.errors import ConfigError
from star_batch.inputs.rows import InputPlan
from star_batch.storage.location import Location
from star_batch.storage.urls import scheme_of


class Format(ABC):
    """What `input.kind` stands for."""

    def stage(self, config: JobConfig) -> JobConfig:
        """The same job on an input that can be planned, where something has to be written for that first.

        Raises:
            InputError: the input cannot be read.
            OutputError: the output, where it is written, cannot be written to.
        """
        return config

    @abstractmethod
    def plan(self, config: Input, output: Location | None = None) -> InputPlan:
        """Find what there is, checked before anything heavy starts: pieces, and the columns that the job needs.

        Args:
            config: the input, staged.
            output: the job's own, whose answers are left out where they are below a folder of the input.

        Raises:
            InputError: nothing there, not of this format, no rows, or a column is missing or of a wrong type.
            ConfigError: the prompt template or a column's name cannot work.
        """

    def write_results(self, output: Location, commits: Sequence[Commit]) -> None:
        """Write the answers that count once more, in the format's own way, if it has one."""
        return  # most have none


FORMATS: dict[str, str] = {
    "parquet": "star_batch.inputs.parquet:Parquet",
    "images": "star_batch.inputs.images:Images",
    "openai": "star_batch.inputs.openai:OpenAI",
}
"""`input.kind`, and the class that is imported when it is asked for."""


def format_of(config: Input) -> Format:
    """The format of an input."""
    module, _, name = FORMATS[config.kind].partition(":")
    format: Format = getattr(importlib.import_module(module), name)()
    return format


def plan_input(config: Input, output: Location | None = None) -> InputPlan:
    """Find what there is to read, and check the columns: see `Format.plan`.

    Raises:
        InputError, ConfigError: as there; or one of the image roots cannot work.
    """
    for root in config.image_roots or ():
        Location.of(root)
    return format_of(config).plan(config, output)


def places_of(config: Input) -> list[Location]:
    """The input's paths.

    Raises:
        ConfigError: they are on several file systems.
    """
    places = [Location.of(path, config.storage_options, retry_seconds=config.retry_seconds) for path in config.paths]
    if len({scheme_of(place.url) for place in places}) != 1:
        raise ConfigError("input.path: all paths must be on the same file system")
    return places
