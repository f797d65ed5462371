"""Where results are shown: lines, lists and tables on stdout. Knows no job and no command.

Whatever is shown goes through here, and here texts from outside are never read as markup, break no line and bring
no control characters. What cannot be shown is lost, and nothing else: no function here raises for it.
"""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from star_batch.wording import line, printable

_LONGEST_NAME = 80
"""Characters of a label or a file's name that stands among others."""


class Screen(Console):
    """A console that loses what it cannot show: a stream that is closed, a width that leaves no room."""

    def print(self, *objects: Any, **how: Any) -> None:
        with contextlib.suppress(Exception):
            super().print(*objects, **how)


out = Screen(markup=False, emoji=False, highlight=False)
err = Screen(markup=False, emoji=False, highlight=False, stderr=True)


def short_name(text: str) -> str:
    """One among several on a line."""
    return printable(text, _LONGEST_NAME)


def show_line(text: object, style: str | None = None) -> None:
    """A line of results, not wrapped, so that a path can be copied."""
    out.print(line(text), style=style, soft_wrap=True)


def show_list(title: str, entries: Sequence[tuple[str, str]]) -> None:
    """A heading and its lines, none of them wrapped, so that a path can be copied."""
    if not entries:
        return
    named = [(short_name(name), text) for name, text in entries]
    width = max(len(name) for name, _ in named)
    out.print()
    show_line(title, style="bold")
    for name, text in named:
        show_line(f"  {name:{width}}  {text}")


def show_numbers(rows: Iterable[tuple[str, str, str]]) -> None:
    """Names, numbers and what there is to say about them."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    for name, value, note in rows:
        table.add_row(short_name(name), printable(value), line(note))
    out.print(table)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, is_folding: bool = False) -> None:
    """The first column reads from the left, numbers from the right; a long first cell is cut, or folded."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(
            short_name(name),
            justify="right" if number else "left",
            no_wrap=not is_folding or number > 0,
            overflow="fold" if is_folding and not number else "ellipsis",
        )
    for row in rows:
        table.add_row(*map(short_name, row))
    out.print(table)
