"""A stage's options are a job's, by their names alone: to the configuration of a job, and to the columns it adds.

Checked as a job is, in the same words; what belongs to a job alone is refused with the reason. Knows no Ray.
"""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from star_batch.config import JobConfig, parse_config
from star_batch.config.explain import known_keys
from star_batch.errors import ConfigError
from star_batch.records import ANSWER_SCHEMA
from star_batch.wording import printable, quoted

_SECTIONS = ("input", "model", "cluster", "faults")
_FROM_DATASET = "the rows are those of the dataset, with all of its columns"
_OF_A_JOB = {
    **dict.fromkeys(("path", "kind", "id_column", "keep_columns", "limit", "duplicates", "vanished"), _FROM_DATASET),
    "questions": "each row is answered once: use a stage for each question, with a prefix of its own",
    **dict.fromkeys(("address", "runtime_env"), "the stage runs on the Ray that is there"),
    "name": "the model's name is the first argument",
}
# Nothing is read from there: it is no place of this machine, as rows come from anywhere and may not name its files.
_NOWHERE = "memory://dataset"

_LABEL = ("label", "label_probability", "label_margin", "label_probabilities")


def stage_config(model: object, sections: Mapping[str, object], options: Mapping[str, Any]) -> JobConfig:
    """The job that a stage does.

    Raises:
        ConfigError: an option is unknown or wrong, or belongs to a job alone.
    """
    known = known_keys()
    places = {key: section for section in reversed(_SECTIONS) for key in known[section] if key not in _OF_A_JOB}
    if mistakes := list(_mistakes(options, places)):
        raise ConfigError("Answers:", *(f"  {mistake}" for mistake in mistakes))
    values: dict[str, Any] = {name: _plain(section) for name, section in sections.items() if section is not None}
    roots = options.get("image_roots") or (_NOWHERE,)
    values["input"] = {"path": roots[0]}
    values["output"] = {"path": "memory://answers"} | {key: options[key] for key in ("token_ids",) if key in options}
    values["model"] = {"name": model} if isinstance(model, str) else _plain(model)
    for name, value in options.items():
        if value is not None and name in places and isinstance(values.setdefault(places[name], {}), dict):
            values[places[name]][name] = _plain(value)
    return parse_config(values, source="Answers")


def _mistakes(options: Mapping[str, Any], places: Mapping[str, str]) -> Iterator[str]:
    for name in options:
        if name in _OF_A_JOB:
            yield f"{name}: {_OF_A_JOB[name]}"
        elif name not in places and name != "token_ids":
            near = difflib.get_close_matches(name, places, n=2, cutoff=0.7)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(places))}"
            yield f"{printable(name)}: unknown option; {hint}"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, BaseModel):
        return value.model_dump()
    return dict(value) if isinstance(value, Mapping) else value


def added_columns(config: JobConfig, prefix: str) -> dict[str, str]:
    """The answers' columns that a stage adds, and what it calls them.

    Raises:
        ConfigError: a prefix that is no text that a name can begin with.
    """
    if not isinstance(prefix, str) or not prefix.isprintable():
        raise ConfigError(f"prefix: expected text, not {quoted(prefix)}")
    input = config.input
    left_out = {"id", "question_name", "reference"}
    left_out |= set() if input.choices is not None or input.choices_column is not None else set(_LABEL)
    left_out |= set() if input.reference_column is not None else {"is_correct"}
    left_out |= set() if config.output.token_ids else {"token_ids"}
    return {name: prefix + name for name in ANSWER_SCHEMA.names if name not in left_out}
