import pytest

from star_batch.pipeline.flow import num_calls
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
