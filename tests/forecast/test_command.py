"""`star-batch plan` as a person types it: the real command, real files, the real engine; no Ray and nothing written."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from star_batch import cli
from star_batch.demo.dataset import write_parquet
from star_batch.errors import ConfigError, InputError
from star_batch.forecast import measure

NUM_ROWS, NUM_BAD = 60, 6


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_parquet(folder, NUM_ROWS, seed=3, num_bad=NUM_BAD)
    return folder


def plan(source: Path, *more: str) -> Any:
    job = ["--input", str(source), "--output", str(source / "out"), "--model", "demo", "--device", "cpu"]
    asked = ["--set", "input.id_column=id", "--prompt-column", "question", "--max-new-tokens", "32"]
    given = ["plan", *job, *asked, "--method", "star", "--keep", "36", *more]
    return CliRunner().invoke(cli.app, given, prog_name="star-batch", env={"COLUMNS": "80"})


def shown(result: Any) -> dict[str, str]:
    """Lines by their names; what has none belongs to the one before."""
    assert result.exit_code == 0, result.stderr
    lines: dict[str, str] = {}
    name = ""
    for line in result.stdout.splitlines():
        name = line[:17].strip() or name
        lines[name] = " ".join([*lines.get(name, "").split(), *line[17:].split()])
    return lines


def test_a_measured_plan(scenes: Path) -> None:
    before = sorted(scenes.rglob("*"))
    result = plan(scenes, "--seconds", "0.5", "--sample", str(NUM_ROWS), "--price-per-gpu-hour", "100")
    lines = shown(result)
    assert lines["rows"].startswith(f"{NUM_ROWS} in ")
    assert "id (string), image (binary), question (string)" in lines["columns"]
    assert lines["sample"].startswith(f"{NUM_ROWS} 10.0 % bad: ")
    assert re.search(r"image_unreadable: \S+: image file is truncated", lines["sample"])
    assert lines["images"] == "168 x 168 pixels"
    assert lines["visual tokens"] == "144 of which 54 in layers 0 to 2, 18 in layers 3 to 5; 36 per layer"
    assert re.match(r"[\d.]+ from \d+ to \d+$", lines["answer tokens"])
    assert "of one engine, measured here for" in lines["images/s"]
    assert re.search(r"1 machine at 100\.00 an hour$", lines["cost"])
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert sorted(scenes.rglob("*")) == before


def test_a_reckoned_plan_reads_no_weights(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(config: object) -> None:
        raise AssertionError("an engine was loaded")

    monkeypatch.setattr(measure, "load_engine", refuse)
    priced = ["--actors", "4", "--price-per-gpu-hour", "2"]
    lines = shown(plan(scenes, "--gpu", "l4", "--dtype", "bfloat16", "--answer-tokens", "6", *priced))
    assert "of one engine, reckoned: 50.0 % of the roofline of L4" in lines["images/s"]
    assert "of 4 GPUs together; keeps" in lines["images/s"]
    assert lines["answer tokens"] == "6 assumed; at most 32"
    assert "4 GPUs at 2.00 an hour" in lines["cost"]


def test_as_json_for_machines_that_read_logs(scenes: Path) -> None:
    result = plan(scenes, "--gpu", "l4", "--log-format", "json", "--sample", "8")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert '"visual tokens 144 of which' in result.stderr


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--gpu", "abacus"], "gpu 'abacus' is not known; choose one of t4, l4"),
        (["--gpus", "0"], "num_gpus=0: give 1 or more"),
        (["--efficiency", "1.5"], "efficiency=1.5: give a share"),
        (["--price-per-gpu-hour", "-1"], "price_per_gpu_hour=-1.0: give 0 or more"),
        (["--seconds", "0"], "seconds=0.0: give more than 0"),
        (["--seconds", "inf"], "seconds=inf: give more than 0, up to 86,400"),
        (["--gpus", "1000000000"], "num_gpus=1000000000: give 1 or more, up to 100,000"),
        (["--sample", "1000000000"], "sample_rows=1000000000: give 1 or more, up to 10,000"),
        (["--efficiency", "0"], "efficiency=0.0: give a share"),
        (["--efficiency", "nan"], "efficiency=nan: give a share"),
        (["--price-per-gpu-hour", "nan"], "price_per_gpu_hour=nan: give 0 or more"),
        (["--price-per-gpu-hour", "inf"], "price_per_gpu_hour=inf: give 0 or more"),
        (["--price-per-gpu-hour", "1e308"], "price_per_gpu_hour=1e+308: give 0 or more, up to 1,000,000"),
        (["--answer-tokens", "0"], "answer_tokens=0: give 1 or more"),
        (["--answer-tokens", "65"], "answer_tokens=65: the job's max_new_tokens allows 32 at most"),
        (["--answer-tokens", "9", "--max-new-tokens", "8"], "the job's max_new_tokens allows 8 at most"),
        (["--keep", "0"], "keep=0: give a number of visual tokens"),
        (["--prompt-column", "qestion"], "no column 'qestion' for prompt_column (did you mean 'question'?)"),
    ],
)
def test_mistakes_are_said_before_anything_is_loaded(scenes: Path, more: list[str], words: str) -> None:
    result = plan(scenes, *more)
    assert result.exit_code in (ConfigError.exit_code, InputError.exit_code)
    assert words in " ".join(result.stderr.split())


def test_a_gpu_that_is_not_here_has_to_be_named(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = plan(scenes, "--device", "cuda")
    assert result.exit_code == ConfigError.exit_code
    assert "name the one to reckon with (--gpu)" in result.stderr


def test_rows_that_are_all_bad_make_no_plan(tmp_path: Path) -> None:
    rows = [{"id": f"row-{n}", "image": b"no image", "question": "what?"} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    result = plan(tmp_path, "--seconds", "0.1")
    assert result.exit_code == InputError.exit_code
    assert "none of 3 sampled rows can be answered: row-0: not an image" in " ".join(result.stderr.split())


def test_prompts_that_the_engine_refuses_are_counted_as_bad(tmp_path: Path, scenes: Path) -> None:
    table = pq.read_table(scenes).slice(0, 16)
    questions = ["<image> what <image>?", *table["question"].to_pylist()[1:]]
    column = table.schema.get_field_index("question")
    pq.write_table(table.set_column(column, "question", pa.array(questions)), tmp_path / "rows.parquet")
    for more in (["--seconds", "0.3"], ["--gpu", "l4"]):
        assert "prompt_invalid 1" in shown(plan(tmp_path, "--sample", "16", *more))["sample"]


def test_what_a_sample_brings_is_shown_escaped_and_short(tmp_path: Path, scenes: Path) -> None:
    hostile = "\x1b]0;title\x07\nstar-batch: complete"
    table = pq.read_table(scenes, columns=["id", "image", "question"]).slice(0, 8)
    ids = pa.array([hostile, hostile + "x" * 1_000_000, *map(str, range(6))])
    images = pa.array([None, b"\x9b2J", *table["image"].to_pylist()[2:]], pa.binary())
    columns = {"id": ids, "image": images, "question": table["question"], hostile: ids}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    result = plan(tmp_path, "--gpu", "l4", "--set", "input.id_column=id")
    assert result.exit_code == 0
    assert all(line.isprintable() for line in result.output.split("\n"))
    assert "\nstar-batch: complete" not in result.output
    assert len(result.output) < 10_000
    assert "\\x1b]0;title" in result.stdout
