import errno
import io
import os
import time
from collections.abc import Callable
from http.client import IncompleteRead
from pathlib import Path
from typing import Any, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import ClientPayloadError
from botocore.exceptions import ClientError, CredentialRetrievalError, EndpointConnectionError, NoCredentialsError
from fsspec.exceptions import FSTimeoutError
from s3fs.errors import translate_boto_error

from star_batch.errors import ConfigError, InputError, OutputError
from star_batch.storage.location import STORAGE_ERRORS, Location, failing_as


def test_a_relative_path_means_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Location.of("out").url == str(tmp_path / "out")
    assert Location.of(f"file://{tmp_path}/out").path == str(tmp_path / "out")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Location.of("~/out").url == str(tmp_path / "out")


def test_names_below_a_folder() -> None:
    assert Location("/a").at("b", "c").url == "/a/b/c"
    assert Location("/").at("b").url == "/b"
    assert Location("s3://").at("bucket", "x").url == "s3://bucket/x"


def test_write_read_list_delete(tmp_path: Path) -> None:
    place = Location.of(str(tmp_path / "out"))
    place.at("a", "b.bin").write_bytes(b"one")
    place.at("a", "b.bin").write_bytes(b"two")
    assert place.at("a", "b.bin").read_bytes() == b"two"
    assert place.files() == ["a/b.bin"]
    place.at("a", "b.bin").delete()
    place.at("a", "b.bin").delete()
    assert place.files() == []
    assert Location.of(str(tmp_path / "nowhere")).files() == []


def test_create_writes_once(tmp_path: Path) -> None:
    file = Location.of(str(tmp_path / "marker"))
    file.create(b"first")
    with pytest.raises(FileExistsError):
        file.create(b"second")
    assert file.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["marker"]


def test_a_failed_write_leaves_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="cannot write: No space left on device"):
        write_answer(Location.of(str(tmp_path)))
    assert os.listdir(tmp_path) == []


def write_answer(place: Location) -> None:
    with failing_as(OutputError, "write", place):
        place.at("x").write_bytes(b"")


def test_userinfo_is_refused_without_being_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        Location.of("s3://me:hunter2@bucket/data")
    assert "hunter2" not in str(caught.value)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="nosuch://x: unknown scheme"):
        Location.of("nosuch://x")


def test_options_are_never_shown() -> None:
    place = Location.of("s3://bucket/x", {"secret": "hunter2hunter2"})
    assert "hunter2" not in repr(place)
    assert "hunter2" not in repr({"place": place})


def test_the_endpoint_of_the_environment_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert Location.of("s3://bucket/x").options["endpoint_url"] == "http://127.0.0.1:9"
    given = {"endpoint_url": "http://127.0.0.1:8"}
    assert Location.of("s3://bucket/x", given).options["endpoint_url"] == "http://127.0.0.1:8"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(2, "x", "/some/where"), "not found"),
        (PermissionError("AKIA... denied"), "access denied"),
        (OSError(errno.ENOSPC, "No space left"), "No space left"),
        (OSError("first line\nsecond line"), "first line"),
    ],
)
def test_one_line_says_what_went_wrong(tmp_path: Path, error: OSError, words: str) -> None:
    place = Location.of(str(tmp_path))
    with pytest.raises(InputError) as caught, failing_as(InputError, "read", place):
        raise error
    assert str(caught.value) == f"{tmp_path}: cannot read: {words}"


@pytest.mark.parametrize("condition", [{}, {"Condition": "If-None-Match"}])
def test_servers_say_in_two_ways_that_a_marker_exists(
    condition: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Taken:
        def pipe_file(self, path: str, data: bytes, mode: str) -> None:
            reply = {"Error": {"Code": "PreconditionFailed", "Message": "no", **condition}}
            raise translate_boto_error(ClientError(reply, "PutObject"))

    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url, **options: (Taken(), url))
    with pytest.raises(FileExistsError):
        Location("s3://bucket/x").create(b"")


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.sleeps: list[float] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


class Outage:
    """A file system that raises `error` until `ends`, whatever is asked of it."""

    def __init__(self, clock: Clock, error: BaseException, ends: float) -> None:
        self.clock, self.error, self.ends = clock, error, ends
        self.num_calls = 0

    def __getattr__(self, name: str) -> Any:
        return self._answer

    def _answer(self, *args: object, **kwargs: object) -> bytes:
        self.num_calls += 1
        if self.clock.now < self.ends:
            raise self.error
        return b""


def outage(monkeypatch: pytest.MonkeyPatch, error: BaseException, ends: float) -> Outage:
    made = Outage(Clock(monkeypatch), error, ends)
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url, **options: (made, url))
    return made


def reply(code: str, status: int) -> BaseException:
    """What s3fs makes of an answer of the server."""
    body = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return cast(BaseException, translate_boto_error(ClientError(body, "PutObject")))


