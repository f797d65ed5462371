"""Jobs on Google Cloud Storage: the real client, and a server that honours generations."""

import importlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests.exceptions

from star_batch.commit.lease import Lease
from star_batch.commit.snapshots import read_snapshot
from star_batch.commit.unit import commit_rows
from star_batch.errors import InputError, LeaseHeld, OutputError
from star_batch.inputs.base import plan_input
from star_batch.storage.compare_and_swap import compare_and_swap, read
from star_batch.storage.location import Location, failing_as
from star_batch.storage.probe import probe
from star_batch.storage.trouble import explain, is_transient
from tests.commit.samples import answers, opened
from tests.pipeline.google import Google, Refused, google_storage
from tests.pipeline.samples import input_config
from tests.pipeline.test_crashes import KILLED, ROWS, UNIT, Bench, wait_for_commit

auth: Any = importlib.import_module("google.auth.exceptions")
gcsfs: Any = importlib.import_module("gcsfs.retry")


@pytest.fixture
def server() -> Iterator[tuple[str, Google]]:
    with google_storage() as started:
        yield started


@pytest.fixture
def output(server: tuple[str, Google]) -> Location:
    return Location.of("gs://bucket/out", options(server[0]))


def options(endpoint: str) -> dict[str, Any]:
    return {"endpoint_url": endpoint, "token": "anon"}


def refresh_error_of_a_lost_connection() -> Exception:
    error: Exception = auth.RefreshError("metadata")
    error.__cause__ = auth.TransportError("no route")
    return error


