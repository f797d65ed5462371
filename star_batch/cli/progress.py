"""How far a job is, while it runs: one live line on a terminal, a record now and then elsewhere. Knows no job."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from star_batch.cli import screen
from star_batch.cli.messages import is_live
from star_batch.metrics import Progress as JobProgress
from star_batch.wording import line

logger = logging.getLogger("star_batch")

PLAIN_INTERVAL_SECONDS = 10.0

OnProgress = Callable[[JobProgress], None]


@contextmanager
def live_progress() -> Iterator[OnProgress]:
    """A callback that keeps one line up to date on a terminal and logs now and then elsewhere.

    The callback may come from any thread. Before it comes, the job is only checked, and may be refused.
    """
    if not is_live():
        yield _Log()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=None))
    with Progress(*columns, console=screen.err, transient=True, expand=True) as bar:
        task = bar.add_task("checking the job", total=None)

        def update(progress: JobProgress) -> None:
            total = progress.rows_total if progress.images_per_second else None
            bar.update(task, total=total, completed=progress.rows_done, description=progress.shown)

        yield update


@contextmanager
def working(what: str) -> Iterator[None]:
    """Says what takes a while: a spinner on a terminal, a line elsewhere."""
    if not is_live():
        logger.info("%s", what)
        yield
        return
    with screen.err.status(Text(line(what))):
        yield


class _Log:
    """A line when the job starts, and one every ten seconds from its first row on."""

    def __init__(self) -> None:
        self._last: float | None = None

    def __call__(self, progress: JobProgress) -> None:
        now, has_rows = monotonic(), progress.images_per_second > 0
        if self._last is None or (has_rows and now - self._last >= PLAIN_INTERVAL_SECONDS):
            self._last = now
            logger.info("%s", progress.shown, extra=_numbers(progress))


def _numbers(progress: JobProgress) -> dict[str, float | None]:
    names = ("rows_done", "rows_total", "failed", "images_per_second", "seconds_left")
    return {name: getattr(progress, name) for name in names}
