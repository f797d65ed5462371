"""Jobs from Python: what `star-batch run` and `star-batch plan` do, as functions. Knows no terminal.

In a notebook the job's progress is shown below the cell, and interrupting the cell stops the job as Ctrl-C does.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from star_batch.config import JobConfig, load_config, parse_config
from star_batch.metrics import Progress, Summary
from star_batch.notebook import progress_below_the_cell

if TYPE_CHECKING:  # imports torch
    from star_batch.forecast.forecast import Forecast

Job: TypeAlias = JobConfig | str | Path | Mapping[str, Any]
"""A job that is made already, its YAML file, or the sections of such a file."""


def run(job: Job, *, on_progress: Callable[[Progress], None] | None = None, verbose: bool = False) -> Summary:
    """Answer every row of the input that has no answer yet, and finish the output.

    Goes on where an earlier run of the same job stopped; an output that is complete is left as it is.

    Args:
        job: as `Job` says.
        on_progress: called about once a second, from another thread; in a notebook, None shows a line.
        verbose: lets Ray speak.

    Raises:
        ConfigError, ModelError, InputError, OutputError: the job cannot work; no row was answered.
        LeaseHeld: another run is at work on this output, or has taken over.
        ClusterError: Ray cannot be reached, or something failed there.
        TooManyFailed: more rows have failed than the job allows.
        Interrupted: Ctrl-C, SIGTERM, or a notebook's cell that was interrupted.
    """
    from star_batch.pipeline.job import run as run_job

    return run_job(config_of(job), on_progress=on_progress or progress_below_the_cell(), verbose=verbose)


def plan(job: Job, **options: Any) -> "Forecast":
    """What a job will be like: rows, lengths, memory, pace, hours and price.

    Args:
        job: as `Job` says.
        options: those of `star_batch.forecast.options.ForecastOptions`, such as `gpu="h200"`.

    Raises:
        ConfigError: the job or an option cannot work.
        InputError: the input cannot be read, or no sampled row can be answered.
        ModelError: the checkpoint cannot be loaded.
    """
    from star_batch.forecast.forecast import make_forecast
    from star_batch.forecast.options import ForecastOptions, check_names

    check_names(options)
    return make_forecast(config_of(job), ForecastOptions(**options))


def config_of(job: Job) -> JobConfig:
    """Raises:
    ConfigError: the file cannot be read, or something in it is not allowed. One line per mistake.
    """
    if isinstance(job, JobConfig):
        return job
    return parse_config(job) if isinstance(job, Mapping) else load_config(job, {})
