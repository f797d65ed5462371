import subprocess
import sys
import time

import pytest

from star_batch.pipeline.watchdog import Watchdog


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_only_an_engine_that_has_rows_and_does_not_move_is_stuck(clock: Clock) -> None:
    steps, busy = [0], [True]
    watchdog = Watchdog(seconds=10.0, progress=lambda: steps[0], is_busy=lambda: busy[0], leave=print)
    assert not watchdog.is_stuck()
    for clock.now in (5.0, 9.0):
        steps[0] += 1
        assert not watchdog.is_stuck()
    clock.now = 18.0
    assert not watchdog.is_stuck()
    clock.now = 19.0
    assert watchdog.is_stuck()
    busy[0] = False
    clock.now = 1000.0
    assert not watchdog.is_stuck()
    busy[0] = True
    clock.now = 1009.0
    assert not watchdog.is_stuck()


HELD = """
import time
from star_batch.pipeline import watchdog

watchdog._GRACE_SECONDS = 0.5
watchdog.Watchdog(seconds=0.5, progress=lambda: 0, is_busy=lambda: True, leave=lambda words: None).start()
time.sleep(0.1)
int("7" * 4000) ** 200000
"""
"""A single operation of the interpreter that lasts for minutes, and lets no other thread run."""


def test_a_process_whose_interpreter_is_held_ends_too() -> None:
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert time.monotonic() - started < 30
