"""How far a job is: a live line on a terminal, plain lines elsewhere."""

import io
import itertools
import re
from dataclasses import replace

import pytest
from rich.console import Console

from star_batch.cli import messages, progress, screen
from star_batch.errors import InputError
from tests.cli.jobs import AT, STARTING


def test_progress_is_plain_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line every ten seconds, not one for every second of a job that takes a night."""
    clock = itertools.count(step=1)
    monkeypatch.setattr(progress, "monotonic", lambda: float(next(clock)))
    messages.set_up_logs()
    with progress.live_progress() as on_progress:
        for _ in range(25):
            on_progress(STARTING)
        for second in range(25):
            on_progress(replace(AT, rows_done=second))
    lines = capsys.readouterr().err.splitlines()
    told = [f"{n} of 2,000 rows, 56.1 images/s, 3 failed, 14 s left" for n in (0, 10, 20)]
    assert lines == ["starting Ray and loading the model", *told]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal of 80 columns."""
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, force_interactive=True, width=80, markup=False)
    monkeypatch.setattr(screen, "err", console)
    messages.set_up_logs()
    return shown


def seen(terminal: io.StringIO) -> list[str]:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    return [line for line in re.split(r"[\r\n]", text) if line.strip()]


def test_progress_is_one_live_line_on_a_terminal(terminal: io.StringIO) -> None:
    with progress.live_progress() as on_progress:
        on_progress(replace(AT, rows_done=12_000_000, rows_total=120_000_000, failed=123_456, images_per_second=1234.5))
    lines = seen(terminal)
    assert max(map(len, lines)) <= 80
    assert any("12,000,000 of 120,000,000 rows, 1,234.5 images/s, 123,456 failed" in line for line in lines)


def test_on_a_terminal_the_job_is_checked_before_ray_starts(terminal: io.StringIO) -> None:
    with pytest.raises(InputError), progress.live_progress():
        raise InputError
    assert "checking the job" in seen(terminal)[0]
    with progress.live_progress() as on_progress:
        on_progress(STARTING)
    assert "starting Ray and loading the model" in seen(terminal)[-1]


def test_quiet_shows_no_live_line(terminal: io.StringIO) -> None:
    messages.set_up_logs(quiet=True)
    with progress.live_progress() as on_progress, progress.working("drawing"):
        on_progress(AT)
    assert seen(terminal) == []
