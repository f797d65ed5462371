"""The comparison as one picture: accuracy over tokens, a line per method, the controls grey. Measures nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from star_batch.demo.compare import Line
from star_batch.pruning import CONTROLS
from star_batch.report.svg import COLOURS, apart, plot, standalone
from star_batch.wording import amount, printable

_WIDTH, _LEAST_HEIGHT = 7.4, 4.2  # inches
_POINTS = 72  # of an inch
_LABEL_POINTS = 15  # from one label to the next
_AROUND_POINTS = 90  # of the height: heading, ticks and the words below them
_LONGEST_LABEL = 40
_APART = 1.025  # between the points of two methods at the same number of tokens
_TICKS_APART = 1.12
_METHOD_COLOURS = ("first", "second", "third", "fourth", "fifth", "sixth")
_MARKERS = ("o", "s", "^", "D")
_DASHES = {"random": (0, (1, 1.5)), "stride": (0, (4, 2))}
_TITLE = "Accuracy over visual tokens, a line for each pruning method"
_HEADING = "Exact answers in percent of {rows:,} questions, ± one standard error"
_BELOW = "visual tokens that a decoder layer sees on average, fewer to the right"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    """A method's points, most tokens first: tokens, accuracy and its standard error in percent.

    They are drawn at `shift` times their tokens, a little beside those of others: no error bar hides another.
    """

    label: str
    colour: str
    marker: str
    dashes: Any
    shift: float
    points: tuple[tuple[float, float, float], ...]


def picture(lines: Sequence[Line]) -> str:
    """SVG in a file of its own; lines that could not be measured are not in it."""
    series = _series(lines)
    height = max(_LEAST_HEIGHT, (_AROUND_POINTS + _LABEL_POINTS * len(series)) / _POINTS)
    num_rows = max(len(line.measured.is_correct) for line in lines if line.measured is not None)
    heading = _HEADING.format(rows=num_rows)
    return standalone(plot(_TITLE, lambda axes: _draw(axes, series, height, heading), _WIDTH, height))


def _series(lines: Sequence[Line]) -> list[_Series]:
    """`none` first, as in `lines`."""
    labels = list(dict.fromkeys(line.label for line in lines if line.measured is not None))
    methods = [label for label in labels if label not in CONTROLS]
    middle = len(labels) / 2
    shifts = [_APART ** (middle - number) if number else 1.0 for number in range(len(labels))]
    return [_one(label, methods, lines, shift) for label, shift in zip(labels, shifts, strict=True)]


def _one(label: str, methods: Sequence[str], lines: Sequence[Line], shift: float) -> _Series:
    number = methods.index(label) if label in methods else None
    measured = [line.measured for line in lines if line.label == label and line.measured is not None]
    points = [(each.layer_tokens, 100 * each.accuracy, 100 * each.standard_error) for each in measured]
    return _Series(
        label=printable(label, _LONGEST_LABEL),
        colour=COLOURS["faint" if number is None else _METHOD_COLOURS[number % len(_METHOD_COLOURS)]],
        marker="." if number is None else _MARKERS[number // len(_METHOD_COLOURS) % len(_MARKERS)],
        dashes=_DASHES.get(label, "solid"),
        shift=shift,
        points=tuple(sorted(points, reverse=True)),
    )


def _draw(axes: Any, series: Sequence[_Series], height: float, heading: str) -> None:
    for each in series:
        _draw_points(axes, each)
    _set_places(axes, series)
    none = series[0]
    tokens, accuracy, _ = none.points[0]
    axes.hlines(accuracy, tokens, axes.get_xlim()[1], color=none.colour, linewidth=1)
    axes.margins(y=0.06)
    axes.autoscale_view(scalex=False)
    axes.set_title(heading, loc="left", fontsize=11, color=COLOURS["ink"], pad=12)
    axes.set_xlabel(_BELOW, loc="left")
    axes.yaxis.get_major_locator().set_params(nbins=6, steps=[1, 2, 5, 10])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(True, axis="y")
    _write_labels(axes, series, _LABEL_POINTS / (_POINTS * height - _AROUND_POINTS))


def _draw_points(axes: Any, series: _Series) -> None:
    tokens, accuracies, errors = zip(*series.points, strict=True)
    axes.errorbar(
        [series.shift * each for each in tokens],
        accuracies,
        errors,
        color=series.colour,
        marker=series.marker,
        markersize=5,
        linewidth=1.6,
        linestyle=series.dashes,
        elinewidth=1,
        capsize=2,
    )


def _set_places(axes: Any, series: Sequence[_Series]) -> None:
    """Equal steps for equal factors, fewer tokens to the right; a tick at each budget that has room for one."""
    tokens = sorted({tokens for each in series for tokens, *_ in each.points})
    ticks: list[float] = []
    for each in tokens:
        if not ticks or each >= _TICKS_APART * ticks[-1]:
            ticks.append(each)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [amount(round(tick, 1)) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(1.18 * tokens[-1], tokens[0] / 1.18)


def _write_labels(axes: Any, series: Sequence[_Series], gap: float) -> None:
    """Beside the axes, each at its line's end or, where two would overlap, moved and tied to it."""
    low, high = axes.get_ylim()
    right = axes.get_xlim()[1]
    ends = sorted(series, key=lambda each: each.points[-1][1])
    places = apart([(each.points[-1][1] - low) / (high - low) for each in ends], gap)
    for each, place in zip(ends, places, strict=True):
        tokens, accuracy, _ = each.points[-1]
        axes.annotate(
            each.label,
            (right if each is series[0] else each.shift * tokens, accuracy),
            (1.03, place),
            textcoords="axes fraction",
            va="center",
            color=each.colour,
            annotation_clip=False,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": each.colour, "linewidth": 0.7, "relpos": (0, 0.5)}
            | {"shrinkA": 2, "shrinkB": 0 if each is series[0] else 5},
        )
