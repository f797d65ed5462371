"""One line of progress below a notebook's cell. Knows no job, and imports nothing of a notebook."""

import sys
from collections.abc import Callable
from typing import Any

from star_batch.metrics import Progress


def progress_below_the_cell() -> Callable[[Progress], None] | None:
    """What shows a job's progress, where this process is a notebook's kernel; elsewhere None."""
    display = _display()
    if display is None:
        return None
    # Made here, in the cell's own thread: progress is told from another, where no cell is.
    line = display({"text/plain": "checking the job"}, raw=True, display_id=True)

    def show(progress: Progress) -> None:
        line.update({"text/plain": progress.shown}, raw=True)

    return show


def _display() -> Any:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    return display
