"""An output that is finished, of a job that labels."""

from pathlib import Path

import pytest

from star_batch.commit.snapshots import Epoch
from tests.cli.finished import make_half_done
from tests.export.samples import config_of, run


@pytest.fixture
def labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `in.parquet` and `out`."""
    run(config_of(tmp_path), monkeypatch)
    return tmp_path


@pytest.fixture
def half_done(tmp_path: Path) -> Epoch:
    """An output with two rows of three."""
    return make_half_done(tmp_path)