PASSING: list[Exception] = [
    gcsfs.HttpError({"code": 503, "message": "Backend Error"}),
    gcsfs.HttpError({"code": "429", "message": "slow down"}),
    auth.TransportError("no route"),
    auth.RefreshError("busy", retryable=True),
    refresh_error_of_a_lost_connection(),
    gcsfs.ChecksumError("half a reply"),
    requests.exceptions.ProxyError(),
    requests.exceptions.ReadTimeout(),
]
LASTING: list[tuple[Exception, str]] = [
    (gcsfs.HttpError({"code": 401, "message": "Invalid Credentials"}), "access denied"),
    (OSError("Forbidden: https://storage/b/x\nno permission"), "access denied"),
    (gcsfs.HttpError({"code": 400, "message": "Bad thing\nmore"}), "Bad thing"),
    (gcsfs.HttpError({"code": 501, "message": "not implemented"}), "not implemented, 501"),
    (auth.RefreshError("invalid_grant"), "invalid_grant"),
    (auth.DefaultCredentialsError("set GOOGLE_…"), "no credentials were found"),
    (ValueError("Bad Request: b/x\ninvalid name"), "Bad Request: b/x"),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_passing_trouble_is_waited_out(error: Exception) -> None:
    left = [error, error]
    place = Location("gs://bucket/x", retry_seconds=60.0)

    def work() -> bytes:
        if left:
            raise left.pop()
        return b"done"

    assert is_transient(error)
    assert place.patiently(work) == b"done"


@pytest.mark.parametrize(("error", "words"), LASTING, ids=repr)
def test_lasting_trouble_is_one_clear_line_at_once(error: Exception, words: str) -> None:
    place, started = Location("gs://bucket/x", {"token": "anon-token"}), time.monotonic()

    def work() -> None:
        raise error

    doings: list[Callable[[], None]] = [lambda: place.patiently(work), work]
    for do in doings:
        with pytest.raises(OutputError) as caught, failing_as(OutputError, "write the output", place):
            do()
        assert str(caught.value) == f"gs://bucket/x: cannot write the output: {words}"
    assert time.monotonic() - started < 1.0
    assert "\n" not in explain(error)


def test_an_error_of_ours_is_not_taken_for_the_stores() -> None:
    with pytest.raises(ValueError, match="ours"), failing_as(OutputError, "write", Location("gs://bucket/x")):
        raise ValueError("ours")


def test_files(output: Location) -> None:
    assert output.files() == []
    assert not output.at("a").exists()
    output.at("a", "b").write_bytes(b"one")
    with output.at("c").writing() as file:
        file.write(b"two")
    assert output.files() == ["a/b", "c"]
    assert output.sizes() == {"a/b": 3, "c": 3}
    assert output.at("a", "b").read_bytes(start=1) == b"ne"
    assert output.at("a").is_folder()
    output.at("c").delete()
    output.at("c").delete()
    assert output.files() == ["a/b"]


def test_a_create_and_a_swap_go_by_generation(output: Location) -> None:
    file = output.at("x")
    file.create(b"one")
    with pytest.raises(FileExistsError):
        file.create(b"two")
    before = read(file)
    assert before is not None
    assert compare_and_swap(file, before, b"three")
    assert compare_and_swap(file, before, b"three")  # as after a lost reply
    assert not compare_and_swap(file, before, b"four")
    assert file.read_bytes() == b"three"
    file.delete()
    assert read(file) is None
    assert not compare_and_swap(file, before, b"five")
    assert not file.exists()


def test_of_many_swaps_at_once_one_counts(output: Location) -> None:
    file = output.at("x")
    file.create(b"first")
    before, won = read(file), []
    threads = [
        threading.Thread(target=lambda n=n: won.append(n) if compare_and_swap(file, before, f"{n}".encode()) else None)
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [str(n).encode() for n in won] == [file.read_bytes()]


def test_the_lease(output: Location) -> None:
    with Lease(output=output, seconds=1.0) as lease:
        time.sleep(0.6)
        lease.confirm()
        with pytest.raises(LeaseHeld, match="another run is at work there"), Lease(output=output, seconds=1.0):
            pass
    with Lease(output=output, seconds=1.0):
        pass


def test_a_commit_counts_once(output: Location) -> None:
    epoch = opened(output)
    assert commit_rows(epoch, answers("a", "b"))
    assert not commit_rows(epoch, answers("a", "b"))
    assert read_snapshot(output).rows == 2


def test_the_probe(output: Location, server: tuple[str, Google]) -> None:
    assert probe(output) == {"create": "ifGenerationMatch=0", "swap": "ifGenerationMatch"}
    assert server[1].objects == {}
    server[1].is_deaf = True
    with pytest.raises(OutputError, match="gs://bucket/out: the store ignores ifGenerationMatch=0, so two runs could"):
        probe(output)
    assert server[1].objects == {}


def test_who_may_not_read_is_told_so(server: tuple[str, Google]) -> None:
    server[1].refuses = Refused(403, "anonymous caller does not have storage.objects.list access")
    with pytest.raises(InputError, match="gs://bucket/in: cannot read the input: access denied"):
        plan_input(input_config("gs://bucket/in", storage_options=options(server[0])))


@pytest.fixture
def busy() -> Iterator[str]:
    with google_storage(busy=0.03, lost=0.03) as (endpoint, state):
        yield endpoint
        assert state.num_lost > 0


@pytest.mark.faults
def test_a_job_that_is_killed_goes_on_on_a_server_that_loses_requests_and_replies(tmp_path: Path, busy: str) -> None:
    bench = Bench(tmp_path, "gs://bucket/out", options(busy), lease_seconds=8.0)
    assert bench.run(crash="after part", number=2) == KILLED
    assert bench.run(crash="after epoch") == KILLED
    assert bench.run() == 0
    bench.check()
    assert bench.answered().total() <= ROWS + UNIT
    bench.output.at(read_snapshot(bench.output).commits[0].file).delete()
    assert bench.run() == 0
    bench.check()


@pytest.mark.faults
def test_of_two_runs_one_works(tmp_path: Path, server: tuple[str, Google]) -> None:
    bench = Bench(tmp_path, "gs://bucket/out", options(server[0]), lease_seconds=12.0)
    hold = tmp_path / "hold"
    hold.touch()
    with bench.start(STAR_BATCH_TEST_HOLD=str(hold)) as first:
        wait_for_commit(bench)
        assert bench.run() == LeaseHeld.exit_code
        hold.unlink()
        first.join(timeout=60)
        assert first.exitcode == 0
    bench.check()
    assert bench.answered().total() == ROWS


def test_a_large_part_goes_up_in_pieces(output: Location, server: tuple[str, Google]) -> None:
    file, data = output.at("x"), bytes(51 * 2**20)
    file.create(data)
    assert server[1].sessions
    with pytest.raises(FileExistsError):
        file.create(data)
    assert server[1].get("bucket", "out/x").data == data
