"""What is wrong with a job, one line per mistake, in words that a person can act on.

Values of storage options, of `runtime_env` and of the Pushgateway's URL may be secrets and are never quoted.
"""

import difflib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import groupby
from typing import Any

from pydantic import BaseModel, ValidationError

from star_batch.config.flags import FLAGS
from star_batch.config.input import Fetch, Question
from star_batch.config.schema import JobConfig
from star_batch.pruning import Pruning, field_names
from star_batch.wording import printable

_MAX_MISTAKES = 20


def explain(error: ValidationError, source: str | None, settings: Collection[str] = ()) -> Iterator[str]:
    """A heading and its lines. `source`: the file, None is the command line; `settings`: keys that `--set` gave."""
    mistakes = error.errors(include_url=False)
    # Alternatives of one key (a number or a share) arrive as one mistake each.
    by_key = groupby(_without_rivals(mistakes), key=lambda mistake: _key(mistake["loc"]))
    lines = [f"  {_explain_key(loc, list(group), _option(loc, source, settings))}" for loc, group in by_key]
    yield f"{printable(source or 'on the command line')}:"
    yield from lines[:_MAX_MISTAKES]
    if len(lines) > _MAX_MISTAKES:
        yield f"  and {len(lines) - _MAX_MISTAKES:,} more"


def _option(loc: tuple[str, ...], source: str | None, settings: Collection[str]) -> str | None:
    """By which option a key came, or could come, if by any."""
    key = ".".join(loc)
    is_whole = len(loc) > 1 or key not in JobConfig.model_fields  # a section may be wrong for what the file says
    if any(key == at or key.startswith(f"{at}.") or (is_whole and at.startswith(f"{key}.")) for at in settings):
        return "--set"
    return FLAGS.get(key) if source is None else None


_NESTED: dict[tuple[str, ...], type[BaseModel]] = {("input", "fetch"): Fetch, ("input", "questions"): Question}
"""Sections within a section, whose keys are named in full."""


def _key(loc: Sequence[int | str]) -> tuple[str, ...]:
    names = tuple(map(str, loc))
    if names[:2] not in _NESTED:
        return names[:2]
    return tuple(name for name in names if name not in ("Question", "str") and not name.isdigit())[:4]


def _without_rivals(mistakes: Sequence[Any]) -> Sequence[Any]:
    """Without that a section is no text, where something within that section is wrong."""
    inside = {mistake["loc"][:3] for mistake in mistakes if "Question" in mistake["loc"][3:-1]}
    return [mistake for mistake in mistakes if mistake["loc"][3:] != ("str",) or mistake["loc"][:3] not in inside]


def _explain_key(loc: tuple[str, ...], mistakes: list[Any], option: str | None) -> str:
    key = printable(".".join(loc))
    what = _what(loc, mistakes, _SHELL_QUOTES if option == "--set" else _QUOTES)
    if not key:
        return what
    if re.match(r"\w+=", what):  # options name their own field
        return f"{key}.{what}"
    return f"{key} ({option}): {what}" if option else f"{key}: {what}"


_QUOTES = " (put it in quotes)"
_SHELL_QUOTES = """ (put it in quotes that the shell leaves: '"..."')"""

_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a section with keys",
    "model_type": "a section with keys",
    "dataclass_type": "a section with keys",
}


def _what(loc: tuple[str, ...], mistakes: list[Any], in_quotes: str) -> str:
    kind, context = mistakes[0]["type"], mistakes[0].get("ctx", {})
    value = _show(loc, mistakes[0]["input"])
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return _unknown(loc)
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return printable(context["error"])
    if kind == "literal_error":
        return f"expected {context['expected']}, not {value}"
    if kind == "greater_than_equal":
        return f"expected {context['ge']} or more, not {value}"
    if kind == "greater_than":
        return f"expected more than {context['gt']}, not {value}"
    if kind == "less_than_equal":
        return f"expected {context['le']} or less, not {value}"
    if kind in ("string_too_short", "too_short"):
        return "is empty"
    expected = dict.fromkeys(_KINDS.get(mistake["type"], mistake["msg"]) for mistake in mistakes)
    quotes = in_quotes if set(expected) == {"text"} else ""
    return f"expected {' or '.join(expected)}, not {value}{quotes}"


def _show(loc: tuple[str, ...], value: object) -> str:
    if {"storage_options", "pushgateway", "runtime_env"} & set(loc) or isinstance(value, dict):
        return "what is given"
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return printable(text if len(text) <= 60 else text[:57] + "...")


def _unknown(loc: tuple[str, ...]) -> str:
    *parents, name = loc
    known = known_keys()
    section = _NESTED.get(loc[:2]) if len(loc) > 2 else None
    here = list(_names(section)) if section is not None else known[parents[0]] if parents else list(known)
    near = difflib.get_close_matches(name, here, n=2, cutoff=0.7)
    elsewhere = [f"{section}.{name}" for section, keys in known.items() if name in keys]
    if elsewhere or near:
        return f"unknown key; did you mean {' or '.join(elsewhere or near)}?"
    return f"unknown key; known: {', '.join(here)}"


def known_keys() -> dict[str, list[str]]:
    """Every section and its keys."""
    return {name: list(_names(field.annotation)) for name, field in JobConfig.model_fields.items()}


def _names(section: Any) -> Iterable[str]:
    if section is Pruning:
        return field_names()
    return section.model_fields if issubclass(section, BaseModel) else [field.name for field in fields(section)]
