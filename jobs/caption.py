"""Captions for the images below a folder or a bucket's prefix, or for those of Parquet files: new ones only.

python jobs/caption.py --config jobs/caption.yaml
ray job submit --working-dir . -- python jobs/caption.py --config jobs/caption.yaml
"""

from datetime import UTC, datetime, timedelta

from star_batch.cli.script import run_script
from star_batch.config import JobConfig
from star_batch.config.kinds import KINDS
from star_batch.errors import ConfigError


def caption(config: JobConfig) -> JobConfig:
    """Describe images in free words, each once.

    What an earlier run has answered is left alone. In the paths of input and output {date} is today and
    {yesterday} the day before (UTC), for an output of its own for each day.
    """
    if (
        not KINDS[config.input.kind].asks
        or config.input.choices_column
        or any(q.choices for q in config.input.asked.values())
    ):
        raise ConfigError("captions are free words: jobs/label.py takes choices, jobs/answer.py OpenAI's requests")
    paths = tuple(map(_dated, config.input.paths))
    return config.model_copy(
        update={
            "input": config.input.model_copy(update={"path": paths}),
            "output": config.output.model_copy(update={"path": _dated(config.output.path)}),
        }
    )


def _dated(path: str) -> str:
    today = datetime.now(UTC).date()
    return path.replace("{date}", str(today)).replace("{yesterday}", str(today - timedelta(days=1)))


if __name__ == "__main__":
    run_script(caption)
