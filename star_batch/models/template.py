"""A checkpoint's chat template: the first of those it brings that has a place for the image, and that it ends.

A template is code from outside: it is rendered in the library's sandbox, the first time in a process of its own with
little time and memory. Knows no image and no weights.
"""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from star_batch.models import rendering
from star_batch.models.checkpoint import first_line
from star_batch.models.marks import message_content

logger = logging.getLogger(__name__)

Why: TypeAlias = Callable[[str], str | None]
"""Why a template cannot be used; None if it can."""

_NO_END = f"it takes over {rendering.SECONDS} s to render"
_REASONS = {
    rendering.NO_TEMPLATE: "it is no Jinja template",
    rendering.TOO_LONG: f"it makes more than {rendering.LONGEST:,} characters of a short question",
    rendering.TOO_MUCH_MEMORY: f"it needs more than {rendering.MEMORY >> 20:,} MiB",
}
_WALL_SECONDS = 120.0  # a busy machine gives a process its seconds late


def choose_template(brought: Iterable[object], why_not: Why) -> tuple[str | None, str]:
    """The first that can be used, else None; and why the others cannot.

    `brought` in the library's order: of each source a template, several by name, or None.

    Raises:
        ValueError: one of them does not end, or is none.
    """
    reasons: list[str] = []
    for template in dict.fromkeys(_one_of_each(brought, reasons)):
        reason = why_not(template)
        if reason is None:
            return template, ""
        reasons.append(reason)
    return None, reasons[0] if reasons else "it brings no chat template"


def _one_of_each(brought: Iterable[object], reasons: list[str]) -> Iterator[str]:
    """Of several, the library takes the one that is called `default`."""
    for template in brought:
        default = template.get("default") if isinstance(template, Mapping) else template
        if isinstance(default, str):
            yield default
        elif template is not None:
            reasons.append("none of its chat templates is called default")


@lru_cache(maxsize=64)
def check_ends(template: str, special_tokens: str, system: str | None = None) -> None:
    """Renders a short question in a process of its own; `special_tokens` are the tokenizer's, as JSON.

    `system`: the content of a system turn before it, as JSON.

    Raises:
        ValueError: it takes too long, needs or makes too much, or is no template.
    """
    before = [] if system is None else [{"role": "system", "content": json.loads(system)}]
    messages = [*before, {"role": "user", "content": message_content(["", "What is it?"])}]
    variables = {"messages": messages, "tools": None, "documents": None}
    both = json.loads(special_tokens) | variables | {"add_generation_prompt": True}
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(Path(rendering.__file__))],
            input=json.dumps({"template": template, "variables": both}).encode(),
            capture_output=True,
            timeout=_WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(_NO_END) from None
    if done.returncode < 0:
        raise ValueError(_NO_END)
    if done.returncode in _REASONS:
        raise ValueError(_REASONS[done.returncode])
    if done.returncode:
        logger.warning("the chat template could not be tried out: %s", first_line(OSError(done.stderr.decode()[-300:])))
