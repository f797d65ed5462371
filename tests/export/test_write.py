"""Exports as they are typed, read back by the libraries that their users read them with."""

import csv
import io
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import star_batch
from star_batch.commit.snapshots import Epoch
from star_batch.storage.location import Location
from tests.cli.jobs import invoke
from tests.export.samples import CHOICES, NUM_ROWS, ODD, config_of, run
from tests.pipeline.samples import rows, write
from tests.readers import READERS


def export(folder: Path, format: str, *more: str) -> str:
    result = invoke("export", str(folder / "out"), "--format", format, *more)
    assert result.exit_code == 0, result.stderr
    return str(result.stderr)


def as_read(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / "out" / "answers").to_pylist()
    return found


def test_json_lines(labelled: Path) -> None:
    export(labelled, "jsonl")
    path = labelled / "out" / "answers.jsonl"
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for row, want in zip(found, as_read(labelled), strict=True):
        assert row == want | {"when": want["when"].isoformat()}
    by_id = {row["id"]: row for row in found}
    assert (by_id["row-0000"]["input_label"], by_id["row-0000"]["note"], by_id["row-0001"]["note"]) == ("dog", "", ODD)
    assert import_module("pandas").read_json(path, lines=True).shape == (NUM_ROWS, len(found[0]))
    assert import_module("duckdb").sql(f"select count(*) from '{path}' where error is null").fetchall() == [(8,)]


def test_csv(labelled: Path) -> None:
    export(labelled, "csv", "--to", str(labelled / "a.csv"))
    frame = import_module("pandas").read_csv(labelled / "a.csv").sort_values("id", ignore_index=True)
    assert frame["id"].tolist() == [f"row-{n:04d}" for n in range(NUM_ROWS)]
    assert frame["label_probability"].sum() == 6.0
    assert frame["note"].tolist()[1:] == [ODD] * (NUM_ROWS - 1)
    assert json.loads(frame["label_probabilities"][0])[0] == {"label": "cat", "probability": 0.75}
    assert json.loads(frame["num_kept"][0]) == [3, 1]
    read = f"read_csv('{labelled / 'a.csv'}', allow_quoted_nulls=false)"
    notes = import_module("duckdb").sql(f"select note from {read} order by id").fetchall()
    assert notes == [("",), *[(ODD,)] * (NUM_ROWS - 1)]
    [names, line, *_] = csv.reader(io.StringIO((labelled / "a.csv").read_text("utf-8"), newline=""))
    assert names == list(as_read(labelled)[0])
    assert line[names.index("when")].startswith("1970-01-01T00:00:00")


def test_shards_to_train_on(labelled: Path) -> None:
    export(labelled, "webdataset", "--to", str(labelled / "shards"))
    webdataset = import_module("webdataset")
    found = list(webdataset.WebDataset(str(labelled / "shards" / "00000.tar"), shardshuffle=False))
    images = {row["id"]: row["image"] for row in rows(NUM_ROWS)}
    answered = sorted((row for row in as_read(labelled) if row["error"] is None), key=lambda row: str(row["id"]))
    assert len(found) == len(answered) == 8
    for sample, row in zip(found, answered, strict=True):
        told = json.loads(sample["json"])
        assert (told["id"], sample["png"]) == (row["id"], images[row["id"]])
        assert (sample["txt"].decode(), CHOICES[int(sample["cls"])]) == (row["answer"], row["label"])
    decoded = next(
        iter(webdataset.WebDataset(str(labelled / "shards" / "00000.tar"), shardshuffle=False).decode("pil"))
    )
    assert decoded["png"].size == (12, 10)


def test_a_dataset_with_its_card(labelled: Path, tmp_path: Path) -> None:
    export(labelled, "dataset")
    folder = labelled / "out" / "dataset"
    found = sorted(READERS["datasets by folder"](folder, tmp_path / "scratch"), key=lambda row: str(row["id"]))
    assert [row["id"] for row in found] == [f"row-{n:04d}" for n in range(NUM_ROWS)]
    assert [row["label"] for row in found[:5]] == [0, 1, 0, 1, None]
    datasets = import_module("datasets")
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "more"))["train"]
    assert loaded.features["label"] == datasets.ClassLabel(names=list(CHOICES))
    assert loaded.features["answer"].dtype in ("string", "large_string")
    card = (folder / "README.md").read_text("utf-8")
    for words in ("10 rows, 8 of them answered", '"name": "fake"', "what is it?", "fingerprint"):
        assert words in card


