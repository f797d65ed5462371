"""A job that only remembers how it was called, and what it says."""

from collections.abc import Callable
from typing import Any

from typer.testing import CliRunner

from star_batch import cli
from star_batch.config import JobConfig
from star_batch.errors import StarBatchError
from star_batch.metrics import Progress, Summary

JOB = ["run", "--input", "in.parquet", "--output", "out", "--model", "demo", "--prompt", "What is it?"]

SUMMARY = Summary(
    rows=12_000_000,
    answered=11_999_000,
    failed=1000,
    failed_by_type={"image_unreadable": 600, "image_format_refused": 300, "prompt_too_long": 100},
    num_references=12_000_000,
    num_correct=9_000_000,
    accuracy=0.75,
    mean_visual_tokens=576.0,
    mean_kept_tokens=(216.0, 72.0),
    mean_layer_tokens=144.0,
    finish_reasons={"stop": 11_999_000},
    wall_seconds=40_000.0,
    images_per_second=299.975,
    input_tokens_per_second=71_234.5,
    output_tokens_per_second=1234.5,
    stage_seconds={"fetch": 9000.0, "decode_image": 8000.0, "vision": 70_000.0, "write": 0.01},
)

AT = Progress(rows_done=1200, rows_total=2000, failed=3, images_per_second=56.12, seconds_left=14.2)

STARTING = Progress(rows_done=0, rows_total=2000, failed=0, images_per_second=0.0, seconds_left=None)


class Pipeline:
    """Stands in for the job: remembers what it was called with."""

    def __init__(self) -> None:
        self.configs: list[JobConfig] = []
        self.verbose = False
        self.refusal: StarBatchError | None = None
        self.error: BaseException | None = None

    def run(self, config: JobConfig, *, on_progress: Callable[[Progress], None], verbose: bool) -> Summary:
        self.configs.append(config)
        self.verbose = verbose
        if self.refusal is not None:
            raise self.refusal
        on_progress(STARTING)
        on_progress(AT)
        if self.error is not None:
            raise self.error
        return SUMMARY


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], prog_name="star-batch")
