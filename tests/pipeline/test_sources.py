"""What rows may name: their own folder, what the configuration opens to them, and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from star_batch.pipeline import files
from star_batch.pipeline.sources import Sources
from star_batch.pipeline.storage import Location
from star_batch.regular import read_regular
from tests.conftest import BUCKET
from tests.pipeline.samples import input_config, png


def read(root: Location, name: Any, **more: Any) -> bytes | str:
    """The image's bytes, or the type of the error."""
    [found] = Sources.of(input_config(root.url, **more), root).read_all([name])
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
