"""OpenAI's Batch requests as an input: they become rows of Parquet first, and answers become results at the end."""

from collections.abc import Sequence

from star_batch.commit.markers import Commit
from star_batch.config import Input, JobConfig
from star_batch.errors import ConfigError
from star_batch.inputs.base import Format
from star_batch.inputs.rows import InputPlan
from star_batch.openai import batch
from star_batch.storage.location import Location


class OpenAI(Format):
    """Files of requests in JSON, packed or not, which say for themselves what is asked."""

    def stage(self, config: JobConfig) -> JobConfig:
        return batch.stage(config)

    def plan(self, config: Input, output: Location | None = None) -> InputPlan:
        raise ConfigError("input.kind openai: requests become rows when their job runs; with limit it runs on a few")

    def write_results(self, output: Location, commits: Sequence[Commit]) -> None:
        batch.write_results(output, commits)
