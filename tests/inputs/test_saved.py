"""Folders of `save_to_disk`: their own lists count, and lists that cannot be are said."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from star_batch.errors import InputError
from star_batch.inputs.base import plan_input
from tests.inputs.test_arrow import data_set, rows
from tests.pipeline.samples import input_config
from tests.storage.test_arrow import written


def ids(path: Any) -> list[str]:
    found: list[str] = plan_input(input_config(path, kind="arrow")).ids().to_pylist()
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "data-0.arrow").write_bytes(written(rows(1)))
    say(tmp_path / "set", [{"filename": "data-0.arrow"}])
    return tmp_path / "set"


def say(folder: Path, files: Any, **more: Any) -> None:
    (folder / "state.json").write_text(json.dumps({"_data_files": files} | more))


def test_what_a_filter_keeps_there_is_not_of_the_set(tmp_path: Path) -> None:
    """`datasets` writes its caches beside the files that it has read."""
    datasets = importlib.import_module("datasets")

    data_set(4).save_to_disk(tmp_path)
    datasets.load_from_disk(str(tmp_path)).map(lambda row: {"question": "another"}, load_from_cache_file=False)
    assert list(tmp_path.glob("cache-*.arrow"))
    assert ids(tmp_path) == [f"data-00000-of-00001.arrow#{row}" for row in range(4)]
    (cache,) = tmp_path.glob("cache-*.arrow")
    assert ids(cache) == [f"{cache.name}#{row}" for row in range(4)]


def test_splits_of_earlier_days_are_no_rows(tmp_path: Path) -> None:
    datasets = importlib.import_module("datasets")

    datasets.DatasetDict(train=data_set(2), old=data_set(2)).save_to_disk(tmp_path)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert ids(tmp_path) == [f"train/data-00000-of-00001.arrow#{row}" for row in range(2)]


def test_a_file_that_is_named_itself_is_read(folder: Path) -> None:
    (folder / "other.arrow").write_bytes(written(rows(2)))
    assert ids(folder) == ["data-0.arrow#0"]
    assert ids(folder / "other.arrow") == ["other.arrow#0", "other.arrow#1"]
    assert ids(folder / "data-*.arrow") == ["data-0.arrow#0"]


def test_a_missing_file_is_said(folder: Path) -> None:
    say(folder, [{"filename": "data-0.arrow"}, {"filename": "data-1.arrow"}])
    for path in (folder, folder.parent):
        with pytest.raises(InputError, match=r"state\.json: names 'data-1\.arrow', which is not there"):
            ids(path)
    assert ids(folder / "data-*.arrow") == ["data-0.arrow#0"]


def test_an_indices_mapping_is_refused(folder: Path) -> None:
    say(folder, [{"filename": "data-0.arrow"}], _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(InputError, match=r"indices mapping.*flatten_indices\(\)"):
        ids(folder)


@pytest.mark.parametrize(
    "files",
    [
        None,
        [],
        {},
        3,
        "data-0.arrow",
        ["data-0.arrow"],
        [{"filename": 3}],
        [{"filename": "../x"}],
        [{"filename": ""}],
        [{}],
    ],
)
def test_lists_that_cannot_be_are_said(folder: Path, files: Any) -> None:
    say(folder, files)
    with pytest.raises(InputError, match=r"state\.json: does not list files of its folder"):
        ids(folder)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_said(folder: Path, data: bytes) -> None:
    (folder / "state.json").write_bytes(data)
    with pytest.raises(InputError, match=r"state\.json: is not what save_to_disk writes"):
        ids(folder)
    say(folder, [{"filename": "data-0.arrow"}])
    (folder.parent / "dataset_dict.json").write_bytes(data or b"0")
    with pytest.raises(InputError, match=r"dataset_dict\.json: is not what save_to_disk writes"):
        ids(folder)


@pytest.mark.parametrize("splits", [None, 3, "set", [3]])
def test_splits_that_cannot_be_are_said(folder: Path, splits: Any) -> None:
    (folder.parent / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    with pytest.raises(InputError, match="does not list splits"):
        ids(folder.parent)
    (folder.parent / "dataset_dict.json").write_text(json.dumps({"splits": ["another"]}))
    with pytest.raises(InputError, match="no file there is in a list of its data set"):
        ids(folder.parent)
