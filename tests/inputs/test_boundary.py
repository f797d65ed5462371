"""What names are relative to is one thing, what is open to rows another."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from star_batch.inputs.base import plan_input
from star_batch.inputs.boundary import Boundary
from star_batch.inputs.preprocess import Preprocess
from star_batch.inputs.rows import read_rows
from star_batch.inputs.sources import Sources
from star_batch.storage.location import Location
from tests.conftest import BUCKET
from tests.pipeline.fakes import FakePreprocessor
from tests.pipeline.samples import input_config, png, write

TYPES = pa.schema([("image", pa.string()), ("question", pa.string())])


def table(path: Path, *names: str) -> Path:
    return write(path, [{"image": name, "question": "q"} for name in names], TYPES)


def picture(path: Path, grey: int = 1) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(grey))
    return str(path)


def seen(path: Any, **more: Any) -> list[int | str]:
    """The grey of each row's image, or the type of its error."""
    if "image_roots" in more:
        more["image_roots"] = [str(root) for root in more["image_roots"]]
    config = input_config(path, **more)
    plan = plan_input(config)
    stage = Preprocess(
        input=config,
        schema=plan.schema,
        sources=Sources.of(config, plan.root, only_names=plan.only_names),
        load=FakePreprocessor,
    )
    rows = [row for group in plan.pieces for part in read_rows(plan, group) for row in stage(part).to_pylist()]
    return [row["error_type"] or row["pictures"][0]["pixels"][0] for row in rows]


REFUSED = "image_fetch_refused"


def test_files_of_different_tops_open_nothing_between_them(tmp_path: Path) -> None:
    secret = picture(tmp_path / "c" / "secret.png")
    own = picture(tmp_path / "a" / "own.png")
    paths = [table(tmp_path / "a" / "x.parquet", secret, own, "own.png"), table(tmp_path / "b" / "x.parquet", own)]
    assert seen(paths, image_roots=[]) == [REFUSED, 1, 1, REFUSED]
    assert seen(paths, image_roots=[tmp_path / "c"]) == [1, 1, 1, REFUSED]
    assert seen(paths) == [1, 1, 1, 1]


def test_a_glob_opens_the_folders_of_the_files_that_it_finds(tmp_path: Path) -> None:
    secret = picture(tmp_path / "c" / "secret.png")
    table(tmp_path / "a" / "x.parquet", secret, "../c/secret.png", picture(tmp_path / "a" / "own.png"))
    assert seen(tmp_path / "*" / "x.parquet", image_roots=[]) == [REFUSED, REFUSED, 1]
    assert seen(tmp_path / "a" / "*.parquet", image_roots=[]) == [REFUSED, REFUSED, 1]


def test_a_folder_that_was_given_is_open_whole(tmp_path: Path) -> None:
    picture(tmp_path / "data" / "images" / "1.png")
    table(tmp_path / "data" / "train" / "x.parquet", "images/1.png", "../images/1.png", "../../data/images/1.png")
    assert seen(tmp_path / "data", image_roots=[]) == [1, 1, 1]
    assert seen(tmp_path / "data" / "train" / "x.parquet", image_roots=[]) == ["image_fetch_failed", REFUSED, REFUSED]


def test_links_do_not_lead_out_and_leading_in_is_fine(tmp_path: Path) -> None:
    picture(tmp_path / "closed" / "secret.png", 2)
    picture(tmp_path / "real" / "own.png")
    (tmp_path / "real" / "out").symlink_to(tmp_path / "closed")
    (tmp_path / "real" / "out.png").symlink_to(tmp_path / "closed" / "secret.png")
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    names = ["out/secret.png", "out.png", "own.png", f"{tmp_path}/real/own.png", f"{tmp_path}/alias/own.png"]
    table(tmp_path / "real" / "x.parquet", *names)
    for given in ("real", "alias", "alias/x.parquet"):
        assert seen(tmp_path / given, image_roots=[]) == [REFUSED, REFUSED, 1, 1, 1]
        assert seen(tmp_path / given) == [2, 2, 1, 1, 1]
    (tmp_path / "other").symlink_to(tmp_path / "closed")
    assert seen(tmp_path / "real", image_roots=[tmp_path / "other"]) == [2, 2, 1, 1, 1]


def test_links_in_a_folder_of_images_are_its_owners_arrangement(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "far.png", 2)
    picture(tmp_path / "in" / "near.png")
    (tmp_path / "in" / "far.png").symlink_to(tmp_path / "elsewhere" / "far.png")
    more = {"kind": "images", "prompt": "q"}
    assert seen(tmp_path / "in", **more) == [2, 1]
    assert seen(tmp_path / "in", image_roots=[], **more) == [REFUSED, 1]
    assert seen(tmp_path / "in", image_roots=[tmp_path / "elsewhere"], **more) == [2, 1]


def test_where_relative_names_are_looked_for(tmp_path: Path) -> None:
    """The folder that was given goes first; where none was, the folder of the row's own file."""
    picture(tmp_path / "1.png", 10)
    for number, folder in enumerate("ab", 1):
        picture(tmp_path / folder / "1.png", number)
        picture(tmp_path / folder / "2.png", number)
    files = [table(tmp_path / folder / "x.parquet", "1.png", "2.png", "a/2.png") for folder in "ab"]
    assert seen(tmp_path) == [10, 1, 1, 10, 2, 1]
    assert seen(files) == [1, 1, 1, 2, 2, 1]
    assert seen(tmp_path / "*" / "x.parquet") == [1, 1, 1, 2, 2, 1]
    assert seen(files, image_roots=[]) == [1, 1, 1, 2, 2, "image_fetch_failed"]


@pytest.mark.parametrize("name", ["/proc/self/environ", "/proc/self/status", "file:///sys/kernel/notes"])
def test_the_systems_own_state_is_no_image(tmp_path: Path, name: str) -> None:
    assert seen(table(tmp_path / "x.parquet", name)) == [REFUSED]


def test_what_is_open_in_stores() -> None:
    """Names are compared, as stores have no links; a bucket that two files share is not open for that."""
    given = [f"s3://{BUCKET}/a/x.parquet", f"s3://{BUCKET}/b/x.parquet"]
    boundary = Boundary.of(input_config(given, image_roots=[]), is_local=False)
    opened = boundary.opened(f"s3://{BUCKET}/a")
    assert boundary.why_not(f"s3://{BUCKET}/a/1.png", opened) is None
    for other in (f"s3://{BUCKET}/b/1.png", f"s3://{BUCKET}/ab/1.png", f"s3://{BUCKET}/c/1.png", "/a/1.png"):
        assert boundary.why_not(other, opened) is not None


def test_files_of_different_folders_of_a_bucket(s3_endpoint: str, tmp_path: Path) -> None:
    options = {"endpoint_url": s3_endpoint}
    for key in ("a/own.png", "c/secret.png"):
        Location.of(f"s3://{BUCKET}/{key}", options).write_bytes(png(3))
    data = table(tmp_path / "x.parquet", "own.png", f"s3://{BUCKET}/c/secret.png").read_bytes()
    paths = [f"s3://{BUCKET}/{folder}/x.parquet" for folder in "ab"]
    for path in paths:
        Location.of(path, options).write_bytes(data)
    more = {"storage_options": options}
    assert seen(paths, image_roots=[], **more) == [3, REFUSED, "image_fetch_failed", REFUSED]
    assert seen(paths, **more) == [3, 3, "image_fetch_failed", 3]
