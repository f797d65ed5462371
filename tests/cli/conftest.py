"""What stands in for a job, in every test that asks for one."""

from pathlib import Path

import pytest

from star_batch.commit.snapshots import Epoch
from tests.cli.finished import finish, make_half_done
from tests.cli.jobs import Pipeline


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    fake = Pipeline()
    monkeypatch.setattr("star_batch.pipeline.job.run", fake.run)
    return fake


@pytest.fixture
def half_done(tmp_path: Path) -> Epoch:
    """An output with two rows of three."""
    return make_half_done(tmp_path)


@pytest.fixture
def finished(half_done: Epoch, tmp_path: Path) -> Path:
    """The same with all of them, in a folder with its input."""
    finish(half_done)
    return tmp_path
