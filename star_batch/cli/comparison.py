"""What `star-batch demo --compare` prints and writes: methods side by side at equal cost, beside their controls."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from star_batch.bench.results import surroundings
from star_batch.cli.progress import working
from star_batch.cli.screen import out, show_line, show_table
from star_batch.config import Model
from star_batch.demo.compare import FEWEST_DIFFERING, SEED, Gain, Line, Measured, compare, held_out, measure, num_lines
from star_batch.demo.methods import Asked, parse_method
from star_batch.demo.results import NAMES, Comparison, write_comparison
from star_batch.errors import ConfigError
from star_batch.options import require
from star_batch.pruning import Pruning
from star_batch.storage.results import make_ready

_COLUMNS = ("Method", "Tokens", "Accuracy", "Images/s", "Over none", "Over random")
_ABOUT_ALL = (
    "Questions: {rows:,}, the same for every line; ± is one standard error, in points. Tokens: visual"
    " tokens that a decoder layer sees on average. Images/s: from encoded images to answers, one engine"
    " after the other, measured once; other work on this machine shows in it. {gains}"
    f" *: beyond two standard errors, with {FEWEST_DIFFERING} or more questions that only one of the two"
    " answered right; chance alone does that about once in twenty."
)
_OVER_CONTROLS = "Over none, over random: points above it, by pairs of the same question; random at the same budget."
_OVER_FIXED = "Over fixed: points above the line below it, by pairs of the same question."
_ABOUT_FEW = " So few questions say little, and their standard errors too: ask {least:,} or more."
_FEW = 100


def compare_methods(
    model: Model, num_rows: int, asked: Sequence[Asked], keeps: Sequence[int | float], to: Path | None
) -> None:
    """Measure, print, and write where that was asked for.

    Raises:
        OutputError: `to` cannot be written.
    """
    if to is not None:
        make_ready(to, NAMES)
    rows, numbers, total = held_out(num_rows), count(1), num_lines(asked, keeps)

    def one(each: Asked, pruning: Pruning) -> Measured:
        with working(f"{next(numbers)} of {total}: {each.label}, keep {pruning.keep or 'all'}"):
            return measure(pruning, rows, device=model.device, dtype=model.dtype)

    lines = tuple(compare(asked, keeps, one))
    show_table(_COLUMNS, _with_gaps(lines), is_folding=True)
    for line in lines:
        if line.refused is not None:
            show_line(f"{line.label} was not measured at {line.keep:g}: {line.refused}")
    _explain(num_rows, _OVER_CONTROLS)
    if to is not None:
        _write(to, Comparison(lines=lines, kinds=tuple(row["kind"] for row in rows), about=_about(num_rows, keeps)))


def _write(folder: Path, comparison: Comparison) -> None:
    out.print()
    for file in write_comparison(folder, comparison):
        show_line(file)


def _about(num_rows: int, keeps: Sequence[int | float]) -> dict[str, Any]:
    return {"model": "demo", "rows": num_rows, "seed": SEED, "keeps": list(keeps)} | surroundings("demo")


def _with_gaps(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """As cells, an empty row before each budget."""
    shown: list[tuple[str, ...]] = []
    for number, line in enumerate(lines):
        if number and line.keep != lines[number - 1].keep:
            shown.append(("",) * len(_COLUMNS))
        shown.append(_cells(line))
    return shown


def _cells(line: Line) -> tuple[str, ...]:
    if line.measured is None:
        return (line.label, f"{line.keep:g}", "not possible", "", "", "")
    over_none = None if line.label == "none" else line.over_none
    over_random = None if line.label == "random" else line.over_random
    return (line.label, *_figures(line.measured), _points(over_none), _points(over_random))


def compare_budgets(model: Model, num_rows: int, methods: Sequence[str] | None, mass: float) -> None:
    """Each method with budgets that follow the image, then with one for all at the mean cost of the first.

    Raises:
        ConfigError: a method is not known or takes no such budget, or none fits the model.
    """
    asked = map(parse_method, methods or _BY_ATTENTION)
    prunings = {each.label: each.pruning(keep_mass=mass) for each in asked}
    rows, lines, refused = held_out(num_rows), [], []
    for label, pruning in prunings.items():
        try:
            with working(f"{label}, mass {mass:g}, then a fixed budget"):
                following = measure(pruning, rows, device=model.device, dtype=model.dtype)
                fixed = measure(following.as_fixed, rows, device=model.device, dtype=model.dtype)
        except ConfigError as error:
            refused.append(f"{label} was not measured: {error}")
            continue
        lines.append((f"{label}, mass {mass:g}", *_figures(following), _points(following.gain_over(fixed))))
        lines.append((label, *_figures(fixed), ""))
    require(bool(lines), "\n".join(refused))
    show_table(("Method", "Tokens", "Accuracy", "Images/s", "Over fixed"), lines, is_folding=True)
    for why in refused:
        show_line(why)
    _explain(num_rows, _OVER_FIXED)


_BY_ATTENTION = ("vispruner", "star")
"""The methods that score tokens early."""


def _explain(num_rows: int, gains: str) -> None:
    few = _ABOUT_FEW.format(least=_FEW) if num_rows < _FEW else ""
    out.print("\n" + _ABOUT_ALL.format(rows=num_rows, gains=gains) + few, style="dim")


def _figures(result: Measured) -> tuple[str, ...]:
    return (
        f"{result.layer_tokens:.1f}",
        f"{100 * result.accuracy:.1f} ± {100 * result.standard_error:.1f}",
        f"{result.images_per_second:,.1f}",
    )


def _points(gain: Gain | None) -> str:
    """With a mark in front where it is clear; right-aligned cells keep their numbers below one another."""
    if gain is None:
        return ""
    return f"{'* ' if gain.is_clear else ''}{100 * gain.difference:+.1f} ± {100 * gain.error:.1f}"
