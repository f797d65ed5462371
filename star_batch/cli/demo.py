"""`star-batch demo`: the real job on drawn scenes, and the methods side by side."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import pyarrow as pa
import typer

from star_batch.cli.comparison import compare_budgets, compare_methods
from star_batch.cli.flags import (
    Device,
    DtypeName,
    Keeps,
    LogFormatName,
    MethodNames,
    Quiet,
    Verbose,
    amounts,
    several,
    text,
)
from star_batch.cli.messages import LogFormat
from star_batch.cli.progress import working
from star_batch.cli.run import run_job
from star_batch.cli.screen import show_list
from star_batch.config import JobConfig, load_config
from star_batch.demo.compare import held_out, measure
from star_batch.demo.methods import Asked, budgets_of, methods_of, parse_method
from star_batch.errors import Interrupted, OutputError
from star_batch.options import require
from star_batch.pruning import Pruning
from star_batch.storage.parquet import read_parquet

logger = logging.getLogger(__name__)

T = TypeVar("T")

DEMO_ROWS = 2000
DEMO_ROWS_PER_BROKEN_ONE = 50
DEMO_KEEP = 36
COMPARE_ROWS = 500
_DEMO_SEED = 2026

_ROWS_HELP = f"Questions to ask ({DEMO_ROWS:,}; {COMPARE_ROWS:,} with --compare)."
_COMPARE_HELP = "Measure the methods side by side instead, without Ray; none, random and stride always."
_MASS_HELP = "Compare budgets that follow the image, up to this share of its attention, with fixed ones."
_TO_HELP = "Write what --compare finds there: compare.json, compare.csv, compare.svg."


def demo(
    output: Annotated[Path, text("FOLDER", "For input and answers.")] = Path("star-batch-demo"),
    rows: Annotated[int | None, typer.Option(min=1, metavar="N", help=_ROWS_HELP)] = None,
    method: MethodNames = None,
    keep: Keeps = None,
    compare: Annotated[bool, typer.Option("--compare", help=_COMPARE_HELP)] = False,
    keep_mass: Annotated[float | None, typer.Option(metavar="SHARE", help=_MASS_HELP)] = None,
    to: Annotated[Path | None, text("FOLDER", _TO_HELP)] = None,
    device: Device = None,
    dtype: DtypeName = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_format: LogFormatName = "text",
) -> None:
    """See it work: a small model of our own answers questions about drawn scenes.

    Writes scenes as Parquet, one in fifty broken on purpose, and runs the real job on them: Ray, an
    engine, answers, numbers. The right answers are known, so accuracy is measured. No GPU is needed and
    nothing is downloaded.

    \b
    The job:
      star-batch demo
    \b
    Accuracy and speed of the pruning methods at equal cost, beside the controls:
      star-batch demo --compare
      star-batch demo --compare --rows 2000 --to comparison
      star-batch demo --compare --method star,vispruner --keep 72,36,18
    \b
    Budgets that follow the image against fixed ones, at equal mean cost:
      star-batch demo --compare --keep-mass 0.6
    """
    methods, keeps = several(method), amounts(keep, "--keep")
    _check(compare=compare, keep_mass=keep_mass, to=to, keeps=keeps)
    if compare:
        model = _demo_config(output, Asked(label="none", method="none"), None, device=device, dtype=dtype).model
        if keep_mass is not None:
            compare_budgets(model, rows or COMPARE_ROWS, methods, keep_mass)
        else:
            compare_methods(model, rows or COMPARE_ROWS, methods_of(methods), budgets_of(keeps), to)
        return
    chosen = parse_method(_only("--method", methods) or "star")
    config = _demo_config(output, chosen, _only("--keep", keeps), device=device, dtype=dtype)
    _write_scenes(output / "input", rows or DEMO_ROWS)
    _run(config, verbose=verbose, quiet=quiet, log_format=log_format)
    if not quiet and log_format == "text":
        _show_more(config, output, min(rows or DEMO_ROWS, _SAVED_ROWS))


def _check(*, compare: bool, keep_mass: float | None, to: Path | None, keeps: Sequence[float] | None) -> None:
    """Raises:
    ConfigError: options that have nothing to say to each other.
    """
    alone = compare and keeps is None
    require(keep_mass is None or alone, "--keep-mass goes with --compare, and without --keep")
    require(to is None or (compare and keep_mass is None), "--to goes with --compare, and without --keep-mass")


def _only(option: str, values: Sequence[T] | None) -> T | None:
    """Raises:
    ConfigError: there are several, and one job has one.
    """
    if values is None:
        return None
    require(len(values) == 1, f"{option} takes one value here; several are for --compare")
    return values[0]


def _run(config: JobConfig, *, verbose: bool, quiet: bool, log_format: LogFormat) -> None:
    try:
        run_job(config, verbose=verbose, quiet=quiet, log_format=log_format)
    except Interrupted:
        raise Interrupted("interrupted; the same command begins the demo anew") from None


def _show_more(config: JobConfig, folder: Path, num_rows: int) -> None:
    show_list("Asked and answered", _samples(folder / "output" / "answers"))
    if config.pruning.method != "none":
        show_list("What pruning saves", _saved(config, num_rows))
    show_list("Next", _DEMO_NEXT)


_DEMO_NEXT = (
    ("star-batch demo --compare", "what pruning costs and what it saves"),
    ("star-batch run --help", "the same on images of your own"),
)


def _demo_config(
    folder: Path, asked: Asked, keep: int | float | None, *, device: str | None, dtype: str | None
) -> JobConfig:
    flags = {f"pruning.{name}": value for name, value in asked.options.items()} | {
        "input.path": str(folder / "input"),
        "input.id_column": "id",
        "input.prompt_column": "question",
        "input.reference_column": "answer",
        "input.keep_columns": ["question"],
        "output.path": str(folder / "output"),
        "output.overwrite": True,
        "model.name": "demo",
        "model.device": device,
        "model.dtype": dtype,
        "pruning.method": asked.method,
        "pruning.keep": keep if keep is not None or asked.method == "none" else DEMO_KEEP,
        "decoding.max_new_tokens": 32,
    }
    return load_config(None, flags)


def _write_scenes(folder: Path, num_rows: int) -> None:
    from star_batch.demo.dataset import write_parquet

    num_broken = num_rows // DEMO_ROWS_PER_BROKEN_ONE
    with working(f"drawing {num_rows:,} scenes"):
        try:
            write_parquet(folder, num_rows, seed=_DEMO_SEED, num_bad=num_broken)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written: {error.strerror}") from None
    logger.info("%s questions in %s, %s of them broken on purpose", f"{num_rows:,}", folder, f"{num_broken:,}")


def _samples(answers: Path, num_samples: int = 3) -> list[tuple[str, str]]:
    """A question of each wording with what the model answered and, if that is wrong, what is right."""
    columns = ["question", "answer", "reference", "is_correct"]
    tables = [read_parquet(file.read_bytes(), columns) for file in sorted(answers.glob("*.parquet"))]
    rows = pa.concat_tables(tables).to_pylist()
    chosen = {row["question"]: row for row in rows if row["answer"] is not None}
    return [
        (row["question"], row["answer"] + ("" if row["is_correct"] else f"   (wrong: {row['reference']})"))
        for row in list(chosen.values())[:num_samples]
    ]


_SAVED_ROWS = 256


def _saved(config: JobConfig, num_rows: int) -> list[tuple[str, str]]:
    """One engine alone on held-out rows, without the job's pruning and with it."""
    rows, model = held_out(num_rows), config.model
    with working(f"{num_rows} rows with pruning and without"):
        plain, pruned = (
            measure(pruning, rows, device=model.device, dtype=model.dtype) for pruning in (Pruning(), config.pruning)
        )
    gain = pruned.images_per_second / plain.images_per_second
    return [
        (f"none, {plain.layer_tokens:.0f} tokens", f"{plain.images_per_second:,.0f} images/s by one engine alone"),
        (
            f"{pruned.pruning.method}, {pruned.layer_tokens:.0f} tokens",
            f"{pruned.images_per_second:,.0f} images/s, {gain:.2f} times as many",
        ),
    ]
