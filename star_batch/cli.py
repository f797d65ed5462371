"""`star-batch`: read what was typed, call the package, print what came of it. Everything else lives below.

What computes is imported by the command that needs it, so that `--help` and a mistyped option do not
wait for torch and Ray.
"""

import functools
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args

import pyarrow.parquet as pq
import typer

from star_batch import __version__
from star_batch.bench.command import bench
from star_batch.config import FLAGS, JobConfig, Model, load_config
from star_batch.demo.compare import KEEPS, Measured, held_out, measure, settings
from star_batch.errors import (
    ClusterError,
    ConfigError,
    InputError,
    Interrupted,
    LeaseHeld,
    ModelError,
    OutputError,
    PromiseBroken,
    StarBatchError,
    TooManyFailed,
)
from star_batch.options import Dtype, Method, Pruning
from star_batch.terminal import (
    err,
    live_progress,
    log_to_terminal,
    no_progress,
    out,
    show_list,
    show_numbers,
    show_status,
    show_summary,
    show_table,
    working,
)

DEMO_ROWS = 2000
DEMO_ROWS_PER_BROKEN_ONE = 50
DEMO_KEEP = 36
COMPARE_ROWS = 500
_DEMO_SEED = 2026

EXIT_CODES: dict[type[StarBatchError], str] = {
    ConfigError: "an option or the job's file is wrong; nothing was started",
    ModelError: "the model cannot be loaded, or its family is not supported",
    InputError: "the input cannot be read",
    OutputError: "the output cannot be written, or holds another job's answers",
    ClusterError: "Ray cannot be reached, or failed",
    LeaseHeld: "another run is at work on the output, or has taken over",
    PromiseBroken: "verify: the output does not hold every row exactly once",
    TooManyFailed: "more rows failed than --max-failed allows",
    Interrupted: "interrupted; the same command goes on where it stopped",
}


def _exit_codes() -> str:
    lines = [f"  {kind.exit_code:>3}  {meaning}" for kind, meaning in EXIT_CODES.items()]
    first = ["    0  done; rows that failed say why in the answers", "    1  a bug; please report it"]
    return "\n".join(["\b", "Exit codes:", *first, *lines])


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_exit_codes(),
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"star-batch {__version__}")
        raise typer.Exit


