"""`star-batch plan`: what a job will be like, how long it will take and what it will cost."""

import logging
from typing import Annotated

import typer

from star_batch.cli.flags import ResultsOnly, Tracebacks, text, with_options_of
from star_batch.cli.messages import logs_json
from star_batch.cli.progress import working
from star_batch.cli.run import job_of, run
from star_batch.cli.screen import show_numbers
from star_batch.config import JobConfig
from star_batch.forecast.gpus import GPUS
from star_batch.forecast.options import ForecastOptions

logger = logging.getLogger(__name__)

_USUAL = ForecastOptions()
_GPU_HELP = f"Reckon for one of {', '.join(GPUS)} instead of measuring here."
_ANSWER_HELP = "A typical answer with --gpu (the longest that the job allows)."
_EFFICIENCY_HELP = "Of the roofline that --gpu reaches, as a share."


_OF_A_RUN = (
    "ray_address",
    "pushgateway",
    "samples",
    "retry_failed",
    "overwrite",
)
"""Options of `run` that no plan depends on."""


@with_options_of(run, hidden=_OF_A_RUN)
def plan(
    context: typer.Context,
    sample: Annotated[int, text("N", "Rows to look at.")] = _USUAL.sample_rows,
    seconds: Annotated[float, text("S", "How long to measure.")] = _USUAL.seconds,
    gpu: Annotated[str | None, text("NAME", _GPU_HELP, *GPUS)] = None,
    gpus: Annotated[int | None, text("N", "How many work side by side (as many as actors).")] = None,
    price_per_gpu_hour: Annotated[float | None, text("P", "In any currency.")] = None,
    efficiency: Annotated[float, text("SHARE", _EFFICIENCY_HELP)] = _USUAL.efficiency,
    answer_tokens: Annotated[int | None, text("N", _ANSWER_HELP)] = None,
    verbose: Tracebacks = False,
    quiet: ResultsOnly = False,
) -> None:
    """What a job will be like: its rows, their lengths, what fits, how fast, how long, for how much.

    Takes what `run` takes, so put `plan` in its place; what only a run needs is not listed here. A
    sample of the rows goes through the job's own preprocessing. Then the job's own engine answers it
    here for some seconds; or, for a GPU that is not here, arithmetic tells what it could do at best,
    and no weights are loaded.

    \b
    Measured on this machine:
      star-batch plan job.yaml
    \b
    Eight GPUs that are elsewhere:
      star-batch plan job.yaml --gpu a100-80gb --gpus 8 --price-per-gpu-hour 2.50
    """
    options = ForecastOptions(
        sample_rows=sample,
        seconds=seconds,
        gpu=gpu,
        num_gpus=gpus,
        price_per_gpu_hour=price_per_gpu_hour,
        efficiency=efficiency,
        answer_tokens=answer_tokens,
    )
    _show(job_of(context), options)


def _show(config: JobConfig, options: ForecastOptions) -> None:
    looking = "looking at a sample of the rows"
    with working(looking if options.gpu is not None else f"{looking}, and measuring"):
        from star_batch.forecast.forecast import make_forecast
        from star_batch.forecast.format import lines

        shown = list(lines(make_forecast(config, options)))
    if logs_json():
        logger.info("plan", extra={"plan": [" ".join(filter(None, line)) for line in shown]})
    else:
        show_numbers(shown)
