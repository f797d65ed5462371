"""The plots of a job's report. Knows no row: it is given sums."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from star_batch.report.svg import COLOURS, plot
from star_batch.wording import amount, count, duration

Numbers = NDArray[np.float64]

_WIDTH, _HEIGHT = 4.2, 2.5  # inches of 72 points: about what a phone shows without scaling
_MAX_POINTS = 120
_MAX_BARS = 24
_SHORTEST = 0.05  # seconds that are worth a bar
_ENGINE_STAGES = ("vision", "select", "prefill", "decode")


def throughput(pace: pa.Table) -> str | None:
    """Rows per second over the time of the run; None where no time has passed.

    `pace` has a row per actor and interval: `actor`, `start` and `end` in seconds, and what was counted between.
    """
    times, done = _over_time(pace, ("rows_answered", "rows_failed"))
    if not len(times):
        return None
    per_second = (done["rows_answered"] + done["rows_failed"]) / np.diff(times)

    def draw(axes: Any) -> None:
        _draw_over_time(axes, times, per_second, "first", is_filled=True)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
        axes.set_ylim(0.0, 1.15 * max(float(per_second.max()), 1e-9))
        axes.yaxis.get_major_locator().set_params(nbins=4)

    return _plot("Rows per second over the time of the run", draw)


def occupancy(pace: pa.Table) -> str | None:
    """How busy the engines were and how full their batches, over time; None if nothing was decoded."""
    stages = [f"{stage}_seconds" for stage in _ENGINE_STAGES]
    spans = pace.append_column("seconds", pc.subtract(pace["end"], pace["start"]))
    times, done = _over_time(spans, ("seconds", "decode_rows", "decode_slots", *stages))
    if not len(times) or not done["decode_slots"].any():
        return None
    busy = np.sum([done[stage] for stage in stages], axis=0)

    def draw(axes: Any) -> None:
        _draw_over_time(axes, times, 100 * _shares(busy, done["seconds"]), "second", label="engines at work")
        slots = _shares(done["decode_rows"], done["decode_slots"])
        _draw_over_time(axes, times, 100 * slots, "first", label="slots in use")
        axes.set_ylim(0, 104)
        axes.set_yticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=2, borderaxespad=0, handlelength=1.2)

    return _plot("Engines at work and decode slots in use, in percent, over the time of the run", draw)


def stages(seconds: Mapping[str, float]) -> str | None:
    """Busy time by stage, in the order in which a row goes through them; None if there was none."""
    busy = {name.replace("_", " "): value for name, value in seconds.items() if value >= _SHORTEST}
    total = sum(busy.values())
    shown = {name: f"{duration(value)}, {_whole_percent(value / total)}" for name, value in busy.items()}
    return _bars("Busy time by stage", busy, shown) if busy else None


def visual_tokens(lengths: Mapping[str, float]) -> str:
    """Visual tokens per image: offered, then after each stage."""
    most = max(lengths.values())
    shown = {
        name: amount(value) + (f", {_whole_percent(value / most)}" if value < most else "")
        for name, value in lengths.items()
    }
    return _bars("Visual tokens per image", lengths, shown)


def text_lengths(name: str, counts: Mapping[int, int]) -> str | None:
    """How many rows had texts of which length."""
    if not counts:
        return None
    values, weights = np.array(list(counts)), np.array(list(counts.values()))
    least, most = int(values.min()), int(values.max())
    step = max(1, -(-(most - least + 1) // _MAX_BARS))
    edges = np.arange(least, most + step + 1, step) - 0.5
    rows, _ = np.histogram(values, edges, weights=weights)

    def draw(axes: Any) -> None:
        axes.bar(edges[:-1], rows, width=0.86 * step, align="edge", color=COLOURS["second"])
        axes.set_xlabel("tokens")
        axes.set_ylabel("rows")
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=8)
        axes.yaxis.get_major_locator().set_params(integer=True, nbins=4)
        axes.yaxis.set_major_formatter(lambda value, _: count(value))
        axes.grid(True, axis="y")

    return _plot(f"Rows by length of the {name}", draw)


def margins(counts: Sequence[int]) -> str | None:
    """How many labels are how far above the next, in equal steps from 0 to 1; None if there are none."""
    if not any(counts):
        return None
    edges = np.linspace(0.0, 1.0, len(counts) + 1)

    def draw(axes: Any) -> None:
        axes.bar(edges[:-1], counts, width=0.86 / len(counts), align="edge", color=COLOURS["second"])
        axes.set_xlabel("probability of the label less that of the next")
        axes.set_ylabel("rows")
        axes.set_xlim(0.0, 1.0)
        axes.yaxis.get_major_locator().set_params(integer=True, nbins=4)
        axes.yaxis.set_major_formatter(lambda value, _: count(value))
        axes.grid(True, axis="y")

    return _plot("Rows by margin of the label", draw)


def _whole_percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _plot(title: str, draw: Callable[[Any], None], height: float = _HEIGHT) -> str:
    return plot(title, draw, _WIDTH, height)


def _over_time(pace: pa.Table, fields: Sequence[str]) -> tuple[Numbers, dict[str, Numbers]]:
    """Points in time, and for each span between two of them what all actors did in it, by field; or nothing."""
    starts, ends = _column(pace, "start"), _column(pace, "end")
    if not pace.num_rows or ends.max() <= starts.min():
        return np.zeros(0), {}
    num_spans = max(1, min(_MAX_POINTS, len(np.unique(ends))))
    times = np.linspace(starts.min(), ends.max(), num_spans + 1)
    totals = {name: np.zeros(num_spans) for name in fields}
    actors = np.array(pace["actor"].to_pylist())
    for actor in np.unique(actors):
        mine = np.flatnonzero(actors == actor)
        mine = mine[np.argsort(ends[mine])]
        knots = np.concatenate([starts[mine[:1]], ends[mine]])
        for name in fields:
            done = np.concatenate([[0.0], np.cumsum(_column(pace, name)[mine])])
            totals[name] += np.diff(np.interp(times, knots, done))
    return times - times[0], totals


def _column(table: pa.Table, name: str) -> Numbers:
    values: Numbers = np.asarray(table[name].to_numpy(), dtype=np.float64)
    return values


def _shares(part: Numbers, whole: Numbers) -> Numbers:
    shares: Numbers = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return shares.clip(0.0, 1.0)


def _draw_over_time(
    axes: Any, times: Numbers, values: Numbers, colour: str, *, is_filled: bool = False, label: str = ""
) -> None:
    """A level for each span between two points in time."""
    unit, name = next((unit, name) for unit, name in _UNITS if times[-1] >= 2 * unit or unit == 1)
    places, held = times / unit, np.append(values, values[-1:])
    if is_filled:
        axes.fill_between(places, held, step="post", color=COLOURS[colour], alpha=0.18, linewidth=0)
    axes.step(places, held, where="post", color=COLOURS[colour], linewidth=1.6, label=label)
    axes.set_xlabel(name)
    axes.xaxis.get_major_locator().set_params(nbins=6)
    axes.set_xlim(0.0, places[-1])
    axes.grid(True, axis="y")


_UNITS = ((3600, "hours"), (60, "minutes"), (1, "seconds"))


def _bars(title: str, values: Mapping[str, float], shown: Mapping[str, str]) -> str:
    """A bar for each name, from above, with what is to be said beside it."""

    def draw(axes: Any) -> None:
        bars = axes.barh(list(values), list(values.values()), height=0.62, color=COLOURS["first"])
        axes.bar_label(bars, [shown[name] for name in values], padding=5, color=COLOURS["ink"])
        axes.invert_yaxis()
        axes.set_xlim(0.0, 1.6 * max(values.values()))
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", colors=COLOURS["ink"])

    return _plot(title, draw, height=0.25 + 0.34 * len(values))
