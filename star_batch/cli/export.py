"""`star-batch export`: an output's answers in the forms that others read."""

from typing import Annotated

import typer

from star_batch.cli.flags import Quiet, Tracebacks, text
from star_batch.cli.outputs import Folder, place_of
from star_batch.cli.screen import show_line
from star_batch.config import EXPORT_FORMATS, ExportFormat

_TO_HELP = "A file for jsonl and csv, else a folder; a place in OUT if none is given."


Format = Annotated[
    ExportFormat,
    typer.Option("--format", metavar="FORMAT", show_default=False, help=f"{', '.join(EXPORT_FORMATS)}."),
]


def export(
    out: Folder,
    format: Format,
    to: Annotated[str | None, text("PLACE", _TO_HELP)] = None,
    input: Annotated[list[str] | None, text("PATH", "The input with the images, if it has moved; repeatable.")] = None,
    verbose: Tracebacks = False,
    quiet: Quiet = False,
) -> None:
    """Write exactly the visible rows in another form, also while a job is at work.

    jsonl and csv have all rows; in csv, what is nested is JSON. webdataset has tars of images and answers
    to train on: the images are read again from the input. dataset is a folder that Hugging Face's datasets
    reads, with a card, and with class labels where the answers are choices.

    \b
    A file to look at:
      star-batch export s3://bucket/answers --format csv --to answers.csv
    \b
    Shards to train on:
      star-batch export OUT --format webdataset --to shards
    """
    from star_batch.commit.layout import EXPORTS
    from star_batch.export.write import export as write
    from star_batch.inputs.comparison import recorded_input
    from star_batch.storage.location import Location
    from star_batch.storage.urls import scheme_of

    place, options = place_of(out)
    target = Location.of(to, place.options if scheme_of(to) == scheme_of(place.url) else None) if to else None
    source = recorded_input(place, options) if format == "webdataset" else None
    if source is not None and input:
        source = source.model_copy(update={"path": tuple(input)})
    count = write(place, format, target, source)
    if not quiet:
        show_line(f"{count:,} rows: {(target or place.at(EXPORTS[format])).shown}")
