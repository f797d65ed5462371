"""Somebody who looks on while a job runs: what goes wrong there is said once, and stops nothing."""

import logging

import pytest

from star_batch.metrics import EngineSnapshot, Progress
from star_batch.monitor.export import Board
from star_batch.pipeline.job import _telling


def test_an_onlooker_that_fails_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    def fail(progress: Progress) -> None:
        raise ValueError("no\x1b[0m display")

    board, progress = Board(), Progress.at(EngineSnapshot(), seconds=0.0, before=0, total=3)
    tell = _telling(board, fail)
    with caplog.at_level(logging.WARNING, "star_batch"):
        tell(progress)
        tell(progress)
    assert board.progress == progress
    assert [record.getMessage() for record in caplog.records] == [
        "on_progress failed (ValueError: no\\x1b[0m display); the job goes on"
    ]
