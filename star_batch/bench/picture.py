"""One picture of the results: images/s over tokens kept, accuracy beside it where it is known. Knows no model."""

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from star_batch.bench.results import Results, Row
from star_batch.report.svg import apart

_INK, _FAINT, _GRID = "#1f2937", "#6b7280", "#e5e7eb"
_COLOURS = {"star": "#c2410c", "vispruner": "#1d4ed8", "random": "#a16207", "stride": "#0f766e"}
_APART = 1.04  # between the points of two methods at the same number of tokens
_LABEL_GAP = 0.062  # of a panel's height: what a line of text needs
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.titlesize": 11,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


def draw(results: Results, file: Path) -> None:
    """A panel per answer length and, with references, one for accuracy; PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lengths = list(dict.fromkeys(row.answer_tokens for row in results.rows))
    has_accuracy = any(row.accuracy is not None for row in results.rows)
    num_panels = len(lengths) + has_accuracy
    with pyplot.rc_context(_STYLE):
        figure, panels = pyplot.subplots(1, num_panels, figsize=(0.6 + 4.4 * num_panels, 4.6), squeeze=False)
        for panel, length in zip(panels[0], lengths, strict=False):
            rows = [row for row in results.rows if row.answer_tokens == length]
            _draw_speed(panel, rows, length)
        if has_accuracy:
            _draw_accuracy(panels[0][-1], [row for row in results.rows if row.answer_tokens == lengths[0]])
        letters = 20 * num_panels
        figure.suptitle(textwrap.fill(_title(results), 2 * letters), x=0.01, ha="left", fontsize=12, fontweight="bold")
        note = textwrap.fill(f"{_SPEED_NOTE} {_ACCURACY_NOTE}" if has_accuracy else _SPEED_NOTE, 3 * letters)
        figure.text(0.01, 0.015, note, ha="left", va="bottom", fontsize=8, color=_FAINT)
        figure.tight_layout(rect=(0, 0.04 * (note.count("\n") + 1), 1, 1), w_pad=2.5)
        figure.savefig(file, dpi=160)
        pyplot.close(figure)


_SPEED_NOTE = "Images per second: median of the rounds, whiskers to the slowest and fastest; 2.0x is twice our none."
_ACCURACY_NOTE = "Exact answers: whiskers are one standard error."


def _title(results: Results) -> str:
    about = results.about
    device = about["cpu"] if about["device"] == "cpu" else about["device"]
    return f"{about['model']}, {about['dtype']}, {about['requests']} requests on {device}"


def _draw_speed(panel: Any, rows: Sequence[Row], length: int) -> None:
    labels = _draw_methods(panel, rows, lambda row: (row.slowest, row.images_per_second, row.fastest))
    fastest = max((row for row in rows if row.method == "generate"), key=lambda r: r.images_per_second, default=None)
    if fastest is not None:
        labels.append(_draw_level(panel, fastest.images_per_second, fastest.label, dashed=True))
    labels += [_draw_level(panel, r.images_per_second, "none") for r in rows if r.method == "none"]
    _mark_ratios(panel, rows)
    _finish(panel, rows, labels, f"Images per second, answers of {length} tokens")


def _draw_accuracy(panel: Any, rows: Sequence[Row]) -> None:
    labels = _draw_methods(panel, rows, _accuracy_percent)
    labels += [_draw_level(panel, _accuracy_percent(row)[1], "none") for row in rows if row.method == "none"]
    _finish(panel, rows, labels, f"Exact answers in %, of {rows[0].num_references:,}")


def _accuracy_percent(row: Row) -> tuple[float, float, float]:
    """With one standard error below and above."""
    accuracy = row.accuracy or 0.0
    error = math.sqrt(accuracy * (1 - accuracy) / max(1, row.num_references))
    return 100 * (accuracy - error), 100 * accuracy, 100 * (accuracy + error)


Value = Callable[[Row], tuple[float, float, float]]
"""What is drawn of a row: lower end, middle, upper end."""

_Label = tuple[float, str, str]  # height, words, colour


def _draw_methods(panel: Any, rows: Sequence[Row], value: Value) -> list[_Label]:
    """A line per method; their points stand a little apart, so that no whisker hides another."""
    labels: list[_Label] = []
    methods = _by_method(rows)
    for number, (method, points) in enumerate(methods):
        colour, shift = _COLOURS.get(method, _FAINT), _APART ** (number - (len(methods) - 1) / 2)
        values = [value(row) for row in points]
        heights = [middle for _, middle, _ in values]
        spread = [middle - low for low, middle, _ in values], [high - middle for _, middle, high in values]
        places = [row.layer_tokens * shift for row in points]
        panel.errorbar(places, heights, spread, color=colour, marker="o", markersize=6, linewidth=2, capsize=3)
        labels.append((heights[-1], method, colour))
    return labels


def _by_method(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    pruned = [row for row in rows if row.keep is not None]
    methods = dict.fromkeys(row.method for row in pruned)
    return [(m, sorted((r for r in pruned if r.method == m), key=lambda r: r.layer_tokens)) for m in methods]


def _draw_level(panel: Any, height: float, words: str, *, dashed: bool = False) -> _Label:
    colour = _FAINT if dashed else _INK
    panel.axhline(height, color=colour, linewidth=1.5, linestyle=(0, (5, 3)) if dashed else "solid", zorder=1)
    return height, f"{words}: {_short(height)}", colour


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _mark_ratios(panel: Any, rows: Sequence[Row]) -> None:
    """Above the points at each number of tokens, how much faster than none the fastest of them is."""
    pruned = [row for row in rows if row.keep is not None and row.over_none is not None]
    for place in {round(row.layer_tokens) for row in pruned}:
        alike = [row for row in pruned if round(row.layer_tokens) == place]
        panel.annotate(
            f"{max(row.over_none or 0.0 for row in alike):.1f}x",
            (place, max(row.fastest for row in alike)),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=_FAINT,
        )


def _finish(panel: Any, rows: Sequence[Row], labels: list[_Label], title: str) -> None:
    panel.set_title(title, loc="left")
    panel.set_xlabel("visual tokens that a layer sees")
    panel.set_xscale("log", base=2)
    places = sorted({round(row.layer_tokens) for row in rows if row.keep is not None})
    if places:
        panel.set_xticks(places, [str(place) for place in places])
        panel.set_xlim(places[0] / 1.35, places[-1] * 1.35)
    panel.minorticks_off()
    panel.set_ylim(0, 1.12 * panel.get_ylim()[1])
    panel.grid(axis="y", color=_GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    _write_labels(panel, labels)


def _write_labels(panel: Any, labels: list[_Label]) -> None:
    """Beside the panel at each line's own height, moved apart where two would overlap."""
    top = panel.get_ylim()[1]
    labels = sorted(labels)
    places = apart([height / top for height, *_ in labels], _LABEL_GAP)
    for place, (_, words, colour) in zip(places, labels, strict=True):
        panel.text(1.02, place, words, transform=panel.transAxes, color=colour, va="center", fontsize=9.5)
