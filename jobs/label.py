"""Labels for images: each answer is one of a fixed set of choices, with a probability for every choice.

python jobs/label.py --config jobs/label.yaml
ray job submit --working-dir . -- python jobs/label.py --config jobs/label.yaml
"""

from star_batch.cli.script import run_script
from star_batch.config import JobConfig
from star_batch.errors import ConfigError


def label(config: JobConfig) -> JobConfig:
    """Label images: the answer to a question is always one of its choices.

    With references the agreement is measured, and the table of references and labels is shown.
    """
    if config.input.choices_column is None:
        for name, question in config.input.asked.items():
            if question.choices is None:
                key = "choices or a choices_column" if name is None else f"questions.{name}.choices"
                raise ConfigError(f"input.{key}: is missing; labels are chosen, jobs/answer.py answers freely")
    return config


if __name__ == "__main__":
    run_script(label)
