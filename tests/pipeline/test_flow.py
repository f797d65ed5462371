import pytest

from star_batch.config import Faults
from star_batch.pipeline.flow import longest_silence, num_calls
from star_batch.pipeline.ledger import most_deaths
from tests.pipeline.samples import job


@pytest.mark.parametrize(
    ("windows", "rows_per_window", "rows_per_file", "calls"),
    [
        (4, 64, 512, 2),  # one block fills four windows; the next is there when it ends
        (1, 64, 512, 1),
        (4, 64, 64, 4),  # a block is a window
        (4, 64, 16, 4),
        (16, 64, 512, 5),  # Ray gives an actor four batches of a block at a time
        (4, 64, 128, 3),
    ],
)
def test_an_actor_holds_few_blocks(windows: int, rows_per_window: int, rows_per_file: int, calls: int) -> None:
    cluster = {"windows": windows, "rows_per_window": rows_per_window}
    assert num_calls(job("in", "out", cluster=cluster, output={"rows_per_file": rows_per_file})) == calls


def test_a_hunt_for_a_row_that_hangs_is_not_taken_for_a_job_that_has_stopped() -> None:
    """Ray gives a job up that moves no block for half an hour: the hunt may take longer, and be the only work left."""
    faults = Faults(hang_seconds=600.0)
    hunt = most_deaths(512, faults.max_attempts) * (faults.hang_seconds + 300.0)
    assert 1800.0 < hunt < longest_silence(faults)
