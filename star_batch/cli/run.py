"""`star-batch run`: a job from its file, from flags, or from both."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from star_batch.cli.flags import (
    Choices,
    Device,
    DtypeName,
    Keep,
    KeepColumns,
    Kind,
    LogFormatName,
    MethodName,
    Paths,
    Pushgateway,
    Questions,
    Quiet,
    Settings,
    Verbose,
    column,
    named,
    several,
    text,
    with_examples,
)
from star_batch.cli.messages import LogFormat, set_up_logs
from star_batch.cli.screen import show_list
from star_batch.config import FLAGS, JobConfig, load_config

logger = logging.getLogger(__name__)

EXAMPLES = """
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

\b
Labels, of which the answer is always one, beside columns of the input:
  star-batch run --model demo --input photos.parquet --output labels \\
    --prompt 'What is it?' --choices cat,dog,other --keep-columns url

\b
What has no flag of its own goes by --set:
  star-batch run job.yaml --set faults.max_failed=0.05 \\
    --set input.keep_columns='[label, url]'
"""


@with_examples(EXAMPLES)
def run(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG.yaml", help="The job's file.")] = None,
    config_file: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The same.")] = None,
    input: Paths = None,
    kind: Kind = None,
    output: Annotated[str | None, text("PATH", "Folder for the answers.")] = None,
    model: Annotated[str | None, text("NAME", "Checkpoint: a folder, a hub id, or demo.")] = None,
    method: MethodName = None,
    keep: Keep = None,
    prompt_column: Annotated[str | None, column("Questions, one per row.")] = None,
    prompt: Annotated[str | None, text("TEXT", "One question for all rows; {column} is filled in.")] = None,
    system: Annotated[str | None, text("TEXT", "System prompt for all rows.")] = None,
    questions: Questions = None,
    choices: Choices = None,
    keep_columns: KeepColumns = None,
    max_new_tokens: Annotated[int | None, text("N", "Longest answer (64).")] = None,
    actors: Annotated[int | None, text("N", "Engines that run side by side (1).")] = None,
    device: Device = None,
    dtype: DtypeName = None,
    limit: Annotated[int | None, text("N", "Only the first N rows.")] = None,
    samples: Annotated[int | None, text("N", "Pictures in the report's gallery (48).")] = None,
    settings: Settings = None,
    ray_address: Annotated[str | None, text("ADDRESS", "A running Ray cluster; else a local one.")] = None,
    pushgateway: Pushgateway = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Answer failed rows again.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete an earlier job's answers.")] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_format: LogFormatName = "text",
) -> None:
    """Run a job: from a file, from what is typed, or from both. --set overrides the file, a flag both.

    Run the same command again and it goes on where it stopped; a complete output is left as it is.
    """
    run_job(job_of(context), verbose=verbose, quiet=quiet, log_format=log_format)


def job_of(context: typer.Context) -> JobConfig:
    """The job that was typed, by a command that has the options of `run`."""
    params = context.params
    given = params | {
        "input": _one_or_many(params["input"]),
        "questions": named(params["questions"], "--questions"),
        "choices": several(params["choices"]),
        "keep_columns": several(params["keep_columns"]),
    }
    flags = {key: given[flag.removeprefix("--").replace("-", "_")] for key, flag in FLAGS.items()}
    # A switch that is not set leaves the file's word.
    set_flags = {key: None if value is False else value for key, value in flags.items()}
    config = load_config(given["config"] or given.get("config_file"), set_flags, given["settings"] or ())
    # Of a script, its own choice among jobs.
    return context.obj(config) if context.obj is not None else config


def _one_or_many(paths: list[str] | None) -> str | list[str] | None:
    return paths[0] if paths and len(paths) == 1 else paths or None


def run_job(config: JobConfig, *, verbose: bool, quiet: bool, log_format: LogFormat) -> None:
    """Run it, and show what came of it."""
    from star_batch.cli.progress import live_progress
    from star_batch.cli.summary import show_summary

    set_up_logs(log_format, quiet=quiet, job=config.metrics.job)
    with live_progress() as on_progress:
        from star_batch.pipeline.job import run as run_pipeline

        summary = run_pipeline(config, on_progress=on_progress, verbose=verbose)
    if log_format == "json":
        logger.info("finished", extra=summary.as_dict())
    elif not quiet:
        show_summary(summary)
        show_list("Written", _files(config.output.path))


def _files(output: str) -> list[tuple[str, str]]:
    folder = output.rstrip("/")
    files = [("answers", f"{folder}/answers"), ("numbers", f"{folder}/_metrics/summary.json")]
    others = (("results", "output.jsonl"), ("failures", "errors.jsonl"), ("report", "report.html"))
    return files + [(name, f"{folder}/{file}") for name, file in others if Path(folder, file).exists()]
