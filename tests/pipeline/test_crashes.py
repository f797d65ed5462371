"""Processes that are killed at every step of the protocol, and what is found afterwards."""

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_batch.commit.audit import status
from star_batch.commit.parts import prepare_part, to_parquet
from star_batch.commit.snapshots import Epoch, read_snapshot
from star_batch.commit.unit import commit_rows
from star_batch.config import JobConfig
from star_batch.errors import LeaseHeld, LeaseLost
from star_batch.inputs.comparison import compare
from star_batch.storage.crashes import POINTS, VARIABLE, Point
from star_batch.storage.location import Location
from tests.commit.samples import answers
from tests.pipeline import bare
from tests.pipeline.samples import job, rows, write
from tests.pipeline.test_s3 import options
from tests.pipeline.unreliable import unreliable_s3

pytestmark = pytest.mark.faults

ROWS = 30
UNIT = 5
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def unreliable_endpoint(aws_environment: None, quiet_servers: None) -> Iterator[str]:
    with unreliable_s3("crashes", seed=11) as (endpoint, app):
        yield endpoint
        assert app.num_lost > 0


class Bench:
    """One job, its log of what was answered, and its output."""

    def __init__(self, folder: Path, output: str, storage_options: dict[str, Any] | None = None, **more: Any) -> None:
        source = write(folder / "in.parquet", rows(ROWS))
        self.log = str(folder / "log")
        self.crashes = folder / "crashes"
        settings = {"rows_per_file": UNIT, "storage_options": storage_options or {}, "lease_seconds": 2.0}
        self.config: JobConfig = job(source, output, input={"id_column": "id"}, output=settings | more)
        self.output = Location.of(output, storage_options)

    def run(self, crash: Point | None = None, number: int = 1, config: JobConfig | None = None) -> int:
        shutil.rmtree(self.crashes, ignore_errors=True)
        self.crashes.mkdir()
        wish = {VARIABLE: f"{crash}:{number}:{self.crashes}"} if crash is not None else {}
        return bare.finish(config or self.config, self.log, **wish)

    def start(self, **environment: str) -> Any:
        return bare.start(self.config, self.log, **environment)

    def answered(self) -> Counter[str]:
        return Counter(Path(self.log).read_text().split()) if os.path.exists(self.log) else Counter()

    def check(self) -> None:
        """The promise, by our own judge and by a Parquet reader that knows nothing of us."""
        verdict = compare(self.output, self.config.input)
        assert verdict.findings == ()
        assert verdict.rows == ROWS
        fs, path = self.output.fs, self.output.at("answers").path
        ids = pq.read_table(path, filesystem=fs, columns=["id"])["id"].to_pylist()
        assert sorted(ids) == [f"row-{n:04d}" for n in range(ROWS)]


@pytest.fixture
def local(tmp_path: Path) -> Bench:
    return Bench(tmp_path, str(tmp_path / "out"))


