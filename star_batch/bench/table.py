"""Results as tables for a terminal; each fits 100 columns. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from star_batch.bench.decoding import Cost
from star_batch.bench.mix import Outcome, TimedOutcome
from star_batch.bench.results import STAGES, Point, Row

if TYPE_CHECKING:  # a table waits for no torch
    from star_batch.bench.sampling import Way

Column = tuple[str, Callable[[Row], str]]

_SPEED: tuple[Column, ...] = (
    ("who", lambda row: row.label),
    ("tokens", lambda row: f"{row.layer_tokens:.1f}"),
    ("images/s", lambda row: _rate(row.images_per_second)),
    ("spread", lambda row: f"{100 * (row.fastest - row.slowest) / row.images_per_second:.0f} %"),
    ("x generate", lambda row: _times(row.over_generate)),
    ("x none", lambda row: _times(row.over_none)),
    ("KV MB", lambda row: f"{row.kv_bytes_per_row / 1e6:.3g}"),
    ("rows", lambda row: f"{row.rows_per_step:.1f}"),
    ("roofline", lambda row: _percent(row.roofline)),
    ("accuracy", lambda row: _percent(row.accuracy)),
)
_INSIDE: tuple[Column, ...] = (
    ("who", lambda row: row.label),
    ("fit", lambda row: "" if row.most_rows is None else f"{row.most_rows:,}"),
    ("padding", lambda row: _percent(row.padding)),
    ("slots", lambda row: f"{100 * row.occupancy:.0f} %"),
    ("shared", lambda row: f"{row.shared_tokens:.1f}" if row.shared_tokens else ""),
    ("GiB", lambda row: "" if row.peak_bytes is None else f"{row.peak_bytes / 2**30:.2f}"),
    ("limit", lambda row: _rate(row.limit)),
    *((stage, lambda row, stage=stage: _seconds(row.stage_seconds.get(stage))) for stage in STAGES),
)


def tables(rows: Sequence[Row], *, wide: bool = False) -> list[Table]:
    """One for each answer length, its contenders in the order in which they were measured; two if `wide`."""
    shown = []
    for length in dict.fromkeys(row.answer_tokens for row in rows):
        alike = [row for row in rows if row.answer_tokens == length]
        shown.append(_table(f"Answers of {length} tokens", alike, _SPEED))
        if wide:
            shown.append(_table(f"Answers of {length} tokens, inside: stages in seconds", alike, _INSIDE))
    return shown


def _table(title: str, rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    """Without columns that nobody fills."""
    filled = [column for column in columns if any(map(column[1], rows))]
    return _grid(title, [name for name, _ in filled], ([show(row) for _, show in filled] for row in rows))


_MIX_NAMES = ("policy", "prefills", "rows", "padding", "steps", "slots used", "key padding")


def native_table(outcomes: Iterable[TimedOutcome]) -> Table:
    """The same, and how fast the rows came out."""
    cells = ([*_mix_cells(outcome.batches), _rate(outcome.rows_per_second)] for outcome in outcomes)
    return _grid("Mixed shapes", (*_MIX_NAMES, "rows/s"), cells)


def decoding_table(costs: Iterable[Cost]) -> Table:
    """Milliseconds of an image, and what the difference is."""
    names = ("image processor", "exact ms", "fast ms", "times as fast", "sides divided by", "levels apart", "mean")
    cells = (
        [
            cost.processor,
            f"{1000 * cost.exact:.3g}",
            f"{1000 * cost.fast:.3g}",
            f"{cost.exact / cost.fast:.2f}",
            str(cost.divided_by),
            str(cost.most),
            f"{cost.mean:.2f}",
        ]
        for cost in costs
    )
    return _grid("Decoding", names, cells)


def sampling_table(ways: Iterable[Way], rows: int, vocabulary: int) -> Table:
    """Milliseconds of a decode step, and their ratio to the argmax."""
    cells = ([way.name, f"{1000 * way.seconds:.3g}", f"{way.over_greedy:.2f}"] for way in ways)
    return _grid(f"{rows:,} rows, {vocabulary:,} tokens", ("way", "ms a step", "x greedy"), cells)


def mix_table(outcomes: Iterable[Outcome]) -> Table:
    """How well batches are filled, policy by policy."""
    return _grid("Mixed lengths", _MIX_NAMES, map(_mix_cells, outcomes))


def _mix_cells(outcome: Outcome) -> list[str]:
    return [
        outcome.policy,
        f"{outcome.prefills:,}",
        f"{outcome.rows_per_prefill:.1f}",
        _percent(outcome.prefill_padding),
        f"{outcome.decode_steps:,}",
        _percent(outcome.occupancy),
        _percent(outcome.key_padding),
    ]


def scale_table(points: Iterable[Point]) -> Table:
    """How each number of actors fared."""
    names = ("actors", "rows/s each", "to the end", "waiting", "cores busy", "driver", "MiB", "growth", "ms/image")
    cells = (
        [
            f"{point.actors}",
            _rate(point.rows_per_second),
            _rate(point.overall),
            _percent(point.idle),
            _percent(point.cpu_share),
            f"{point.driver_cores:.2f}",
            f"{point.driver_bytes / 2**20:,.0f}",
            f"{point.driver_growth_bytes / 2**20:+.1f}",
            f"{1e3 * point.preprocess_seconds:.1f}",
        ]
        for point in points
    )
    return _grid("The pipeline with sleeping engines", names, cells)


def _grid(title: str, names: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _rate(value: float) -> str:
    """Three digits that say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
