"""One run at a time: who gets the lease, who waits for it, who loses it, and what clocks have to do with it."""

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from star_batch.commit import lease as module
from star_batch.commit.lease import CLOCK_SKEW_SECONDS, LEASE, Lease, Terms, read_lease
from star_batch.errors import Interrupted, LeaseHeld, LeaseLost, OutputError
from star_batch.storage.compare_and_swap import compare_and_swap, read
from star_batch.storage.location import Location
from tests.conftest import BUCKET
from tests.pipeline.test_s3 import options

SECONDS = 1.0
FOREIGN = Terms(
    holder="another",
    host="elsewhere",
    pid=7,
    machine=None,
    since="yesterday",
    seconds=SECONDS,
    expires=1e12,
    nonce="n",
)


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "local":
        return Location.of(str(tmp_path / "out"))
    return Location.of(f"s3://{BUCKET}/out", options(request.getfixturevalue("s3_endpoint")))


def left_behind(output: Location, **changes: object) -> Terms:
    """The lease of a run on another machine that is not heard of any more."""
    terms = replace(FOREIGN, **{"expires": time.time() + SECONDS, **changes})  # type: ignore[arg-type]
    output.at(LEASE).write_bytes(terms.to_json())
    return terms


def seconds_to_take(output: Location) -> float:
    started = time.monotonic()
    with Lease(output=output, seconds=SECONDS):
        return time.monotonic() - started


def held(output: Location) -> Terms:
    terms = read_lease(output)
    assert terms is not None
    return terms


def test_a_lease_is_taken_kept_and_given_back(output: Location) -> None:
    assert read_lease(output) is None
    with Lease(output=output, seconds=SECONDS) as lease:
        first = held(output)
        time.sleep(SECONDS * 1.5)
        lease.confirm()
        assert not held(output).is_free(time.time())
        assert held(output).nonce != first.nonce
    assert held(output).is_released
    assert seconds_to_take(output) < 10 * SECONDS


def test_whoever_comes_second_is_told_who_is_there(output: Location) -> None:
    with Lease(output=output, seconds=SECONDS), pytest.raises(LeaseHeld) as caught:
        seconds_to_take(output)
    assert f"process {held(output).pid} on {held(output).host}, since 20" in str(caught.value)
    assert caught.value.exit_code == 7


def test_of_many_that_come_at_once_one_gets_in(output: Location) -> None:
    inside, refused = [], []
    done = threading.Event()

    def come() -> None:
        try:
            with Lease(output=output, seconds=SECONDS):
                inside.append(1)
                done.wait(20)
        except LeaseHeld:
            refused.append(1)
            done.set() if len(refused) == 3 else None

    threads = [threading.Thread(target=come) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(inside), len(refused)) == (1, 3)


def test_a_run_on_another_machine_that_is_silent_is_succeeded_after_its_term(output: Location) -> None:
    left_behind(output)
    assert seconds_to_take(output) >= SECONDS


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
def test_a_clock_that_is_wrong_cannot_keep_others_out(output: Location, ahead: float) -> None:
    """The dead run's clock was an hour ahead, or behind: its lease is watched, or taken as one of long ago."""
    left_behind(output, expires=time.time() + SECONDS + ahead)
    assert seconds_to_take(output) < SECONDS * 4


