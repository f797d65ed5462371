"""`star-batch demo`: the real job on drawn scenes, and the methods side by side."""

import logging
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from star_batch.cli.flags import Device, DtypeName, Keep, LogFormatName, MethodName, Quiet, Verbose, text
from star_batch.cli.messages import LogFormat
from star_batch.cli.progress import working
from star_batch.cli.run import run_job
from star_batch.cli.screen import out, show_list, show_table
from star_batch.config import JobConfig, Model, load_config
from star_batch.demo.compare import KEEPS, Measured, held_out, measure, settings, settings_of_mass
from star_batch.errors import ConfigError, Interrupted, OutputError
from star_batch.pruning import Pruning, StarPruning
from star_batch.storage.parquet import read_parquet

logger = logging.getLogger(__name__)

DEMO_ROWS = 2000
DEMO_ROWS_PER_BROKEN_ONE = 50
DEMO_KEEP = 36
COMPARE_ROWS = 500
_DEMO_SEED = 2026

_ROWS_HELP = f"Questions to ask ({DEMO_ROWS:,}; {COMPARE_ROWS:,} with --compare)."
_COMPARE_HELP = "Measure the methods side by side instead, without Ray."
_MASS_HELP = "Compare budgets that follow the image, up to this share of its attention, with fixed ones."


def demo(
    output: Annotated[Path, text("FOLDER", "For input and answers.")] = Path("star-batch-demo"),
    rows: Annotated[int | None, typer.Option(min=1, metavar="N", help=_ROWS_HELP)] = None,
    method: MethodName = None,
    keep: Keep = None,
    compare: Annotated[bool, typer.Option("--compare", help=_COMPARE_HELP)] = False,
    keep_mass: Annotated[float | None, typer.Option(metavar="SHARE", help=_MASS_HELP)] = None,
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
    Accuracy and speed of the pruning methods at equal cost:
      star-batch demo --compare
      star-batch demo --compare --keep 36 --rows 2000
    \b
    Budgets that follow the image against fixed ones, at equal mean cost:
      star-batch demo --compare --keep-mass 0.6
    """
    if keep_mass is not None and (not compare or keep is not None):
        raise ConfigError("--keep-mass goes with --compare, and without --keep")
    config = _demo_config(output, method or "star", keep, device=device, dtype=dtype)
    if keep_mass is not None:
        _compare_budgets(config.model, rows or COMPARE_ROWS, method, keep_mass)
    elif compare:
        _compare(config.model, rows or COMPARE_ROWS, method, keep)
    else:
        _write_scenes(output / "input", rows or DEMO_ROWS)
        _run(config, verbose=verbose, quiet=quiet, log_format=log_format)
        if not quiet and log_format == "text":
            _show_more(config, output, min(rows or DEMO_ROWS, _SAVED_ROWS))


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
    folder: Path, method: str, keep: int | float | None, *, device: str | None, dtype: str | None
) -> JobConfig:
    flags = {
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
        "pruning.method": method,
        "pruning.keep": keep if keep is not None or method == "none" else DEMO_KEEP,
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


def _compare(model: Model, num_rows: int, method: str | None, keep: int | float | None) -> None:
    keeps = KEEPS if keep is None else (keep,)
    prunings = [pruning for pruning in settings(keeps) if method in (None, pruning.method)]
    if prunings[0].method != "none":
        prunings.insert(0, Pruning())
    rows, measured = held_out(num_rows), []
    for number, pruning in enumerate(prunings, start=1):
        with working(f"{number} of {len(prunings)}: {_name(pruning)}, keep {pruning.keep or 'all'}"):
            measured.append(measure(pruning, rows, device=model.device, dtype=model.dtype))
    baseline = measured[0]
    lines = [(*_comparison_row(result), _against(result, baseline)) for result in measured]
    show_table(("Method", "Tokens", "Accuracy", "Images/s", "Against none"), lines)
    out.print(_COMPARE_NOTE.format(rows=num_rows), style="dim")


def _compare_budgets(model: Model, num_rows: int, method: str | None, keep_mass: float) -> None:
    """Each method with budgets that follow the image, then with one for all at the mean cost of the first."""
    rows, lines = held_out(num_rows), []
    for pruning in settings_of_mass(keep_mass):
        if method not in (None, pruning.method):
            continue
        with working(f"{_name(pruning)}, then a fixed budget"):
            following = measure(pruning, rows, device=model.device, dtype=model.dtype)
            fixed = measure(following.as_fixed, rows, device=model.device, dtype=model.dtype)
        lines.append((*_comparison_row(following), _against(following, fixed)))
        lines.append((*_comparison_row(fixed), ""))
    show_table(("Method", "Tokens", "Accuracy", "Images/s", "Against fixed"), lines)
    out.print(_COMPARE_NOTE.format(rows=num_rows), style="dim")


_COMPARE_NOTE = (
    "\n{rows:,} questions, the same for every line; ± is one standard error, in points. Tokens: visual"
    " tokens that a decoder layer sees on average. Images/s: from encoded images to answers, one engine"
    " after the other, measured once; other work on this machine shows in it."
)


def _name(pruning: Pruning) -> str:
    scores = f" ({pruning.early_scores})" if isinstance(pruning, StarPruning) else ""
    mass = f", mass {pruning.keep_mass:g}" if pruning.keep_mass is not None else ""
    return pruning.method + scores + mass


def _comparison_row(result: Measured) -> tuple[str, ...]:
    return (
        _name(result.pruning),
        f"{result.layer_tokens:.1f}",
        f"{100 * result.accuracy:.1f} ± {100 * result.standard_error:.1f}",
        f"{result.images_per_second:,.1f}",
    )


def _against(result: Measured, other: Measured) -> str:
    """Points that it is above another, of the same rows; nothing of itself."""
    gain, error = result.gain_over(other)
    return "" if result is other else f"{100 * gain:+.1f} ± {100 * error:.1f}"
