"""One export of an output, or those that a finished job asks for. Knows no Ray and no engine.

A job's exports are made after `_SUCCESS`, as they are derived: one that fails is said so, leaves the job finished, and
is made by the same command again.
"""

import json
import logging
from collections.abc import Sequence
from typing import Any

from star_batch.commit.answers import visible_rows
from star_batch.commit.layout import EXPORTS, METRICS, read_run
from star_batch.commit.snapshots import completed
from star_batch.config import ExportFormat, Input
from star_batch.errors import ConfigError, InputError, OutputError
from star_batch.export.dataset import write_dataset
from star_batch.export.images import Illustrator
from star_batch.export.labels import labels_of
from star_batch.export.lines import write_csv, write_jsonl
from star_batch.export.webdataset import write_webdataset
from star_batch.storage.location import Location, failing_as
from star_batch.wording import printable

logger = logging.getLogger(__name__)

_RECORD = "exports.json"


def export(output: Location, format: ExportFormat, to: Location | None = None, input: Input | None = None) -> int:
    """Write the rows that are visible now in another form; how many they are.

    Args:
        output: A job's, finished or not.
        format: `webdataset` has answered rows alone, each with its image.
        to: A file for JSON Lines and CSV, else a folder; None is a place of its own in the output.
        input: Where the images are, for `webdataset`.

    Raises:
        OutputError: the output cannot be read, or the place not be written to.
        InputError: the images are not there any more.
    """
    _check_place(output, to)
    with failing_as(OutputError, "read the output", output):
        epoch = completed(output)
    count = _written(output, format, to or output.at(EXPORTS[format]), input)
    if to is None:
        with failing_as(OutputError, "write the export", output):
            _note(output, format, epoch)
    return count


def export_finished(output: Location, formats: Sequence[ExportFormat], input: Input) -> None:
    """Of a job that is finished, the exports that are not there yet. One that fails is a warning."""
    for format in formats:
        try:
            with failing_as(OutputError, "read the output", output):
                is_there = _noted(output).get(format) == completed(output)
            if not is_there:
                export(output, format, input=input)
        except Exception as error:
            shown = printable(error) or type(error).__name__
            logger.warning(
                "%s: the export %s was not written (%s); the answers are complete: run the same command again for it",
                output.shown,
                format,
                shown,
            )


def _check_place(output: Location, to: Location | None) -> None:
    if to is not None and f"{to.url.rstrip('/')}/".startswith(f"{output.url.rstrip('/')}/"):
        raise ConfigError(f"{to.shown} is in the output itself: choose another place, or none for one of its own")


def _written(output: Location, format: ExportFormat, place: Location, input: Input | None) -> int:
    run = read_run(output) or {}
    rows = visible_rows(output)
    with failing_as(OutputError, "write the export", place):
        if format == "jsonl":
            return write_jsonl(rows, place)
        if format == "csv":
            return write_csv(rows, place)
        labels = labels_of(output, run)
        if format == "dataset":
            return write_dataset(rows, place, run, labels)
        if input is None:
            raise InputError(f"{output.shown}: a WebDataset has images: name the input")
        return write_webdataset(Illustrator.of(output, input).illustrated(rows), place, labels)


def _noted(output: Location) -> dict[str, Any]:
    """By format, the epoch whose rows were exported."""
    try:
        noted = json.loads(output.at(METRICS, _RECORD).read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _note(output: Location, format: str, epoch: str | None) -> None:
    output.at(METRICS, _RECORD).write_bytes(json.dumps(_noted(output) | {format: epoch}).encode())