@pytest.fixture(params=["local", "s3"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    if request.param == "local":
        return Bench(tmp_path, str(tmp_path / "out"))
    endpoint = request.getfixturevalue("unreliable_endpoint")
    return Bench(tmp_path, f"s3://crashes/{tmp_path.name}", options(endpoint))


def kill_and_go_on(bench: Bench, point: Point) -> None:
    assert bench.run(crash=point, number=2 if "part" in point or "marker" in point else 1) == KILLED
    assert bench.run() == 0
    bench.check()
    waste = bench.answered().total() - ROWS
    print(f"killed {point}: {waste} of {ROWS} rows answered twice")
    assert waste <= UNIT


@pytest.mark.parametrize("point", [point for point in POINTS if point != "while deleting"])
def test_a_job_that_is_killed_goes_on(local: Bench, point: Point) -> None:
    kill_and_go_on(local, point)


@pytest.mark.parametrize(
    "point", ["while taking the lease", "after part", "after marker", "after epoch", "after summary"]
)
def test_a_job_on_a_bad_s3_that_is_killed_goes_on(tmp_path: Path, unreliable_endpoint: str, point: Point) -> None:
    kill_and_go_on(Bench(tmp_path, f"s3://crashes/{tmp_path.name}", options(unreliable_endpoint)), point)


def test_a_job_that_is_killed_while_it_tidies_up(local: Bench) -> None:
    assert local.run(crash="after part", number=2) == KILLED
    assert local.run(crash="while deleting") == KILLED
    assert local.run() == 0
    local.check()


@pytest.mark.parametrize("seed", range(3))
def test_a_job_that_is_killed_again_and_again(local: Bench, seed: int) -> None:
    dice = random.Random(seed)
    kills = 0
    while kills < 8:
        with local.start(**{bare.SECONDS_PER_UNIT: "0.05"}) as process:
            process.join(timeout=dice.uniform(0.1, 0.7))
            if process.exitcode is not None:
                break
        kills += 1
    assert local.run() == 0
    local.check()
    waste = local.answered().total() - ROWS
    print(f"seed {seed}: {kills} kills, {waste} of {ROWS} rows answered twice")
    assert waste <= kills * UNIT


def wait_for_commit(bench: Bench) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not read_snapshot(bench.output).recent:
        time.sleep(0.05)


def test_of_two_submissions_one_works_and_the_other_is_told(bench: Bench, tmp_path: Path) -> None:
    """The first is held at work: once it had finished before the second came, on a slow machine."""
    bench.config = bench.config.model_copy(
        update={"output": bench.config.output.model_copy(update={"lease_seconds": 12.0})}
    )
    hold = tmp_path / "hold"
    hold.touch()
    with bench.start(**{bare.HOLD: str(hold)}) as first:
        wait_for_commit(bench)
        assert bench.run() == LeaseHeld.exit_code == 7
        assert status(bench.output).state == "running"
        hold.unlink()
        first.join(timeout=60)
        assert first.exitcode == 0
    assert f"another run is at work there: process {first.pid} on " in Path(f"{bench.log}.errors").read_text()
    bench.check()
    assert bench.answered().total() == ROWS


def test_a_driver_that_sleeps_too_long_finds_its_place_taken_and_stops(bench: Bench) -> None:
    """Stopped for longer than its lease, as a machine that is suspended; then it wakes and wants to go on."""
    with bench.start(**{bare.SECONDS_PER_UNIT: "0.3"}) as sleeper:
        wait_for_commit(bench)
        os.kill(sleeper.pid, signal.SIGSTOP)
        epoch = read_snapshot(bench.output)
        assert bench.run() == 0
        os.kill(sleeper.pid, signal.SIGCONT)
        sleeper.join(timeout=30)
        assert sleeper.exitcode == LeaseHeld.exit_code
    assert read_snapshot(bench.output).number > epoch.number
    # Told to stop between a part and its marker, it leaves the part: that does not count, and the next run removes it.
    assert all("do not count" in finding for finding in compare(bench.output, bench.config.input).findings)
    assert bench.run() == 0
    bench.check()
    assert bench.answered().total() <= ROWS + 2 * UNIT


def test_sigterm_is_like_ctrl_c(local: Bench) -> None:
    with local.start(**{bare.SECONDS_PER_UNIT: "0.2"}) as process:
        wait_for_commit(local)
        os.kill(process.pid, signal.SIGTERM)
        process.join(timeout=20)
        assert process.exitcode == 130
    found = status(local.output)
    assert (found.state, found.total) == ("stopped", ROWS)
    assert 0 < found.rows < ROWS
    assert local.run() == 0
    local.check()


def test_half_a_part_that_was_left_behind_is_removed(local: Bench) -> None:
    assert local.run(crash="after part") == KILLED
    [orphan] = local.output.at("answers").files()
    part = local.output.at("answers", orphan)
    part.write_bytes(part.read_bytes()[:100])
    assert local.run() == 0
    assert orphan not in local.output.at("answers").files()
    local.check()


def epoch_of(output: Location) -> Epoch:
    """The epoch of a process that was killed, as its workers have it."""
    seen = read_snapshot(output)
    assert seen.fingerprint is not None
    return Epoch(output=output, number=seen.number, holder=seen.holder, fingerprint=seen.fingerprint.digest)


def answers_in(epoch: Epoch, *ids: str, failed: int = 0) -> pa.Table:
    table = answers(*ids, failed=failed)
    place = table.schema.get_field_index("fingerprint")
    return table.set_column(place, table.schema.field(place), pa.array([epoch.fingerprint] * len(ids)))


def test_workers_of_a_dead_run_write_in_vain(bench: Bench) -> None:
    assert bench.run(crash="after marker", number=2) == KILLED
    epoch = epoch_of(bench.output)
    assert bench.run() == 0
    with pytest.raises(LeaseLost):
        commit_rows(epoch, answers_in(epoch, "row-0000", "foreign"))
    bench.check()


def test_a_part_that_a_dead_runs_worker_writes_after_the_end_is_named_and_removed(bench: Bench) -> None:
    """It slept between its look at the epoch and its write, and was killed before it could take the part back."""
    assert bench.run(crash="after marker", number=2) == KILLED
    epoch = epoch_of(bench.output)
    assert bench.run() == 0
    late = answers_in(epoch, "row-0000", "row-0001")
    part = prepare_part(epoch, late).file
    bench.output.at(part).write_bytes(to_parquet(late))
    [finding] = compare(bench.output, bench.config.input).findings
    assert finding == f"1 files among the answers do not count ({part.removeprefix('answers/')})"
    assert bench.run() == 0
    bench.check()


def test_a_job_that_failed_in_part_can_be_asked_to_try_again(local: Bench) -> None:
    assert local.run(crash="after epoch") == KILLED
    epoch = epoch_of(local.output)
    commit_rows(epoch, answers_in(epoch, "row-0000", "row-0001", failed=1))
    assert local.run() == 0
    local.check()
    assert status(local.output).failed == 1
    again = local.config.model_copy(update={"output": local.config.output.model_copy(update={"retry_failed": True})})
    assert local.run(crash="after epoch", config=again) == KILLED
    assert status(local.output).rows == ROWS - 1
    assert local.run() == 0
    assert (status(local.output).failed, status(local.output).answered) == (0, ROWS)
    assert local.answered() == Counter(f"row-{n:04d}" for n in range(ROWS) if n != 1)
    local.check()