@app.callback()
def star_batch(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Ask a vision-language model one question per image, for as many images as you have.

    Records come from Parquet, images keep only the visual tokens that matter, and answers go back to
    Parquet with the numbers of the run. A job that was stopped goes on where it was.

    \b
    See it work, without a GPU and without downloading a model:
      star-batch demo
    \b
    Run a job:
      star-batch run job.yaml
    """


def _amount(text: str) -> int | float:
    """A number of tokens or rows if it is written as one (`64`), a share if not (`0.25`)."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise typer.BadParameter(f"{text!r} is neither a number (64) nor a share (0.25)")


Keep = Annotated[
    float | None,
    typer.Option(
        parser=_amount,
        metavar="N",
        help="Visual tokens a decoder layer sees on average: a number (64) or a share (0.25; 1.0 is all).",
    ),
]
MaxFailed = Annotated[
    float | None,
    typer.Option(parser=_amount, metavar="N", help="Stop when more rows fail: a number (100) or a share (0.05)."),
]
METHOD_HELP = f"Which tokens to keep: {', '.join(get_args(Method))}."
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Let Ray speak; show tracebacks.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Device = Annotated[str | None, typer.Option(metavar="DEVICE", help="auto (as it comes), cpu or cuda.")]
DtypeName = Annotated[str | None, typer.Option(metavar="DTYPE", help=f"{', '.join(get_args(Dtype))}.")]


def _text(metavar: str, help: str) -> Any:
    return typer.Option(metavar=metavar, help=help)


@app.command(epilog=_exit_codes())
def run(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG.yaml", help="The job's file.")] = None,
    input: Annotated[list[str] | None, _text("PATH", "Parquet: file, folder or glob; repeatable.")] = None,
    output: Annotated[str | None, _text("PATH", "Folder for the answers.")] = None,
    model: Annotated[str | None, _text("NAME", "Checkpoint: a folder, a hub id, or demo.")] = None,
    revision: Annotated[str | None, _text("TEXT", "Commit or tag of a hub checkpoint.")] = None,
    method: Annotated[str | None, _text("METHOD", METHOD_HELP)] = None,
    keep: Keep = None,
    id_column: Annotated[str | None, _text("COLUMN", "Ids; left out, ids come from file and row.")] = None,
    image_column: Annotated[str | None, _text("COLUMN", "Encoded images, or paths or URIs (image).")] = None,
    prompt_column: Annotated[str | None, _text("COLUMN", "Questions, one per row.")] = None,
    prompt: Annotated[str | None, _text("TEXT", "One question for all rows; {column} is filled in.")] = None,
    reference_column: Annotated[str | None, _text("COLUMN", "Right answers, to measure accuracy.")] = None,
    max_new_tokens: Annotated[int | None, _text("N", "Longest answer (64).")] = None,
    actors: Annotated[int | None, _text("N", "Engines that run side by side (1).")] = None,
    device: Device = None,
    dtype: DtypeName = None,
    limit: Annotated[int | None, _text("N", "Only the first N rows.")] = None,
    duplicates: Annotated[str | None, _text("WHAT", "Ids that repeat: refuse, or take the first.")] = None,
    max_failed: MaxFailed = None,
    ray_address: Annotated[str | None, _text("ADDRESS", "A running Ray cluster; else a local one.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Answer failed rows again.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete an earlier job's answers.")] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Run a job: from a file, from flags, or from both. A flag overrides the file.

    Run the same command again and it goes on where it stopped; a complete output is left as it is.

    \b
    The least that makes a job:
      star-batch run --model demo --prompt 'what does the picture show?' \\
        --input photos.parquet --output answers
    \b
    The same as a file, job.yaml:
      model: demo
      input:
        path: photos.parquet
        prompt: what does the picture show?
      output: answers
    \b
    A job file on other data, with a quarter of the visual tokens:
      star-batch run job.yaml --input 's3://bucket/june/*.parquet' \\
        --output s3://bucket/june-answers --method star --keep 0.25
    """
    with _plain_errors(verbose):
        switches = {"overwrite": overwrite or None, "retry_failed": retry_failed or None}
        given = context.params | {"input": _one_or_many(input)} | switches
        flags = {key: given[flag.removeprefix("--").replace("-", "_")] for key, flag in FLAGS.items()}
        _run_job(load_config(config, flags), verbose=verbose, quiet=quiet)


def _one_or_many(paths: list[str] | None) -> str | list[str] | None:
    return paths[0] if paths and len(paths) == 1 else paths or None


Folder = Annotated[str, typer.Argument(metavar="OUT", help="The folder of answers, or the job's YAML file.")]


@app.command(epilog=_exit_codes(), short_help="How far a job is, and who is at work on it.")
def status(out: Folder) -> None:
    """How far a job is: rows done, failed and left, its pace, and which process is at work.

    Reads the output alone, from any machine, and disturbs nobody.
    """
    with _plain_errors(verbose=False):
        from star_batch.pipeline import audit

        show_status(audit.status(_place(out)[0]))


@app.command(epilog=_exit_codes(), short_help="Check that an output holds every row exactly once.")
def verify(
    out: Folder,
    input: Annotated[list[str] | None, _text("PATH", "The input, if it has moved; repeatable.")] = None,
    no_input: Annotated[bool, typer.Option("--no-input", help="Do not compare with the input's ids.")] = False,
) -> None:
    """Read every answer and check: each id of the input once, as an answer or with the reason why not.

    Exit code 0 says that it is so and that the job is finished, 8 that it is not.
    """
    with _plain_errors(verbose=False):
        from star_batch.pipeline import audit

        place, options = _place(out)
        source = None if no_input else audit.recorded_input(place, options)
        if source is not None and input:
            source = source.model_copy(update={"path": tuple(input)})
        verdict = audit.verify(place, source)
        compared = "without the input" if source is None else "each id of the input once"
        names = ("rows", "answered", "failed")
        show_numbers((name, f"{getattr(verdict, name):,}", "") for name in names)
        if verdict.findings:
            raise PromiseBroken(f"{place.shown}: {'; '.join(verdict.findings)}")
        err.print(f"verified: {compared}", soft_wrap=True)


def _place(folder_or_job: str) -> tuple[Any, dict[str, Any]]:
    """The output's place, and the options of the input's storage, where a job's file tells them."""
    from star_batch.pipeline.storage import Location

    if not folder_or_job.endswith((".yaml", ".yml")):
        return Location.of(folder_or_job), {}
    config = load_config(folder_or_job, {})
    return Location.of(config.output.path, config.output.storage_options), config.input.storage_options


_ROWS_HELP = f"Questions to ask ({DEMO_ROWS:,}; {COMPARE_ROWS:,} with --compare)."
_COMPARE_HELP = "Measure the methods side by side instead, without Ray."


@app.command(epilog=_exit_codes(), short_help="See it work, with a small model that comes along.")
def demo(
    output: Annotated[Path, _text("FOLDER", "For input and answers.")] = Path("star-batch-demo"),
    rows: Annotated[int | None, typer.Option(min=1, metavar="N", help=_ROWS_HELP)] = None,
    method: Annotated[str | None, _text("METHOD", METHOD_HELP + " (star)")] = None,
    keep: Keep = None,
    compare: Annotated[bool, typer.Option("--compare", help=_COMPARE_HELP)] = False,
    device: Device = None,
    dtype: DtypeName = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
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
    """
    with _plain_errors(verbose):
        config = _demo_config(output, method or "star", keep, device=device, dtype=dtype)
        if compare:
            _compare(config.model, rows or COMPARE_ROWS, method, keep, quiet=quiet)
            return
        _write_scenes(output / "input", rows or DEMO_ROWS, quiet=quiet)
        _run_job(config, verbose=verbose, quiet=quiet)
        if not quiet:
            show_list("Asked and answered", _samples(output / "output" / "answers"))
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


def _write_scenes(folder: Path, num_rows: int, *, quiet: bool) -> None:
    from star_batch.demo.dataset import write_parquet

    num_broken = num_rows // DEMO_ROWS_PER_BROKEN_ONE
    with working(f"drawing {num_rows:,} scenes", quiet=quiet):
        try:
            write_parquet(folder, num_rows, seed=_DEMO_SEED, num_bad=num_broken)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written: {error.strerror}") from None
    if not quiet:
        err.print(f"{num_rows:,} questions in {folder}, {num_broken:,} of them broken on purpose", soft_wrap=True)


def _samples(answers: Path, num_samples: int = 3) -> list[tuple[str, str]]:
    """A question of each wording with what the model answered and, if that is wrong, what is right."""
    rows = pq.read_table(answers, columns=["question", "answer", "reference", "is_correct"]).to_pylist()
    chosen = {row["question"]: row for row in rows if row["answer"] is not None}
    return [
        (row["question"], row["answer"] + ("" if row["is_correct"] else f"   (wrong: {row['reference']})"))
        for row in list(chosen.values())[:num_samples]
    ]


def _run_job(config: JobConfig, *, verbose: bool, quiet: bool) -> None:
    log_to_terminal(quiet=quiet)
    with no_progress() if quiet else live_progress("starting Ray and loading the model") as on_progress:
        from star_batch.pipeline import run as run_job

        summary = run_job(config, on_progress=on_progress, verbose=verbose)
    if not quiet:
        show_summary(summary)
        show_list("Written", _files(config.output.path))


def _files(output: str) -> list[tuple[str, str]]:
    folder = output.rstrip("/")
    files = [("answers", f"{folder}/answers"), ("numbers", f"{folder}/_metrics/summary.json")]
    report = f"{folder}/report.html"
    return [*files, ("report", report)] if Path(report).exists() else files


def _compare(model: Model, num_rows: int, method: str | None, keep: int | float | None, *, quiet: bool) -> None:
    keeps = KEEPS if keep is None else (keep,)
    prunings = [pruning for pruning in settings(keeps) if method in (None, pruning.method)]
    if prunings[0].method != "none":
        prunings.insert(0, Pruning())
    rows, measured = held_out(num_rows), []
    for number, pruning in enumerate(prunings, start=1):
        with working(f"{number} of {len(prunings)}: {_name(pruning)}, keep {pruning.keep or 'all'}", quiet=quiet):
            measured.append(measure(pruning, rows, device=model.device, dtype=model.dtype))
    show_table(
        ("Method", "Tokens", "Accuracy", "Against none", "Images/s"),
        [_comparison_row(result, measured[0]) for result in measured],
    )
    out.print(_COMPARE_NOTE.format(rows=num_rows), style="dim")


_COMPARE_NOTE = (
    "\n{rows:,} questions, the same for every line; ± is one standard error, in points. Tokens: visual"
    " tokens that a decoder layer sees on average. Images/s: from encoded images to answers, one engine"
    " after the other, measured once; other work on this machine shows in it."
)


def _name(pruning: Pruning) -> str:
    scores = f" ({pruning.early_scores})" if pruning.method == "star" else ""
    return pruning.method + scores


def _comparison_row(result: Measured, baseline: Measured) -> tuple[str, ...]:
    gain, error = result.gain_over(baseline)
    return (
        _name(result.pruning),
        f"{result.layer_tokens:.1f}",
        f"{100 * result.accuracy:.1f} ± {100 * result.standard_error:.1f}",
        "" if result is baseline else f"{100 * gain:+.1f} ± {100 * error:.1f}",
        f"{result.images_per_second:,.1f}",
    )


@contextmanager
def _plain_errors(verbose: bool) -> Iterator[None]:
    """What goes wrong on purpose is said in plain words; a bug keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        _fail(Interrupted("interrupted"), verbose)
    except StarBatchError as error:
        _fail(error, verbose)


def _fail(error: StarBatchError, verbose: bool) -> NoReturn:
    if verbose:
        traceback.print_exception(error)
    typer.echo(f"star-batch: {error}", err=True)
    raise typer.Exit(error.exit_code)


def _plainly(command: Callable[..., None]) -> Callable[..., None]:
    """The same command, whose errors are said in plain words."""

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        with _plain_errors(verbose=False):
            command(**given)

    return wrapped


app.command(epilog=_exit_codes(), short_help="Measure it: speed and accuracy, side by side.")(_plainly(bench))


def main() -> None:
    """The console script."""
    app(prog_name="star-batch")