def test_a_clock_that_is_a_little_fast_throws_nobody_out(output: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    with Lease(output=output, seconds=SECONDS):
        monkeypatch.setattr(time, "time", lambda: now() + CLOCK_SKEW_SECONDS - 10)
        assert not held(output).is_free(time.time())


def test_a_process_of_this_machine_that_is_dead_is_succeeded_at_once(output: Location) -> None:
    left_behind(output, machine=module._machine(), pid=2**22 + 1, seconds=600.0, expires=time.time() + 600)
    assert seconds_to_take(output) < 10 * SECONDS


def be_succeeded(output: Location, then: Callable[[Lease], None], seconds: float = SECONDS) -> None:
    with Lease(output=output, seconds=seconds) as lease:
        left_behind(output)
        then(lease)


def test_whoever_is_succeeded_is_stopped_where_it_waits(tmp_path: Path) -> None:
    output = Location.of(str(tmp_path / "out"))
    started = time.monotonic()
    with pytest.raises(LeaseLost, match=r"another run has taken over \(process 7 on elsewhere, since yesterday\)"):
        be_succeeded(output, then=lambda lease: time.sleep(30))
    assert time.monotonic() - started < 10
    assert held(output).holder == "another"


def test_a_run_in_the_background_is_stopped_as_well(tmp_path: Path) -> None:
    """What nohup or a script's `&` starts has Ctrl-C ignored: it went on beside its successor until it was done."""
    output, before = Location.of(str(tmp_path / "out")), signal.signal(signal.SIGINT, signal.SIG_IGN)
    started = time.monotonic()
    try:
        with pytest.raises(LeaseLost, match="another run has taken over"):
            be_succeeded(output, then=lambda lease: time.sleep(30))
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 10


def test_a_lost_lease_is_noticed_before_the_end_is_declared(tmp_path: Path) -> None:
    output = Location.of(str(tmp_path / "out"))
    with pytest.raises(LeaseLost):
        be_succeeded(output, then=Lease.confirm, seconds=600.0)


def test_an_error_inside_stays_the_error(tmp_path: Path) -> None:
    output = Location.of(str(tmp_path / "out"))
    with pytest.raises(Interrupted), Lease(output=output, seconds=SECONDS):
        raise Interrupted
    assert held(output).is_released


NO_LEASES = [
    b"",
    b"{}",
    b"[]",
    b"\xff\x00\x1b]0;x",
    b"[" * 100_000,
    b'{"holder": 7}',
    replace(FOREIGN, expires=float("nan")).to_json(),
    replace(FOREIGN, seconds=float("inf")).to_json(),
]


@pytest.mark.parametrize("content", NO_LEASES)
def test_what_is_no_lease_is_refused_and_the_cure_is_named(tmp_path: Path, content: bytes) -> None:
    output = Location.of(str(tmp_path / "out"))
    output.at(LEASE).write_bytes(content)
    for look in (seconds_to_take, read_lease):
        with pytest.raises(OutputError, match=r"out/_lease\.json is not a lease: .* if there is none, delete the file"):
            look(output)
    output.at(LEASE).delete()
    assert seconds_to_take(output) < 10 * SECONDS


def test_a_lease_of_a_later_version_is_a_lease(output: Location) -> None:
    values = json.loads(FOREIGN.to_json()) | {"colour": "blue"}
    output.at(LEASE).write_bytes(json.dumps(values).encode())
    assert held(output) == FOREIGN


@pytest.mark.parametrize("content", [None, *NO_LEASES[:4]])
def test_a_lease_that_somebody_deletes_or_overwrites_is_written_again(
    output: Location, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged file killed the thread that renews, and the job worked on without anybody who knew of it."""
    with Lease(output=output, seconds=SECONDS) as lease:
        output.at(LEASE).delete() if content is None else output.at(LEASE).write_bytes(content)
        wait_until(lambda: "written again" in caplog.text)
        assert held(output).holder == lease._terms.holder
        with pytest.raises(LeaseHeld, match=f"process {held(output).pid} on "):
            seconds_to_take(output)
        lease.confirm()
    assert held(output).is_released
    [words] = [text for text in caplog.messages if "written again" in text]
    what = "deleted" if content is None else "overwritten"
    assert words.startswith(f"{output.at(LEASE).shown}: somebody has {what} the lease of this run")
    assert words.isprintable()


def test_a_released_lease_does_not_come_back_into_a_folder_that_is_gone(tmp_path: Path) -> None:
    output = Location.of(str(tmp_path / "out"))
    with Lease(output=output, seconds=600.0):
        shutil.rmtree(tmp_path / "out")
    assert not (tmp_path / "out" / LEASE).exists()


@pytest.mark.parametrize("thread", ["the main thread", "another"])
def test_whatever_happens_to_the_renewing_thread_ends_the_job(
    tmp_path: Path, thread: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    output, raised = Location.of(str(tmp_path / "out")), []

    def work() -> None:
        try:
            with Lease(output=output, seconds=SECONDS) as lease:
                monkeypatch.setattr(module, "read", lambda file: 1 / 0)
                if thread == "another":
                    wait_until(lambda: "the job stops" in caplog.text)
                    lease.confirm()
                time.sleep(30)
        except (OutputError, ZeroDivisionError) as error:
            raised.append(str(error))

    if thread == "another":
        threading.Thread(target=work).start()
        wait_until(lambda: bool(raised))
    else:
        work()
    assert raised == [f"{output.shown}: the lease can be renewed no longer: ZeroDivisionError: division by zero"]


def wait_until(is_so: Callable[[], bool], seconds: float = 20.0) -> None:
    ends = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_a_swap_counts_only_if_nobody_was_faster(output: Location) -> None:
    file = output.at("x")
    assert compare_and_swap(file, None, b"one")
    assert not compare_and_swap(file, None, b"two")
    before = read(file)
    assert compare_and_swap(file, before, b"three")
    assert not compare_and_swap(file, before, b"four")
    assert file.read_bytes() == b"three"


def test_a_swap_whose_reply_was_lost_has_counted(output: Location) -> None:
    file = output.at("x")
    assert compare_and_swap(file, None, b"one")
    assert compare_and_swap(file, None, b"one")
    before = read(file)
    assert compare_and_swap(file, before, b"two")
    assert compare_and_swap(file, before, b"two")


@pytest.mark.parametrize("seconds", [1e9, 3601.0, 0.0, -5.0, float("nan")])
def test_a_lease_that_would_keep_others_waiting_for_ever_is_damaged(tmp_path: Path, seconds: float) -> None:
    output = Location.of(str(tmp_path / "out"))
    left_behind(output, seconds=seconds, expires=4e9)
    with pytest.raises(OutputError, match="is not a lease: it is damaged"):
        seconds_to_take(output)


def test_whoever_waits_says_for_what_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    output = Location.of(str(tmp_path / "out"))
    left_behind(output)
    seconds_to_take(output)
    told = [record.message for record in caplog.records if "waiting" in record.message]
    assert told == [
        f"{output.url}: waiting for up to 1 seconds to see whether process 7 on elsewhere, since yesterday, "
        "is still at work"
    ]


@pytest.mark.parametrize("pid", [-(2**40), 2**70, -1, 0])
def test_a_number_that_no_process_has_is_of_a_dead_one(tmp_path: Path, pid: int) -> None:
    output = Location.of(str(tmp_path / "out"))
    left_behind(output, pid=pid, machine=module._machine())
    assert held(output).is_free(time.time())