def test_no_word_of_a_prompt_leaves_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path)
    hostile = config.input.model_copy(update={"prompt": "```\n# Heading <script>"})
    run(config.model_copy(update={"input": hostile}), monkeypatch)
    export(tmp_path, "dataset")
    card = (tmp_path / "out" / "dataset" / "README.md").read_text("utf-8")
    assert "# Heading" in card
    assert card.count("```") == 4
    assert "\n# Heading" not in card


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_a_job_at_work_has_the_rows_so_far(half_done: Epoch, format: str, tmp_path: Path) -> None:
    result = invoke("export", half_done.output.path, "--format", format, "--to", str(tmp_path / "so-far"))
    assert result.exit_code == 0, result.stderr
    assert "2 rows: " in result.stdout
    assert not half_done.output.at("answers.jsonl").exists()
    text = (tmp_path / "so-far").read_text("utf-8")
    assert ("row-0000" in text, "row-0001" in text, "row-0002" in text) == (True, True, False)


def test_shards_of_an_earlier_export_are_gone(labelled: Path) -> None:
    shards = labelled / "shards"
    shards.mkdir()
    (shards / "00007.tar").write_bytes(b"old")
    export(labelled, "webdataset", "--to", str(shards))
    assert [path.name for path in shards.iterdir()] == ["00000.tar"]
    (shards / "mine.tar").touch()
    result = invoke("export", str(labelled / "out"), "--format", "webdataset", "--to", str(shards))
    assert (result.exit_code, "mine.tar is no file of an export" in result.stderr) == (5, True)


def test_images_that_are_gone_leave_their_answers_out(labelled: Path) -> None:
    write(
        labelled / "in.parquet", [{**row, "image": None if n == 1 else row["image"]} for n, row in enumerate(rows(3))]
    )
    moved = (labelled / "in.parquet").rename(labelled / "moved.parquet")
    result = invoke("export", str(labelled / "out"), "--format", "webdataset")
    assert result.exit_code == 4, result.stderr
    words = export(labelled, "webdataset", "--input", str(moved))
    assert "6 answers were left out" in words


@pytest.mark.parametrize(
    ("typed", "code", "words"),
    [
        (["--format", "xml"], 2, "xml"),
        ([], 2, "--format"),
        (["--format", "jsonl", "--to", "{out}/answers/x.jsonl"], 2, "is in the output itself"),
        (["--format", "jsonl", "--to", "{out}/../in.parquet/x"], 5, "cannot write the export"),
    ],
)
def test_mistakes(labelled: Path, typed: list[str], code: int, words: str) -> None:
    given = [each.format(out=labelled / "out") for each in typed]
    result = invoke("export", str(labelled / "out"), *given)
    assert (result.exit_code, words in result.stderr) == (code, True), result.stderr


def test_where_no_job_has_begun(tmp_path: Path) -> None:
    assert "no job has begun there" in invoke("export", str(tmp_path), "--format", "csv").stderr


def test_a_job_writes_its_exports_when_it_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path, export=["jsonl", "csv", "webdataset", "dataset"])
    run(config, monkeypatch)
    names = (
        "answers.jsonl",
        "answers.csv",
        "webdataset/00000.tar",
        "dataset/README.md",
        "dataset/data/train-00000.parquet",
    )
    written = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in names}
    run(config, monkeypatch)
    assert written == {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in names}
    run(config_of(tmp_path, overwrite=True), monkeypatch)
    assert not any((tmp_path / "out" / name).exists() for name in names)
    assert not (tmp_path / "out" / "dataset").exists()


def test_an_export_that_fails_leaves_the_job_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out" / "answers.jsonl").mkdir(parents=True)
    config = config_of(tmp_path, export=["jsonl", "csv"])
    assert run(config, monkeypatch).rows == NUM_ROWS
    assert (tmp_path / "out" / "_SUCCESS").exists()
    assert (tmp_path / "out" / "answers.csv").exists()
    assert "the export jsonl was not written" in caplog.text
    (tmp_path / "out" / "answers.jsonl").rmdir()
    run(config, monkeypatch)
    assert (tmp_path / "out" / "answers.jsonl").is_file()


def test_a_reader_of_everything(labelled: Path) -> None:
    reader = star_batch.read_answers(labelled / "out")
    assert reader.read_all().to_pylist() == as_read(labelled)
    assert Location.of(str(labelled / "out")).at("_SUCCESS").exists()
