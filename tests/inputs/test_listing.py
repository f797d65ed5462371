"""A folder of images as an input: names become ids, and nothing but names is held or sent."""

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from star_batch.commit.digests import digest_ids, is_in, joined
from star_batch.config import Input
from star_batch.errors import ConfigError, InputError
from star_batch.inputs import folders
from star_batch.inputs.base import plan_input
from star_batch.inputs.pieces import ID_COLUMN, QUESTION_COLUMN
from star_batch.inputs.rows import InputPlan, read_rows
from star_batch.storage.location import Location
from tests.conftest import BUCKET
from tests.pipeline.samples import png


def images(path: Path | str, **more: Any) -> Input:
    asked = {} if "questions" in more else {"prompt": "what is it?"}
    return Input.model_validate({"path": str(path), "kind": "images"} | asked | more)


def ids(plan: InputPlan) -> list[str]:
    read = [table for group in plan.pieces for table in read_rows(plan, group, rows_per_table=2)]
    found: list[str] = pa.concat_tables(read)[ID_COLUMN].to_pylist()
    assert found == plan.ids().to_pylist()
    assert len(found) == plan.num_rows
    return found


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in (
        "b.JPG",
        "a/2.png",
        "a/1.jpeg",
        "a.png",
        "_DSC1.jpg",
        "a/note.txt",
        ".hidden/c.jpg",
        "a/.c.jpg",
        "README",
    ):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(1))
    return tmp_path / "photos"


FOUND = ["_DSC1.jpg", "a.png", "a/1.jpeg", "a/2.png", "b.JPG"]


def test_images_by_their_names_in_order(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="star_batch"):
        assert ids(plan_input(images(photos))) == FOUND
    [said] = caplog.messages
    assert said.startswith(f"{photos}: left out, as no images by their names or for another reason: ")
    assert all(kind in said for kind in (".txt 1", "without a suffix 1"))


def test_a_limit_takes_the_first(photos: Path) -> None:
    assert ids(plan_input(images(photos, limit=2))) == FOUND[:2]


def test_several_folders_have_names_below_what_they_share(photos: Path) -> None:
    config = images(photos).model_copy(update={"path": (str(photos / "a"), str(photos))})
    assert ids(plan_input(config)) == FOUND
    elsewhere = images(photos).model_copy(
        update={"path": (str(photos / "a"), str(photos.parent / "photos" / "a" / ".."))}
    )
    assert ids(plan_input(elsewhere)) == FOUND


def test_done_images_are_left_out(photos: Path) -> None:
    plan = plan_input(images(photos))
    left = plan.only(~is_in(plan.digests(), joined([digest_ids(FOUND[1:4])])))
    assert ids(left) == [FOUND[0], FOUND[4]]


def test_every_image_is_asked_every_question(photos: Path) -> None:
    plan = plan_input(
        images(photos, questions={"kind": "what?", "many": {"prompt": "many?", "choices": ["yes", "no"]}})
    )
    assert ids(plan) == [f"{name}#{question}" for name in FOUND for question in ("kind", "many")]
    left = plan.only(~is_in(plan.digests(), joined([digest_ids(["a.png#kind", "b.JPG#many"])])))
    assert left.num_rows == 8
    assert "a.png#many" in ids(left)
    [table] = [table for group in plan.pieces for table in read_rows(plan, group)]
    assert table[QUESTION_COLUMN].to_pylist() == ["kind", "many"] * 5
    assert table["image"].to_pylist() == [name for name in FOUND for _ in range(2)]


def test_a_task_takes_along_only_the_names_that_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{tmp_path}/{number:060d}.jpg" for number in range(20_000)]
    monkeypatch.setattr(folders.Walk, "files", lambda *_: iter(names))
    plan = plan_input(images(tmp_path))
    assert plan.num_rows == 20_000
    assert max(len(pickle.dumps(group)) for group in plan.pieces) < 120_000


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images there"):
        plan_input(images(tmp_path))
    with pytest.raises(InputError, match="cannot list the images: not found"):
        plan_input(images(tmp_path / "none"))


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_not_passed_over(photos: Path) -> None:
    (photos / "a").chmod(0)
    with pytest.raises(InputError, match="access denied"):
        plan_input(images(photos))


def test_a_name_that_is_not_text_is_a_row_all_the_same(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(png(1))
    assert ids(plan_input(images(tmp_path))) == ["caf\\xe9.jpg"]


def test_a_template_finds_no_columns(photos: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompt: {thing} names a column, and a folder of images has none"):
        plan_input(images(photos, prompt="is there a {thing}?"))


def test_a_bucket_page_by_page(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_KEYS_PER_PAGE", 2)
    options = {"endpoint_url": s3_endpoint}
    for name in [*FOUND, "a/note.txt", "folder/"]:
        Location.of(f"s3://{BUCKET}/photos", options).at(name).write_bytes(png(1))
    Location.of(f"s3://{BUCKET}/photos-of-others/x.jpg", options).write_bytes(png(1))
    assert ids(plan_input(images(f"s3://{BUCKET}/photos/", storage_options=options))) == FOUND
    whole = ids(plan_input(images(f"s3://{BUCKET}", storage_options=options)))
    assert whole == ["photos-of-others/x.jpg", *(f"photos/{name}" for name in FOUND)]
