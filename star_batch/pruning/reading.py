"""How pydantic reads a section whose `method` says which class has the other fields. Knows no method.

A mistake is named by its key, and types are checked as strictly as everywhere in a job's file. Imports pydantic only
for who reads such a section.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

OwnFields = Callable[[Any, Mapping[str, Any]], dict[str, Any]]
"""`(class, section) -> the part of the section that is for the class`."""


def read_by(kind: type, classes: Mapping[str, type], own_fields: OwnFields) -> Any:
    """A schema for `kind`: an instance as it is, or what the class of the section's `method` makes of the section."""
    from pydantic_core import core_schema

    def read(value: object) -> object:
        if isinstance(value, kind):
            return value
        if not isinstance(value, dict):
            raise _mistake("dataclass_type", (), value, class_name=kind.__name__)
        return _read(value, classes, own_fields)

    return core_schema.no_info_plain_validator_function(read)


def _read(section: dict[str, Any], classes: Mapping[str, type], own_fields: OwnFields) -> object:
    method = section.get("method", "none")
    if not isinstance(method, str) or method not in classes:
        *others, last = map(repr, classes)
        raise _mistake("literal_error", ("method",), method, expected=f"{', '.join(others)} or {last}")
    fields = own_fields(classes[method], section)
    # As JSON, where pydantic's strict reading takes a list for a tuple.
    return _adapter(classes[method]).validate_json(json.dumps(fields, default=str), strict=True)


def _mistake(kind: str, loc: tuple[str, ...], value: object, **context: str) -> Exception:
    from pydantic_core import ValidationError

    return ValidationError.from_exception_data("pruning", [{"type": kind, "loc": loc, "input": value, "ctx": context}])


@cache
def _adapter(options: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(options)
