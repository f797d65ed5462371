"""`star-batch init`: a job's file for somebody's data, with what was found in it and what is left to fill in."""

import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from star_batch.cli.flags import Quiet, Tracebacks, text
from star_batch.cli.screen import show_line
from star_batch.errors import InputError, OutputError
from star_batch.wording import printable

logger = logging.getLogger(__name__)

Job = Annotated[
    Literal["caption", "label", "answer"],
    typer.Argument(metavar="JOB", show_default=False, help="caption, label or answer: what is asked about each image."),
]
Data = Annotated[str, typer.Argument(metavar="DATA", help="Parquet: file, folder or glob; or a folder of images.")]
_LEFT = "FILL IN: "


def init(
    job: Job,
    data: Data,
    to: Annotated[str, text("FILE", "The file to write.")] = "job.yaml",
    verbose: Tracebacks = False,
    quiet: Quiet = False,
) -> None:
    """Look at the data and write a job's file with comments. An existing file is never overwritten.

    The file runs as it is, with the small model that comes along. What was guessed, and what is left to
    fill in, stands in its comments.

    \b
    From data to answers:
      star-batch init label photos.parquet
      star-batch run job.yaml
    """
    file = Path(to)
    if file.exists():
        raise OutputError(f"{printable(file)} is there already: name another file with --to")
    found = _survey(data)
    lines = list(_lines(job, data, found))
    written = "\n".join(lines) + "\n"
    _check(written)
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(written)
    except OSError as error:
        raise OutputError(f"{printable(file)}: cannot be written: {error.strerror}") from None
    if not quiet:
        show_line(f"{file}: {found.num_rows:,} rows of {found.kind}")
    for line in lines:
        if _LEFT in line:
            logger.warning("%s: to fill in: %s", printable(file), printable(line.partition(_LEFT)[2]))


def _survey(data: str) -> Any:
    """What was found; an id that is not one for each row is none."""
    from dataclasses import replace

    from star_batch.config import Input
    from star_batch.inputs.base import plan_input
    from star_batch.inputs.rows import distinct
    from star_batch.inputs.survey import survey

    found = survey(data)
    if found.id is None:
        return found
    try:
        source = Input(path=data, prompt="?", image_column=found.image or "image", id_column=found.id)
        distinct(plan_input(source), "refuse")
    except InputError:
        return replace(found, id=None)
    return found


def _check(written: str) -> None:
    """Raises:
    ConfigError: it is no job; that would be a bug here.
    """
    from star_batch.config import load_config

    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder, "job.yaml")
        draft.write_text(written, encoding="utf-8")
        load_config(draft, {})


def _lines(job: str, data: str, found: Any) -> Iterator[str]:
    yield f"# {job} each of {found.num_rows:,} rows; run it with: star-batch run FILE"
    if found.columns:
        yield "# Columns: " + ", ".join(
            f"{printable(name, 60)} ({printable(type, 40)})" for name, type in found.columns
        )
    yield "model: demo  # small, comes along, runs anywhere; for real work such as llava-hf/llava-1.5-7b-hf"
    yield "input:"
    yield from (f"  {line}" for line in (*_where(data, found), *_asked(job, found)))
    yield "output:"
    yield "  path: answers"
    yield "  # export: [jsonl, dataset]  # the answers in other forms too"
    yield "# pruning: {method: star, keep: 0.25}  # a quarter of the visual tokens: faster, nearly as good"


def _where(data: str, found: Any) -> Iterator[str]:
    yield f"path: {_quoted(data)}"
    if found.kind != "parquet":
        yield f"kind: {found.kind}"
        return
    yield f"image_column: {_quoted(found.image)}"
    if found.id is not None:
        yield f"id_column: {_quoted(found.id)}  # different in every row"
    if found.hosts:
        hosts = ", ".join(map(_quoted, found.hosts))
        yield f"# fetch: {{hosts: [{hosts}]}}  # {_LEFT}images are on the web; these hosts, if you trust them"
    yield '# keep_columns: "*"  # carry the other columns into the answers'


def _asked(job: str, found: Any) -> Iterator[str]:
    if job == "answer" and found.question is not None:
        yield f"prompt_column: {_quoted(found.question)}"
    elif job == "answer":
        yield f"prompt: What does the picture show?  # {_LEFT}the question; no column holds one"
    elif job == "caption":
        yield "prompt: Describe the picture in one sentence."
    else:
        yield from _labels(found)
    if job != "label" and found.reference not in (None, found.question):
        yield f"# reference_column: {_quoted(found.reference)}  # counts answers that are equal to it"


def _labels(found: Any) -> Iterator[str]:
    yield f"prompt: What does the picture show?  # {_LEFT}the question that your labels answer"
    if len(found.choices) > 1:
        yield f"choices: [{', '.join(map(_quoted, found.choices))}]"
        yield f"reference_column: {_quoted(found.label)}"
    else:
        yield f'choices: ["yes", "no"]  # {_LEFT}the labels to choose from'


def _quoted(text: str) -> str:
    """In double quotes, as YAML and JSON have them alike."""
    return json.dumps(text)
