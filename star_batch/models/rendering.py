"""A program of its own: renders a chat template once, with little memory and time. Knows nothing of this package.

A template is code from outside. Its sandbox keeps it from files and names, but not from loops that never end nor
from texts of gigabytes; so the first rendering happens where it can be stopped. What it renders is not used.
Environment and variables are those that transformers gives a template.
"""

import json
import resource
import sys
import time
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 5
MEMORY = 2**30
LONGEST = 1_000_000
"""Characters of a rendered prompt."""

NO_TEMPLATE, TOO_LONG, TOO_MUCH_MEMORY = 64, 65, 66


class _Generation(Extension):
    """The library's own tag around what an assistant says."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _environment() -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals |= {"raise_exception": _raise, "strftime_now": time.strftime}
    return environment


def _render(template: str, variables: dict[str, Any]) -> int:
    try:
        compiled = _environment().from_string(template)
    except MemoryError:
        return TOO_MUCH_MEMORY
    except Exception:
        return NO_TEMPLATE
    length = 0
    try:
        for part in compiled.generate(**variables):
            length += len(part)
            if length > LONGEST:
                return TOO_LONG
    except MemoryError:
        return TOO_MUCH_MEMORY
    except Exception:  # it may refuse these messages: whoever renders it in earnest will be told
        return 0
    return 0


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(_render(**json.loads(sys.stdin.buffer.read())))
