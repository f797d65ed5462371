"""A finished job on one page that opens offline: `render` makes the HTML from numbers. Knows no storage and no Ray."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from star_batch.metrics import Summary

_TEMPLATES = Environment(
    loader=PackageLoader("star_batch", "report"),
    autoescape=True,  # names, labels and error types come from outside
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(summary: Summary, run: Mapping[str, Any]) -> str:
    """One HTML page about a job: its counts, failures, lengths and times, and the record of the run (`_run.json`)."""
    page = _TEMPLATES.get_template("report.html.jinja")
    return page.render(summary=summary, sections={name: part for name, part in run.items() if part})
