"""What rows may name: their own folder, what the configuration opens to them, and nothing else."""

import base64
import contextlib
import os
import textwrap
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from star_batch.inputs import files, sources
from star_batch.inputs.sources import Sources
from star_batch.regular import read_regular
from star_batch.storage.location import Location
from tests.conftest import BUCKET
from tests.pipeline.samples import input_config, png


def read(root: Location, name: Any, **more: Any) -> bytes | str:
    """The image's bytes, or the type of the error."""
    [found] = Sources.of(input_config(root.url, **more), root, only_names=more.get("kind") == "images").read_all([name])
    if found.error is not None:
        assert str(found.error)
        return found.error.kind
    assert found.data is not None
    return found.data


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("in/a.png", "open/b.png", "closed/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(1))
    return tmp_path


def test_an_input_on_this_machine_names_its_users_files(place: Path) -> None:
    root = Location.of(str(place / "in"))
    for name in ("a.png", "../open/b.png", f"{place}/closed/c.png", f"file://{place}/closed/c.png"):
        assert read(root, name) == png(1)


def test_with_roots_only_what_is_below_them(place: Path) -> None:
    root, roots = Location.of(str(place / "in")), [str(place / "open")]
    for name in ("a.png", "x/../a.png", "../open/b.png", f"{place}/open/b.png"):
        assert read(root, name, image_roots=roots) == png(1)
    for name in (
        "../closed/c.png",
        f"{place}/closed/c.png",
        f"{place}/open/../closed/c.png",
        f"file://{place}/closed/c.png",
        f"{place}/opened.png",
        "s3://bucket/a.png",
        "/etc/passwd",
        "file:///etc/passwd",
    ):
        assert read(root, name, image_roots=roots) == "image_fetch_refused"


def test_a_row_from_elsewhere_reads_nothing_of_this_machine(s3_endpoint: str, place: Path) -> None:
    root = Location.of(f"s3://{BUCKET}/in", {"endpoint_url": s3_endpoint})
    for key in ("in/a.png", "photos/b.png"):
        Location.of(f"s3://{BUCKET}/{key}", root.options).write_bytes(png(2))
    assert read(root, "a.png") == png(2)
    assert read(root, f"s3://{BUCKET}/photos/b.png") == png(2)
    here = f"{place}/in/a.png"
    for name in (here, f"file://{here}", f"FILE://{here}", "../in/a.png", f"s3://{BUCKET}/photos/../in/a.png"):
        assert read(root, name) == "image_fetch_refused"
    assert read(root, here, image_roots=[str(place)]) == png(1)
    assert read(root, f"s3://{BUCKET}/photos/b.png", image_roots=[str(place)]) == "image_fetch_refused"
    assert read(root, f"s3://{BUCKET}/photos/b.png", image_roots=[f"s3://{BUCKET}/photos"]) == png(2)


@pytest.mark.parametrize("name", ["a.zip::b", "simplecache::file:///etc/passwd", "s3://b/x::file:///etc/passwd"])
def test_fsspecs_chains_are_not_followed(place: Path, name: str) -> None:
    assert read(Location.of(str(place / "in")), name) == "image_fetch_refused"


def test_names_in_a_folder_of_images_are_names_and_no_urls(place: Path) -> None:
    root = Location.of(str(place / "in"))
    assert read(root, "https://h/a.png", kind="images", prompt="q") == "image_fetch_failed"
    assert read(root, f"file://{place}/closed/c.png", kind="images", prompt="q") == "image_fetch_failed"


@pytest.mark.parametrize("name", ["a\0.png", "\ud800.png", "x" * 5000, "a.png/b", "."])
def test_names_that_no_file_can_have(place: Path, name: str) -> None:
    assert read(Location.of(str(place / "in")), name) in ("image_fetch_failed", "image_fetch_refused")


def test_rows_that_name_the_same_image_read_it_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(path: str, *more: Any) -> bytes:
        asked.append(path)
        return read_regular(path, *more)

    monkeypatch.setattr(files, "read_regular", counted)
    root = Location.of(str(place / "in"))
    found = Sources.of(input_config(root.url), root).read_all(["a.png", png(3), "a.png", None, "a.png"])
    assert [each.data for each in found] == [png(1), png(3), png(1), None, png(1)]
    assert len(asked) == 1


def test_without_a_word_about_the_web_nothing_is_fetched(place: Path) -> None:
    [found] = Sources.of(input_config(str(place)), Location.of(str(place))).read_all(["https://h/a.png?signature=x"])
    assert found.error is not None
    assert found.error.kind == "image_fetch_refused"
    assert "input.fetch" in str(found.error)
    assert "signature" not in str(found.error)


ENCODED = base64.b64encode(png(5)).decode()


@pytest.mark.parametrize(
    "text",
    [
        ENCODED,
        ENCODED.rstrip("="),
        ENCODED.encode(),
        "\n".join(textwrap.wrap(ENCODED, 60)),
        base64.urlsafe_b64encode(png(5)).decode(),
        f"data:image/png;base64,{ENCODED}",
        f"data:image/png;base64,{ENCODED}".encode(),
        f"DATA:;base64,{ENCODED}\n",
        "data:image/png," + quote(png(5)),
        {"bytes": None, "path": f"data:image/png;base64,{ENCODED}"},
    ],
)
def test_images_that_stand_in_the_row_as_text(place: Path, text: Any) -> None:
    assert read(Location.of(str(place / "in")), text) == png(5)


def test_a_path_that_could_be_base64_is_a_path(place: Path) -> None:
    name = "images/" + "abcdefgh" * 10
    (place / "in" / "images").mkdir()
    (place / "in" / name).write_bytes(png(6))
    odd = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7.gif"  # begins as a GIF would
    (place / "in" / odd).parent.mkdir(parents=True)
    (place / "in" / odd).write_bytes(png(7))
    assert [read(Location.of(str(place / "in")), each) for each in (name, odd)] == [png(6), png(7)]


@pytest.mark.parametrize(
    "source",
    [
        "data:image/png;base64," + "A" * 400_001,
        ENCODED[:100] + "****" * 100_000,
        "x" * 300_000,
        "https://h/" + "x" * 300_000,
        "s3://bucket/" + "x" * 300_000,
        "x" * 300_000 + "://h/a",
        "a::" + "x" * 300_000,
        "file://" + "x" * 300_000 + "/a",
        "\x1b[31m\n.png",
        "\x1b[31m::\n.png",
    ],
)
def test_no_error_quotes_much_of_a_source_or_controls_a_terminal(place: Path, source: str) -> None:
    closed = input_config(str(place), image_roots=[])
    [found] = Sources.of(closed, Location.of(str(place))).read_all([source])
    assert len(str(found.error)) < 500
    assert str(found.error).isprintable()


def test_file_uris(place: Path) -> None:
    root, spaced = Location.of(str(place / "in")), place / "in" / "a b#1?.png"
    spaced.write_bytes(png(4))
    for uri in (f"file://{quote(str(spaced))}", f"FILE://localhost{quote(str(spaced))}", f"file:{spaced}"):
        assert read(root, uri) == png(4)
    for uri in ("file://host/a.png", f"file://{place}%00", "file://~/a.png"):
        assert read(root, uri) in ("image_fetch_refused", "image_fetch_failed")


@pytest.mark.parametrize("name", ["pipe", "sparse.png", "/dev/zero", "."])
@pytest.mark.timeout(30)
def test_what_never_ends_or_is_too_large_is_its_rows_error(place: Path, name: str) -> None:
    os.mkfifo(place / "in" / "pipe")
    with (place / "in" / "sparse.png").open("wb") as file:
        file.truncate(10_000_000_000)
    root = Location.of(str(place / "in"))
    found = Sources.of(input_config(root.url), root).read_all(["a.png", name, png(2)])
    assert [each.data for each in found] == [png(1), None, png(2)]
    assert found[1].error is not None
    kinds = {"sparse.png": "image_too_large", "/dev/zero": "image_fetch_refused"}
    assert found[1].error.kind == kinds.get(name, "image_fetch_failed")


def test_bytes_in_the_row_have_the_same_limit(place: Path) -> None:
    root = Location.of(str(place / "in"))
    most = len(png(1))
    for source in (png(1), "a.png", f"data:,{quote(png(1))}"):
        assert read(root, source, max_image_bytes=most) == png(1)
        assert read(root, source, max_image_bytes=most - 1) == "image_too_large"


@pytest.mark.parametrize("text", ["data:," + "%41" * 3000, "data:;base64," + "QUFB" * 1000, "data:," + "%" * 9000])
def test_text_that_is_too_large_is_not_decoded(place: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.delattr(sources, "decode_data_uri")
    assert read(Location.of(str(place / "in")), text, max_image_bytes=1000) == "image_too_large"


def test_a_mount_that_hangs_costs_the_rows_that_name_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()

    def hanging(path: str, *more: Any) -> bytes:
        if "/mount/" in path:
            end.wait()
        return read_regular(path, *more)

    monkeypatch.setattr(files, "read_regular", hanging)
    root = Location.of(str(place / "in"))
    found = Sources.of(input_config(root.url, image_seconds=0.3), root).read_all(
        [*(f"mount/{number}.png" for number in range(20)), "a.png", png(2)]
    )
    end.set()
    assert [each.data for each in found[20:]] == [png(1), png(2)]
    assert {each.error.kind for each in found[:20] if each.error is not None} == {"image_fetch_failed"}
    assert "not there within 0.3 seconds (input.image_seconds)" in str(found[0].error)


def test_a_store_has_the_same_limits(s3_endpoint: str) -> None:
    root = Location.of(f"s3://{BUCKET}/in", {"endpoint_url": s3_endpoint})
    for name, data in (("a.png", png(2)), ("empty.png", b"")):
        root.at(name).write_bytes(data)
    most = len(png(2))
    assert read(root, "a.png", max_image_bytes=most) == png(2)
    assert read(root, "a.png", max_image_bytes=most - 1) == "image_too_large"
    assert read(root, "empty.png") == "image_missing"
    assert read(root, "none.png") == "image_fetch_failed"


@pytest.mark.timeout(60)
def test_a_store_that_trickles_is_given_up(aws_environment: None) -> None:
    with Trickling() as server:
        root = Location.of(f"s3://{BUCKET}/in", {"endpoint_url": server.endpoint})
        found = Sources.of(input_config(root.url, image_seconds=1.0), root).read_all(["a.png", png(1)])
    assert found[1].data == png(1)
    assert "not there within 1 seconds" in str(found[0].error)


def test_what_is_not_open_to_a_row_is_not_quoted(place: Path) -> None:
    """Whoever writes rows need not be the one whose files they name."""
    root = Location.of(str(place / "in"))
    for name in ("in/page.png", "closed/page.png"):
        (place / name).write_bytes(b"<html>secret")
    found = Sources.of(input_config(root.url), root).read_all(["page.png", "../closed/page.png"])
    assert [each.may_quote for each in found] == [True, False]


class Trickling(ThreadingHTTPServer):
    """A byte now and then, for ever."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Trickle)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *error: Any) -> None:
        self.shutdown()
        super().__exit__(*error)


class Trickle(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(206)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"x")
                time.sleep(0.1)
