"""What all plots share: SVG in the theme's colours, light and dark, with the page's own letters. Knows no data."""

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

_VARIABLES = ("ink", "faint", "line", "card", "first", "second", "third", "fourth", "fifth", "sixth")
COLOURS = {name: f"#0102{number:02x}" for number, name in enumerate(_VARIABLES, start=3)}
"""Colours that nobody would choose, each standing for a variable of the theme."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "star_batch",
    "font.size": 11,
    "font.family": "DejaVu Sans",
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["faint"],
    "axes.edgecolor": COLOURS["line"],
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": COLOURS["faint"],
    "ytick.color": COLOURS["faint"],
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def plot(title: str, draw: Callable[[Any], None], width: float, height: float) -> str:
    """What `draw` does with a pair of axes; `width` and `height` in inches of 72 points."""
    # Imported here: a driver that only reads counts need not wait for it.
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        draw(figure.add_subplot())
        return _to_svg(figure, title)


def standalone(svg: str) -> str:
    """A plot as a file of its own: the colours of the theme come along, and a ground that fits them."""
    theme = Path(__file__).with_name("theme.css").read_text(encoding="utf-8")
    opening, inside = svg.split(">", 1)
    width, height = (2 * _MARGIN + float(size) for size in re.findall(r"[\d.]+", opening)[2:4])
    sides = f'width="{width:g}" height="{height:g}"'
    box = f'viewBox="{-_MARGIN} {-_MARGIN} {width:g} {height:g}"'
    opening = re.sub(r'<svg viewBox="[^"]*"', f"<svg {_NAMES} {sides} {box}", opening)
    ground = f'<rect x="{-_MARGIN}" y="{-_MARGIN}" {sides} rx="8" style="fill: var(--card)"/>'
    return f"{opening}>\n<style>\n{theme}</style>\n{ground}\n{inside}\n"


_MARGIN = 14  # points around a plot that stands alone
_NAMES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Rising places from 0 to 1 with `gap` between any two, each crowd around the middle of where it wants to be."""
    crowds = [[place] for place in places]
    index = 0
    while index + 1 < len(crowds):
        low, high = _spread(crowds[index], gap), _spread(crowds[index + 1], gap)
        if high[0] - low[-1] >= gap:
            index += 1
            continue
        crowds[index : index + 2] = [crowds[index] + crowds[index + 1]]
        index = max(0, index - 1)
    return [place for crowd in crowds for place in _spread(crowd, gap)]


def _spread(crowd: Sequence[float], gap: float) -> list[float]:
    length = gap * (len(crowd) - 1)
    middle = sum(crowd) / len(crowd)
    first = max(0.0, min(middle - length / 2, 1.0 - length))
    return [first + gap * number for number in range(len(crowd))]


def _to_svg(figure: Any, title: str) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    box = re.search(r'viewBox="[^"]*"', text)
    inside = text[text.index("<defs>") : text.rindex("</svg>")]
    for name, colour in COLOURS.items():
        inside = inside.replace(colour, f"var(--{name})")
    inside = re.sub(r' id="[a-z._]+_\d+"', "", inside)  # repeated in every plot of a page
    inside = re.sub(r"'DejaVu Sans'(, [^;\"]+)?", "system-ui, sans-serif", inside)
    inside = re.sub(r"<!--.*?-->\s*", "", inside, flags=re.DOTALL)
    return f'<svg {box[0] if box else ""} role="img" aria-label="{escape(title)}">{inside}</svg>'
