"""Jobs with rows that kill whatever process answers them, and with processes that are killed for nothing."""

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from star_batch.config import JobConfig
from star_batch.errors import ClusterError
from star_batch.metrics import Summary
from star_batch.pipeline.attempts import most_deaths
from star_batch.pipeline.job import run
from tests.pipeline.fakes import DEADLY_SIZE, DIE, FAKE, POISON
from tests.pipeline.samples import job, rows, write
from tests.pipeline.test_cluster import start

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.usefixtures("fake_ray")]


class Job:
    """A job some of whose rows are deadly."""

    def __init__(self, folder: Path, poison: Mapping[int, str], count: int = 40, **sections: Any) -> None:
        self.output = folder / "out"
        self.log = folder / "deaths"
        self.ids = [f"row-{n:04d}" for n in poison]
        records = rows(count)
        for n, kind in poison.items():
            records[n]["question"] = f"{POISON}{kind} {self.log}" if kind != "once" else f"{DIE}{folder / 'tombstone'}"
        source = write(folder / "in.parquet", records)
        given: dict[str, Any] = {"input": {"id_column": "id"}} | sections
        self.config: JobConfig = job(source, self.output, **given)

    def run(self) -> Summary:
        return run(self.config, backend=FAKE)

    @property
    def deaths(self) -> int:
        return len(self.log.read_bytes())

    @property
    def errors(self) -> dict[str, str]:
        """Failed rows; every row is there once."""
        table = pq.read_table(self.output / "answers").to_pylist()
        assert len({row["id"] for row in table}) == len(table)
        return {row["id"]: row["error"] for row in table if row["error_type"] == "quarantined"}


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("segfault", ""),
        ("out-of-memory", ""),
        ("hang", ": the engine finished nothing for 1 seconds"),
        ("device", ": RuntimeError: CUDA error: device-side assert triggered"),
    ],
)
def test_a_row_that_kills_its_process_becomes_an_error_row(tmp_path: Path, kind: str, why: str) -> None:
    poisoned = Job(tmp_path, {23: kind}, 24, faults={"hang_seconds": 1.0})
    summary = poisoned.run()
    print(f"{kind}: {poisoned.deaths} deaths")
    assert poisoned.errors == {"row-0023": f"crashed its worker 2 times{why}"}
    assert (summary.rows, summary.answered, summary.failed_by_type) == (24, 23, {"quarantined": 1})
    assert poisoned.deaths <= most_deaths(4, 2)


def test_two_deadly_rows_in_one_window_beside_innocent_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cluster = {"rows_per_window": 16, "actors": 2, "windows": 2}
    poisoned = Job(tmp_path, {3: "exit", 12: "exit"}, 64, cluster=cluster)
    with caplog.at_level(logging.WARNING, "star_batch"):
        assert poisoned.run().answered == 62
    print(f"two in 64 rows: {poisoned.deaths} deaths")
    assert set(poisoned.errors) == set(poisoned.ids)
    assert poisoned.deaths <= 2 * most_deaths(16, 2)
    assert f"a worker died {poisoned.deaths} times" in caplog.text


def test_an_image_that_kills_the_process_that_decodes_it_becomes_an_error_row(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", DEADLY_SIZE).save(buffer, "PNG")
    records = rows(24)
    records[5]["image"] = buffer.getvalue()
    source = write(tmp_path / "in.parquet", records)
    summary = run(job(source, tmp_path / "out"), backend=FAKE)
    assert (summary.rows, summary.answered, summary.failed_by_type) == (24, 23, {"quarantined": 1})
    [row] = [row for row in pq.read_table(tmp_path / "out" / "answers").to_pylist() if row["error"] is not None]
    assert (row["id"], row["error"]) == ("in.parquet#5", "crashed its worker 2 times")


def test_nobody_is_blamed_for_a_process_that_was_killed_from_outside(tmp_path: Path) -> None:
    """The row that was there leaves a tombstone, and lives the second time."""
    killed = Job(tmp_path, {21: "once"})
    assert killed.run().answered == 40
    assert (tmp_path / "tombstone").exists()


MACHINES = """
import dataclasses
import sys
import ray
from ray.cluster_utils import Cluster
from star_batch.pipeline.job import run
from tests.pipeline import fakes
from tests.pipeline.samples import job

ray.cloudpickle.register_pickle_by_value(fakes)
cluster = Cluster(initialize_head=True, head_node_args={
    "num_cpus": 4,
    "include_dashboard": False,
    "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 4},
})
machines = [cluster.add_node(num_cpus=2)]


def pull_the_plug(progress):
    if progress.rows_done >= 40 and machines:
        cluster.remove_node(machines.pop(), allow_graceful=False)


try:
    more = {"cluster": {"address": cluster.address, "actors": 2, "windows": 1, "cpus_per_actor": 1.0}}
    config = job(sys.argv[1], sys.argv[2], output={"rows_per_file": 8}, **more)
    backend = dataclasses.replace(fakes.FAKE, engine=fakes.load_slow_engine)
    print(run(config, backend=backend, on_progress=pull_the_plug).answered, len(machines))
finally:
    cluster.shutdown()
"""


def test_a_machine_that_is_lost_costs_a_retry(tmp_path: Path) -> None:
    process = start(write(tmp_path / "in.parquet", rows(160)), tmp_path / "out", MACHINES)
    printed, complained = process.communicate(timeout=250)
    assert printed.splitlines()[-1:] == ["160 0"], complained
    assert len(set(pq.read_table(tmp_path / "out" / "answers")["id"].to_pylist())) == 160


def test_an_engine_that_dies_whatever_it_is_given_stops_the_job(tmp_path: Path) -> None:
    poison = dict.fromkeys(range(40), "exit")
    hopeless = Job(tmp_path, poison, faults={"max_deaths_in_a_row": 4})
    # The first to notice may be killed by another window before it is heard.
    with pytest.raises(
        ClusterError, match=r"^an engine died [4-9] times in a row and finished nothing in between: its"
    ):
        hopeless.run()
    assert not (hopeless.output / "_SUCCESS").exists()