PASSING = [
    OSError(errno.EBUSY, "slow down"),
    OSError(errno.EHOSTUNREACH, "no route"),
    ConnectionResetError(),
    TimeoutError(),
    FSTimeoutError(),
    IncompleteRead(b""),
    ClientPayloadError("half a reply"),
    EndpointConnectionError(endpoint_url="http://x"),
    CredentialRetrievalError(provider="pod", error_msg="busy"),
    *(reply(*said) for said in [("SlowDown", 503), ("503", 503), ("InternalError", 500), ("Strange", 502)]),
    *(
        reply(*said)
        for said in [("RequestTimeout", 400), ("TooManyRequests", 429), ("ConditionalRequestConflict", 409)]
    ),
]
LASTING = [
    PermissionError(errno.EACCES, "denied"),
    FileNotFoundError(),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError(errno.EROFS, "Read-only file system"),
    NoCredentialsError(),
    *(
        reply(*said)
        for said in [("AccessDenied", 403), ("ExpiredToken", 400), ("QuotaExceeded", 403), ("Strange", 400)]
    ),
]
DOINGS: list[Callable[[Location], object]] = [
    lambda place: place.read_bytes(),
    lambda place: place.write_bytes(b""),
    lambda place: place.create(b""),
    lambda place: place.files(),
    lambda place: place.exists(),
    lambda place: place.is_folder(),
    lambda place: place.delete(),
    lambda place: place.open_file("x"),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_passing_trouble_is_waited_out_for_minutes(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    down = outage(monkeypatch, error, ends=240.0)
    Location("s3://bucket/x").read_bytes()
    assert 240.0 <= down.clock.now < 300.0
    assert down.num_calls < 120
    assert max(down.clock.sleeps) <= 20.0
    assert len(set(down.clock.sleeps)) > 5


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_lasting_trouble_is_told_at_once(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    down = outage(monkeypatch, error, ends=1.0)
    with pytest.raises(STORAGE_ERRORS) as raised:
        Location("s3://bucket/x").write_bytes(b"")
    assert error in (raised.value, raised.value.__cause__)
    assert (down.num_calls, down.clock.sleeps) == (1, [])


@pytest.mark.parametrize("do", DOINGS)
def test_everything_that_can_be_done_is_patient(
    do: Callable[[Location], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    down = outage(monkeypatch, OSError(errno.EBUSY, "slow down"), ends=60.0)
    do(Location("s3://bucket/x"))
    assert down.clock.now >= 60.0


def test_patience_ends_and_a_person_is_told_what_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    down = outage(monkeypatch, OSError(errno.EBUSY, "slow down"), ends=1e9)
    place = Location("s3://bucket/x", {"secret": "slow down"}, retry_seconds=30.0)
    with pytest.raises(OSError, match="slow down"):
        place.at("below").read_bytes()
    assert 30.0 <= down.clock.now <= 50.0
    assert caplog.messages == ["s3://bucket/x/below: ***; trying again for up to 30 seconds"]


def test_a_marker_whose_reply_was_lost_is_found_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server did it and its reply got lost: the second try is told that the file exists, and so is the caller."""
    Clock(monkeypatch)
    answers = [ConnectionResetError(), reply("PreconditionFailed", 412)]

    class Losing:
        def pipe_file(self, path: str, data: bytes, mode: str) -> None:
            raise answers.pop(0)

    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url, **options: (Losing(), url))
    with pytest.raises(FileExistsError):
        Location("s3://bucket/x").create(b"")


class Torn(io.BytesIO):
    """A remote file whose every other read breaks after it has moved on."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.num_reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.num_reads += 1
        data = super().read(size)
        if self.num_reads % 2:
            raise ConnectionResetError
        return data


def test_a_parquet_file_is_read_over_connections_that_break(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    table, buffer = pa.table({"x": range(1000)}), io.BytesIO()
    pq.write_table(table, buffer, row_group_size=100)
    torn = Torn(buffer.getvalue())

    class Files:
        def open(self, path: str, mode: str) -> Torn:
            return torn

    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url, **options: (Files(), url))
    with Location("s3://bucket/x").open_file("x") as file:
        groups = [pq.ParquetFile(file).read_row_group(n) for n in range(10)]
    assert pa.concat_tables(groups).equals(table)
    assert torn.num_reads > 20
    assert torn.closed


def test_create_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on FAT, on some FUSE mounts and network shares."""

    def link(source: object, target: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    file = Location.of(str(tmp_path / "marker"))
    file.create(b"first")
    with pytest.raises(FileExistsError):
        file.create(b"second")
    assert file.read_bytes() == b"first"
    assert sorted(os.listdir(tmp_path)) == [".lock", "marker"]


@pytest.mark.parametrize("method", ["files", "sizes"])
def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once an output whose listing failed was taken for one without answers, and everything was answered again."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a").write_bytes(b"abc")
    place, troubles, scandir = Location.of(str(tmp_path), retry_seconds=30.0), [errno.ESTALE, errno.EACCES], os.scandir

    def failing(path: str) -> Any:
        if path.endswith("inner") and troubles:
            raise OSError(troubles.pop(0), "trouble", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(PermissionError):
        getattr(place, method)()
    assert list(getattr(place, method)()) == ["inner/a"]
    assert not getattr(place.at("nowhere"), method)()


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path, Path("/")):
        with pytest.raises(OSError, match="no regular file"):
            Location.of(str(place)).write_bytes(b"x")


@pytest.mark.parametrize(("url", "words"), [("a\0b", "null character"), ("s3://", "names no bucket")])
def test_places_that_are_none(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Location.of(url)


def test_a_scheme_is_the_same_in_capitals() -> None:
    assert Location.of("S3://bucket/Key").url == "s3://bucket/Key"
