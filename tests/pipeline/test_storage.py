import errno
import os
from pathlib import Path
from typing import Any

import fsspec
import pytest
import tenacity
from botocore.exceptions import ClientError
from s3fs.errors import translate_boto_error

from star_batch.errors import ConfigError, InputError, OutputError
from star_batch.pipeline.storage import Location, failing_as


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


class Flaky:
    """A file system that fails some times before it answers."""

    def __init__(self, failures: list[BaseException]) -> None:
        self.failures = failures

    def cat_file(self, path: str) -> bytes:
        if self.failures:
            raise self.failures.pop(0)
        return b"data"


def read_from(flaky: Flaky, monkeypatch: pytest.MonkeyPatch) -> bytes:
    retrying: Any = Location.read_bytes
    monkeypatch.setattr(retrying.retry, "wait", tenacity.wait_none())
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url, **options: (flaky, url))
    return Location("s3://bucket/x").read_bytes()


def test_passing_trouble_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = OSError(errno.EBUSY, "slow down")
    assert read_from(Flaky([busy, ConnectionResetError(), TimeoutError()]), monkeypatch) == b"data"


def test_lasting_trouble_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    flaky = Flaky([PermissionError(), PermissionError()])
    with pytest.raises(PermissionError):
        read_from(flaky, monkeypatch)
    assert len(flaky.failures) == 1
