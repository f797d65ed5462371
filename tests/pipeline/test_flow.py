from star_batch.config import Faults
from star_batch.pipeline.attempts import most_deaths
from star_batch.pipeline.flow import longest_silence


def test_a_hunt_for_a_row_that_hangs_is_not_taken_for_a_job_that_has_stopped() -> None:
    """Ray gives a job up that moves no block for half an hour: the hunt may take longer, and be the only work left."""
    faults = Faults(hang_seconds=600.0)
    hunt = most_deaths(512, faults.max_attempts) * (faults.hang_seconds + 300.0)
    assert 1800.0 < hunt < longest_silence(faults)
