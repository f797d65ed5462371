"""A job from its YAML file, from what was typed, or from both. Knows no command.

Values are taken as they are written: `true` is no number and `7` no text.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from star_batch.config.explain import explain
from star_batch.config.schema import JobConfig
from star_batch.config.settings import put, read_settings
from star_batch.errors import ConfigError
from star_batch.job_file import read_yaml

# A section that is a plain string means this key of it.
_SHORT = {"model": "name", "output": "path"}
# Of keys that exclude each other, the one that was typed replaces the file's.
_RIVALS = (
    ("input.prompt", "input.prompt_column", "input.questions"),
    ("input.choices", "input.choices_column"),
)


def load_config(file: str | Path | None, overrides: Mapping[str, Any], settings: Iterable[str] = ()) -> JobConfig:
    """A job from a YAML file, from what was typed, or from both: a setting wins over the file, a flag over both.

    `overrides` maps dotted keys (`pruning.keep`) to values of flags; None means that the flag was not given.
    `settings` are texts such as `faults.max_failed=5`. A `pruning.method` other than the file's starts the section
    afresh: only `keep` is taken from the file, as the other keys belong to a method.

    Raises:
        ConfigError: the file cannot be read, or something is said that is not allowed. One line per mistake.
    """
    values = _sections(read_yaml(Path(file))) if file is not None else {"input": {}, "output": {}, "model": {}}
    flags = {key: value for key, value in overrides.items() if value is not None}
    given = read_settings(settings)
    typed = given | flags
    _change_method(values, typed.get("pruning.method"))
    for group in (given, flags):
        _drop_rivals(values, group)
        for key, value in group.items():
            put(values, key, value)
    return _checked(values, source=str(file) if file is not None else None, settings=given.keys() - flags.keys())


def parse_config(values: Mapping[str, Any], source: str | None = None) -> JobConfig:
    """Checked values; `source` is the file's name, None stands for the command line.

    Raises:
        ConfigError: with each mistake named by its key.
    """
    return _checked(values, source, settings=())


def _checked(values: Mapping[str, Any], source: str | None, settings: Collection[str]) -> JobConfig:
    # As JSON, because pydantic's strict reading takes a list for a tuple there.
    text = json.dumps(_sections(values), default=str)
    try:
        return JobConfig.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise ConfigError(*explain(error, source, settings)) from None


def _sections(values: Mapping[str, Any]) -> dict[str, Any]:
    """Short forms written out; a section without any key is a section that is not there."""
    return {
        key: {_SHORT[key]: value} if key in _SHORT and isinstance(value, str) else value
        for key, value in values.items()
        if value is not None
    }


def _change_method(values: dict[str, Any], method: object) -> None:
    section = values.get("pruning")
    if method is not None and isinstance(section, dict) and section.get("method", "none") != method:
        carried = {"keep"} - ({"keep"} if method == "none" else set())
        values["pruning"] = {key: value for key, value in section.items() if key in carried}


def _drop_rivals(values: dict[str, Any], typed: Mapping[str, Any]) -> None:
    here = {".".join(key.split(".")[:2]) for key, value in typed.items() if value is not None}
    for rivals in _RIVALS:
        section = values.get("input")
        if here & set(rivals) and isinstance(section, dict):
            gone = {key.partition(".")[2] for key in rivals if key not in here}
            values["input"] = {key: value for key, value in section.items() if key not in gone}
