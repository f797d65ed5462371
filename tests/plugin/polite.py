"""A job from outside: a script that asks politely. It takes the options of `star-batch run`."""

from star_batch.cli.script import run_script
from star_batch.config import JobConfig


def polite(config: JobConfig) -> JobConfig:
    """Ask with a please."""
    return config.model_copy(update={"input": config.input.model_copy(update={"prompt": "w7 {word}"})})


if __name__ == "__main__":
    run_script(polite)
