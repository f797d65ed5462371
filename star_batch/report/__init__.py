"""A job on one page that opens offline: `render` makes the HTML from numbers. Knows no storage and no Ray."""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from star_batch import wording
from star_batch.metrics import Summary
from star_batch.report import plots
from star_batch.report.gallery import Choice, Grid, Sample, choose
from star_batch.report.labels import NUM_BINS, Confusion, confusion_of
from star_batch.report.rows import RowNotes

_LONGEST_TEXT = 4000
"""Characters of a prompt or an answer that a card shows."""


def _on_page(value: object) -> object:
    """Whatever stands between braces in the template: what is markup already was made here."""
    return value if isinstance(value, Markup) else wording.on_page(str(value))


_TEMPLATES = Environment(
    loader=PackageLoader("star_batch", "report"),
    autoescape=True,  # ids, prompts, answers and errors come from outside
    finalize=_on_page,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {name: getattr(wording, name) for name in ("amount", "count", "rate", "percent", "duration")}
_TEMPLATES.filters |= {"name": wording.printable, "words": functools.partial(wording.cut, most=_LONGEST_TEXT)}
_TEMPLATES.filters["pretty"] = functools.partial(json.dumps, indent=2, ensure_ascii=False, default=str)
_FACTS = (
    ("model", "config", "model", "name"),
    ("revision", "config", "model", "revision"),
    ("dtype", "config", "model", "dtype"),
    ("pruning", "config", "pruning", "method"),
    ("keep", "config", "pruning", "keep"),
    ("longest answer", "config", "decoding", "max_new_tokens"),
    ("repetition penalty", "generation", "repetition_penalty"),
    ("generation settings not applied", "generation", "not_applied"),
    ("actors", "config", "cluster", "actors"),
    ("machine", "hardware", "platform"),
    ("started", "started"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What there is to show of a job: `place` is its output, `state` a word such as complete or running.

    `pace` has a row per actor and interval, with the names of `EngineStats`; `run` is the record of the run.
    """

    place: str
    state: str
    summary: Summary
    run: Mapping[str, Any] = field(default_factory=dict)
    notes: RowNotes = field(default_factory=RowNotes)
    pace: pa.Table | None = None
    samples: Sequence[Sample] = ()


def render(report: Report) -> str:
    """One HTML page: what ran, counts, pace, stages, lengths, pictures with the tokens kept, failures."""
    page = _TEMPLATES.get_template("report.html.jinja")
    facts = dict(_facts(report.run))
    return page.render(
        report=report,
        summary=report.summary,
        notes=report.notes,
        facts=facts,
        what=_what(facts),
        sections={name: part for name, part in report.run.items() if part},
        cards=choose(report.samples),
        tables=list(_confusions(report.summary)),
        plots={name: Markup(plot) for name, plot in _plots(report) if plot is not None},
    )


def _facts(run: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What is worth a line of its own; a record of another version may lack some."""
    for name, *path in _FACTS:
        value: Any = run
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value not in (None, {}):
            yield name, value


def _what(facts: Mapping[str, Any]) -> str:
    """The run in a few words: `demo · star, keep 36 · 2026-11-20`."""
    kept = f", keep {facts['keep']}" if "keep" in facts else ""
    pruning = f"{facts['pruning']}{kept}" if "pruning" in facts else ""
    words = (facts.get("model", ""), pruning, str(facts.get("started", ""))[:10])
    return " · ".join(str(word) for word in words if word)


def _plots(report: Report) -> Iterator[tuple[str, str | None]]:
    summary, notes = report.summary, report.notes
    if report.pace is not None:
        yield "throughput", plots.throughput(report.pace)
        yield "occupancy", plots.occupancy(report.pace)
    yield "stages", plots.stages(summary.stage_seconds)
    if summary.mean_visual_tokens:
        yield "visual", plots.visual_tokens(_visual_lengths(summary))
    yield "prompts", plots.text_lengths("prompt", notes.prompt_tokens)
    yield "outputs", plots.text_lengths("answer", notes.output_tokens)
    yield "margins", plots.margins([notes.margins[number] for number in range(NUM_BINS)])


def _confusions(summary: Summary) -> Iterator[Confusion]:
    for question, table in summary.confusion.items():
        yield confusion_of(question, table, summary.agreement.get(question, 0.0))


def _visual_lengths(summary: Summary) -> dict[str, float]:
    """What is offered, what each stage leaves, and the mean of what the layers see."""
    kept = summary.mean_kept_tokens
    late = [f"after late stage {number}" for number in range(1, len(kept))]
    names = ["after the early stage", *(late if len(late) > 1 else ["after the late stage"])]
    lengths = {"offered": summary.mean_visual_tokens or 0.0} | dict(zip(names, kept, strict=False))
    return lengths if summary.mean_layer_tokens is None else lengths | {"mean over layers": summary.mean_layer_tokens}


__all__ = ["Choice", "Grid", "Report", "RowNotes", "Sample", "render"]
