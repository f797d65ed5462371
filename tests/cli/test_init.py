"""`init` on data of several kinds: the file it writes is a job, and the job runs."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from star_batch.config import load_config
from star_batch.pipeline import job as jobs
from tests.cli.jobs import invoke
from tests.pipeline import bare
from tests.pipeline.fakes import FAKE
from tests.pipeline.samples import SCHEMA, png, rows, write


def with_images(folder: Path) -> str:
    (folder / "photos").mkdir()
    for number in range(3):
        (folder / "photos" / f"{number}.png").write_bytes(png(number))
    return str(folder / "photos")


def with_bytes(folder: Path) -> str:
    return str(write(folder / "in.parquet", rows(4)))


def with_class_labels(folder: Path) -> str:
    datasets = import_module("datasets")
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "a: dog"])})
    values = {"picture": [{"bytes": png(n), "path": None} for n in range(4)], "label": [0, 1, 0, 1]}
    datasets.Dataset.from_dict(values, features=features).to_parquet(str(folder / "in.parquet"))
    return str(folder / "in.parquet")


def with_names_and_ids_twice(folder: Path) -> str:
    schema = pa.schema(
        [("id", pa.int64()), ("file", pa.string()), ("Category", pa.string()), ("odd\n#: '\"", pa.int8())]
    )
    for number in range(2):
        (folder / f"{number}.png").write_bytes(png(number))
    found = [{"id": 1, "file": f"{n}.png", "Category": ["red", "blue"][n]} for n in range(2)]
    return str(write(folder / "in.parquet", found, schema))


DATA = (with_images, with_bytes, with_class_labels, with_names_and_ids_twice)


@pytest.mark.parametrize("job", ["caption", "label", "answer"])
@pytest.mark.parametrize("make", DATA)
def test_what_is_written_runs(make: Any, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("init", job, make(tmp_path))
    assert result.exit_code == 0, result.stderr
    config = load_config("job.yaml", {})
    assert config.model.name == "demo"
    monkeypatch.setenv(bare.LOG, str(tmp_path / "log"))
    for name, substitute in bare.WITHOUT_RAY.items():
        monkeypatch.setattr(jobs, name, substitute)
    assert jobs.run(config, backend=FAKE).rows in (2, 3, 4)


def test_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("init", "answer", with_bytes(tmp_path), "--to", "a.yaml").exit_code == 0
    found = load_config("a.yaml", {}).input
    assert (found.image_column, found.id_column, found.prompt_column) == ("image", "id", "question")
    assert invoke("init", "label", with_class_labels(tmp_path), "--to", "b.yaml").exit_code == 0
    found = load_config("b.yaml", {}).input
    assert (found.image_column, found.choices, found.reference_column) == ("picture", ("a: dog", "cat"), "label")
    told = invoke("init", "label", with_names_and_ids_twice(tmp_path), "--to", "c.yaml")
    assert "to fill in: the question that your labels answer" in told.stderr
    found = load_config("c.yaml", {}).input
    assert (found.image_column, found.id_column, found.choices) == ("file", None, ("blue", "red"))


def test_images_on_the_web_are_for_the_user_to_allow(tmp_path: Path) -> None:
    schema = pa.schema([("url", pa.string())])
    data = write(tmp_path / "in.parquet", [{"url": "https://images.example.org/a.jpg?x=1"}], schema)
    told = invoke("init", "caption", str(data), "--to", str(tmp_path / "job.yaml"))
    assert "images are on the web" in told.stderr
    assert '# fetch: {hosts: ["images.example.org"]}' in (tmp_path / "job.yaml").read_text()
    assert load_config(tmp_path / "job.yaml", {}).input.fetch is None


def test_nothing_is_overwritten_and_nothing_invented(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("mine")
    result = invoke("init", "caption", with_bytes(tmp_path), "--to", str(tmp_path / "job.yaml"))
    assert (result.exit_code, (tmp_path / "job.yaml").read_text()) == (5, "mine")
    other = str(tmp_path / "other.yaml")
    plain = write(tmp_path / "plain.parquet", [{"id": "a"}], SCHEMA.remove(1).remove(1))
    assert "no column holds images" in invoke("init", "caption", str(plain), "--to", other).stderr
    (tmp_path / "empty").mkdir()
    assert invoke("init", "caption", str(tmp_path / "empty"), "--to", other).exit_code == 4
    assert invoke("init", "caption", str(tmp_path / "absent"), "--to", other).exit_code == 4
    assert invoke("init", "summarise", str(plain), "--to", other).exit_code == 2
    assert not Path(other).exists()
    assert invoke("init", "caption", str(tmp_path / "in.parquet"), "--to", f"{other}/job.yaml").exit_code == 5
