"""Going on with a large job: `measure_resume` does it with ten million rows, by hand."""

from pathlib import Path

import pytest

from tests.pipeline.measure_resume import measure


@pytest.mark.faults
def test_what_is_done_is_found_in_little_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once every id was a Python string in a set: ten million of them would not have fit."""
    peak = measure(tmp_path, 200_000, 0.9)
    found = capsys.readouterr().out
    assert found.count("200,000 rows, 180,000 done, 20,000 left") == 2
    assert peak < 0.6
