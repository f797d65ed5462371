"""Free answers to questions about images, from Parquet or from OpenAI's Batch requests in JSONL.

python jobs/answer.py --config jobs/answer.yaml
ray job submit --working-dir . -- python jobs/answer.py --config jobs/answer.yaml
"""

from star_batch.cli.script import run_script
from star_batch.config import JobConfig
from star_batch.errors import ConfigError


def answer(config: JobConfig) -> JobConfig:
    """Answer questions about images in free words.

    With OpenAI's requests the output also holds output.jsonl and errors.jsonl, as the Batch API writes them.
    """
    if config.input.choices_column or any(question.choices for question in config.input.asked.values()):
        raise ConfigError("input.choices: answers are free words here; jobs/label.py takes choices")
    return config


if __name__ == "__main__":
    run_script(answer)
