"""What is typed after `bench compare`, as the values that it stands for. Knows no model."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from star_batch.bench.comparison import Comparison
from star_batch.errors import ConfigError

T = TypeVar("T")

GENERATE_BATCHES = (1, 16, 32)


def comparison_of(given: Mapping[str, Any]) -> Comparison:
    """What was typed, as a comparison.

    Raises:
        ConfigError: a list or a range that is none.
    """
    parsed = {
        "methods": values_of(given["methods"], str, "methods"),
        "keeps": None if given["keep"] is None else values_of(given["keep"], _amount, "keep"),
        "answer_tokens": values_of(given["answer_tokens"], int, "answer-tokens"),
        "generate_batches": _batches(given["generate_batches"], given["requests"]),
        "prompt_words": _range(given["prompt_words"]),
    }
    names = {field.name for field in fields(Comparison)}
    return Comparison(**{name: value for name, value in given.items() if name in names} | parsed)


def _batches(text: str | None, num_requests: int) -> tuple[int, ...]:
    if text is not None:
        return values_of(text, int, "generate-batches")
    return tuple(batch for batch in GENERATE_BATCHES if batch <= num_requests)


def values_of(text: str, kind: Callable[[str], T], name: str) -> tuple[T, ...]:
    """`64,192` and the like; nothing is an empty list."""
    try:
        return tuple(kind(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        raise ConfigError(f"--{name} {text!r}: give values with commas between them") from None


def _amount(text: str) -> int | float:
    """A number of tokens if it is written as one (`64`), a share if not (`0.25`)."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def _range(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    try:
        return int(least), int(most or least)
    except ValueError:
        raise ConfigError(f"--prompt-words {text!r}: give the least and the most, such as 8:48") from None
