"""The protocol of an input format, and which formats there are. Knows none of them but by name.

A new format is one file that says what is there and reads it in pieces, and one line: in `star_batch.config.kinds` for
one of ours, or `register_format(...)` in a plugin (`star_batch.plugins`) for one of yours.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

from star_batch.commit.markers import Commit
from star_batch.config import Input, JobConfig
from star_batch.config.kinds import KINDS, Kind
from star_batch.errors import ConfigError
from star_batch.inputs.revisions import pinned
from star_batch.inputs.rows import InputPlan
from star_batch.storage.location import Location
from star_batch.storage.urls import scheme_of


class Format(ABC):
    """What `input.kind` stands for."""

    def stage(self, config: JobConfig) -> JobConfig:
        """The same job on an input that can be planned, where something has to be asked or written for that first.

        Raises:
            InputError: the input cannot be read.
            OutputError: the output, where it is written, cannot be written to.
        """
        return config.model_copy(update={"input": pinned(config.input)})

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


def register_format(name: str, format: type[Format], *, has_columns: bool = False, asks: bool = True) -> None:
    """Makes a format known as `input.kind`.

    Args:
        name: what a user writes.
        format: its class, which is made without arguments.
        has_columns: options may name columns.
        asks: the job says what is asked; otherwise the records do.

    Raises:
        ConfigError: the name is taken.
    """
    KINDS.register(name, Kind(format=format, has_columns=has_columns, asks=asks))


def format_of(config: Input) -> Format:
    """The format of an input."""
    given = KINDS[config.kind].format
    if isinstance(given, str):
        module, _, name = given.partition(":")
        given = getattr(importlib.import_module(module), name)
    format: Format = given()
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
