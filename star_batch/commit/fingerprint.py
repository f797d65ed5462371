"""What a job's answers depend on, as one hash and as the parts that went into it. Knows no files.

Answers of different fingerprints never meet in one output. Where the work runs, how it is cut, and the
version of this code are recorded elsewhere and do not count.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from star_batch.config import JobConfig
from star_batch.records import ANSWER_SCHEMA

SCHEMA_VERSION = 2
"""Raised when the columns of the answers change their meaning."""

# What the input section says about words and columns; not where the files are or how many rows to take.
_INPUT_FIELDS = frozenset(
    {
        "id_column",
        "image_column",
        "prompt_column",
        "prompt",
        "raw_prompt",
        "questions",
        "max_new_tokens_column",
        "decoding_column",
        "refused_column",
        "choices_column",
        "choices",
        "reference_column",
        "keep_columns",
        "max_image_pixels",
    }
)

# Each is one method's field. They were every method's when outputs were begun that still go on.
_ONCE_SHARED = {
    "early_keep": None,
    "late_keep": None,
    "late_layer": None,
    "early_scores": "encoder",
    "important_ratio": 0.5,
    "seed": 0,
}

# Options that came later, with what had always been done: they count where they say something else.
_CAME_LATER = {"late_scores": "mean"}
_INPUT_CAME_LATER = {"decode": "exact", "system": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What a checkpoint's own settings do to a job's answers.

    `repetition_penalty` is the job's if it gives one; `not_applied`: settings that the library would go by and the
    engine does not, as they may be shown.
    """

    repetition_penalty: float = 1.0
    not_applied: Mapping[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """What is not applied, in a line."""
        return ", ".join(f"{name}={value}" for name, value in self.not_applied.items())


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """`parts` maps dotted names to values; two jobs may share an output when all their parts are equal."""

    parts: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()[:32]

    def differences(self, other: "Fingerprint") -> list[str]:
        """A phrase for each part that differs, `other` being here: `pruning.keep: 0.25 there, 0.5 here`."""
        names = sorted({*self.parts, *other.parts})
        return [
            f"{name}: {_shown(self.parts, name)} there, {_shown(other.parts, name)} here"
            for name in names
            if self.parts.get(name) != other.parts.get(name)
        ]


def fingerprint_of(
    config: JobConfig,
    checkpoint: Mapping[str, str],
    generation: Generation | None = None,
    labels: Sequence[str] = (),
) -> Fingerprint:
    """The fingerprint of a job on a checkpoint of that identity and with these settings; `labels` are the input's."""
    sections = {
        "input": config.input.model_dump(mode="json", include=set(_INPUT_FIELDS)),
        "model": config.model.model_dump(mode="json", exclude={"device", "name", "trust_remote_code"}),
        "checkpoint": dict(checkpoint),
        "pruning": _ONCE_SHARED | _without_news(asdict(config.pruning)),
        "decoding": _decoding(config, generation or Generation()),
        "output": {"token_ids": config.output.token_ids},
        "schema": {"version": SCHEMA_VERSION},
    }
    if set(config.input.keep_columns) & set(ANSWER_SCHEMA.names):  # elsewhere no name depends on it
        sections["input"] |= {"keep_prefix": config.input.keep_prefix}
    sections["input"] |= {
        name: value for name, before in _INPUT_CAME_LATER.items() if (value := getattr(config.input, name)) != before
    }
    if labels:  # an output of numbers does not go on with names
        sections["input"] |= {"labels": list(labels)}
    # A round trip through JSON, so that parts read back from a file compare equal.
    flat = {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}
    return Fingerprint(json.loads(json.dumps(flat)))


def _without_news(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _CAME_LATER or value != _CAME_LATER[name]}


def _decoding(config: JobConfig, generation: Generation) -> dict[str, Any]:
    """The penalty counts, wherever it comes from; where there is none, as if nobody had ever heard of it."""
    values = asdict(config.decoding)
    own = values.pop("repetition_penalty")
    penalty = generation.repetition_penalty if own is None else own
    return values if penalty == 1.0 else values | {"repetition_penalty": float(penalty)}


def _shown(parts: Mapping[str, Any], name: str) -> str:
    return json.dumps(parts[name]) if name in parts else "nothing"
