"""Whole jobs on a local Ray, with an engine that needs no model."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_batch.commit.audit import status
from star_batch.commit.parts import hash_ids
from star_batch.commit.snapshots import read_snapshot
from star_batch.config import JobConfig
from star_batch.errors import ClusterError, InputError, ModelError, OutputError
from star_batch.inputs.comparison import compare, recorded_input
from star_batch.metrics import Progress
from star_batch.pipeline.backend import RecordEngine
from star_batch.pipeline.job import run
from star_batch.records import ANSWER_SCHEMA
from star_batch.report.samples import Sampler, read_samples
from star_batch.storage.location import Location
from tests.pipeline.fakes import DIE, EXPLODE, FAKE
from tests.pipeline.samples import job, png, rows, without_remarks, write

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.binary()),
        ("question", pa.string()),
        ("truth", pa.string()),
        ("note", pa.int64()),
    ]
)
BAD: list[tuple[dict[str, Any], str]] = [
    ({"image": None}, "image_missing"),
    ({"image": b""}, "image_missing"),
    ({"image": png(1)[:50]}, "image_unreadable"),
    ({"image": b"no image"}, "image_unreadable"),
    ({"image": b"%PDF-1.4"}, "image_format_refused"),
    ({"question": None}, "prompt_missing"),
    ({"question": " "}, "prompt_missing"),
    ({"question": "long " * 300}, "prompt_too_long"),
    ({"id": None}, "value_invalid"),
]


def answers(output: Path) -> pa.Table:
    return pq.read_table(output / "answers").sort_by("id")


def planted(count: int) -> list[dict[str, Any]]:
    """Rows with two bad ones of every kind among them."""
    records = [
        {**row, "truth": f"Question {n} {n % 256} ", "note": n if n % 3 else None} for n, row in enumerate(rows(count))
    ]
    for place, (change, _) in enumerate(BAD * 2):
        records[place * 11] |= change
    return records


@pytest.mark.ray
@pytest.mark.usefixtures("fake_ray")
def test_every_row_comes_out_once_as_an_answer_or_with_a_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    records = planted(200)
    for number in range(2):
        write(tmp_path / "in" / f"{number}.parquet", records[number * 100 : number * 100 + 100], SCHEMA)
    seen: list[Progress] = []
    config = job(
        tmp_path / "in",
        tmp_path / "out",
        input={"id_column": "id", "reference_column": "truth", "keep_columns": ["note", "question", "id"]},
    )
    summary = run(config, backend=FAKE, on_progress=seen.append)
    table = answers(tmp_path / "out")
    assert (summary.rows, summary.answered, summary.failed) == (200, 182, 18)
    assert summary.failed_by_type == {
        "image_missing": 4,
        "image_unreadable": 4,
        "image_format_refused": 2,
        "prompt_missing": 4,
        "prompt_too_long": 2,
        "value_invalid": 2,
    }
    assert summary.accuracy == pytest.approx(182 / 200)
    by_id = {row["id"]: row for row in table.to_pylist()}
    assert len(by_id) == 200
    for number, record in enumerate(records):
        row = by_id[record["id"] or f"{number // 100}.parquet#{number % 100}"]
        assert (row["note"], row["question"], row["reference"]) == (record["note"], record["question"], record["truth"])
        assert row["input_id"] == record["id"]
        expected = next((kind for change, kind in BAD if change.items() <= record.items()), None)
        assert row["error_type"] == expected
        assert (row["error"] is None) == (expected is None)
        assert row["answer"] == (f"question {number} {number % 256}" if expected is None else None)
    assert {progress.rows_total for progress in seen} == {200}
    assert (seen[-1].rows_done, seen[-1].failed) == (200, 18)
    assert said(capfd) == ""


@pytest.mark.ray
@pytest.mark.usefixtures("fake_ray")
def test_what_lies_in_a_finished_output(tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", [*rows(40), {"id": "bad", "image": None, "question": "q"}])
    summary = run(job(tmp_path / "in.parquet", tmp_path / "out", input={"keep_columns": ["image"]}), backend=FAKE)
    output = tmp_path / "out"
    assert sorted(p.name for p in output.iterdir()) == [
        "_SUCCESS",
        "_commits",
        "_epochs",
        "_lease.json",
        "_lease.lock",
        "_metrics",
        "_run.json",
        "_runs",
        "answers",
        "report.html",
    ]
    parts = sorted((output / "answers").iterdir())
    assert len(parts) == len(list((output / "_commits").iterdir())) >= 2
    schema = pa.schema([*ANSWER_SCHEMA, pa.field("image", pa.large_binary())])
    assert all(pq.read_schema(part).equals(schema) for part in parts)
    sizes = [pq.read_metadata(part).num_rows for part in parts]
    assert sum(sizes) == 41
    assert max(sizes) < 16 + 4
    record = json.loads((output / "_run.json").read_text())
    assert record["cluster"]["CPU"] == 4.0
    assert set(pq.read_table(output / "answers")["fingerprint"].to_pylist()) == {record["fingerprint"]["digest"]}
    assert json.loads((output / "_metrics" / "summary.json").read_text())["rows"] == summary.rows == 41
    throughput = pq.read_table(output / "_metrics" / "throughput.parquet")
    assert sum(throughput["rows_answered"].to_pylist()) == 40
    assert sum(throughput["rows_failed"].to_pylist()) == 1
    samples = read_samples(Location.of(str(output)), record["fingerprint"]["digest"])
    assert {sample.id for sample in samples} == {f"in.parquet#{n}" for n in range(40)}
    assert samples[0].kept == (tuple(range(16)), tuple(range(8)))
    assert "64 → 16 → 8 tokens" in (output / "report.html").read_text()


@pytest.mark.ray
@pytest.mark.usefixtures("fake_ray")
def test_one_engine_gets_rows_of_several_windows_at_once(tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", rows(128))
    config = job(tmp_path / "in.parquet", tmp_path / "out", cluster={"windows": 4, "rows_per_window": 4})
    assert (run(config, backend=FAKE).mean_prefill_rows or 0.0) > 6.0


@pytest.mark.ray
@pytest.mark.usefixtures("fake_ray")
def test_ids_and_answers_do_not_depend_on_how_the_work_is_cut(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "in" / f"{number}.parquet", rows(20, first=20 * number), row_group_size=7)
    tables = []
    for rows_per_file, windows in [(7, 1), (100, 3)]:
        output = tmp_path / f"out-{rows_per_file}"
        cut = {"windows": windows, "rows_per_window": 3}
        run(job(tmp_path / "in", output, output={"rows_per_file": rows_per_file}, cluster=cut), backend=FAKE)
        tables.append(answers(output).select(["id", "answer"]))
    assert tables[0].equals(tables[1])
    assert tables[0]["id"].to_pylist() == sorted(f"{f}.parquet#{n}" for f in range(3) for n in range(20))


@pytest.mark.ray
@pytest.mark.usefixtures("fake_ray")
def test_a_second_run_goes_on_where_the_first_one_failed(tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    trouble.touch()
    records = rows(100)
    records[99]["question"] = f"{EXPLODE}{trouble}"
    write(tmp_path / "in.parquet", records)
    # Each window is committed before the next but one: which files are full by then would be chance.
    at_once = {"seconds_per_file": 0.001}
    config = job(tmp_path / "in.parquet", tmp_path / "out", cluster={"windows": 1}, output=at_once)
    before = actors()
    with pytest.raises(ClusterError, match=r"^RuntimeError: device-side assert triggered$"):
        run(config, backend=FAKE)
    until_nothing_works(but=before)
    commits = {path.name: path.read_bytes() for path in (tmp_path / "out" / "_commits").iterdir()}
    done = sum(json.loads(commit)["rows"] for commit in commits.values())
    assert 0 < done < 100
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    trouble.unlink()
    summary = run(config, backend=FAKE)
    assert (summary.rows, summary.answered) == (100, 100)
    assert commits.items() <= {p.name: p.read_bytes() for p in (tmp_path / "out" / "_commits").iterdir()}.items()
    throughput = pq.read_table(tmp_path / "out" / "_metrics" / "throughput.parquet")
    assert sum(row["rows_answered"] for row in throughput.to_pylist() if row["run"] > 1) == 100 - done
    assert sum(throughput["prefill_rows"].to_pylist()) == summary.mean_prefill_rows * sum(
        throughput["prefill_batches"].to_pylist()
    )
    of_both_runs = Location.of(str(tmp_path / "out"))
    sampler = Sampler.of(of_both_runs, "", num_samples=config.output.samples, num_rows=100)
    samples = read_samples(of_both_runs, read_snapshot(of_both_runs).fingerprint.digest)  # type: ignore[union-attr]
    assert {sample.id for sample in samples} == {
        f"in.parquet#{n}" for n in range(100) if sampler.picks(f"in.parquet#{n}")
    }


@pytest.mark.ray
@pytest.mark.usefixtures("fake_ray")
def test_samples_that_cannot_be_kept_or_are_not_wanted_cost_nothing(tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", rows(10))
    for name, wanted in (("blocked", 48), ("unwanted", 0)):
        config = job(tmp_path / "in.parquet", tmp_path / name, output={"samples": wanted})
        if name == "blocked":
            # A folder in the place of the file that the sampler wants to write.
            (tmp_path / name / "_metrics" / f"sample-{hash_ids([f'in.parquet#{n}' for n in range(4)])}.parquet").mkdir(
                parents=True
            )
        assert run(config, backend=FAKE).answered == 10
        report = (tmp_path / name / "report.html").read_text()
        assert ("What the model looked at" in report) == (name == "blocked")


@pytest.mark.ray
@pytest.mark.usefixtures("fake_ray")
def test_an_actor_that_is_killed_costs_no_row_and_doubles_none(tmp_path: Path) -> None:
    records = rows(100)
    records[40]["question"] = f"{DIE}{tmp_path / 'tombstone'}"
    write(tmp_path / "in.parquet", records)
    summary = run(job(tmp_path / "in.parquet", tmp_path / "out"), backend=FAKE)
    assert (tmp_path / "tombstone").exists()
    assert (summary.rows, summary.answered) == (100, 100)
    assert len(set(answers(tmp_path / "out")["id"].to_pylist())) == 100


@pytest.mark.ray
@pytest.mark.usefixtures("fake_ray")
def test_a_complete_output_is_left_as_it_is_until_there_are_new_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in" / "0.parquet", rows(10))
    config = job(tmp_path / "in", tmp_path / "out")
    summary = run(config, backend=FAKE)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert run(config, backend=FAKE) == summary
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    write(tmp_path / "in" / "1.parquet", rows(5, first=10))
    assert run(config, backend=FAKE).rows == 15
    with pytest.raises(OutputError, match=r"decoding\.max_new_tokens: 64 there, 3 here"):
        run(job(tmp_path / "in", tmp_path / "out", decoding={"max_new_tokens": 3}), backend=FAKE)
    other = job(tmp_path / "in", tmp_path / "out", decoding={"max_new_tokens": 3}, output={"overwrite": True})
    assert run(other, backend=FAKE).rows == 15


@pytest.mark.ray
@pytest.mark.usefixtures("fake_ray")
def test_a_failed_job_leaves_nothing_running_on_a_ray_that_stays(tmp_path: Path) -> None:
    """A notebook keeps the error, and with it all that its frames refer to."""
    records = rows(10)
    records[9]["question"] = f"{EXPLODE}{tmp_path / 'trouble'}"
    (tmp_path / "trouble").touch()
    write(tmp_path / "in.parquet", records)
    kept, before = [], actors()
    for model in ("broken", "fake"):
        with pytest.raises((ModelError, ClusterError)) as caught:
            run(job(tmp_path / "in.parquet", tmp_path / model, model={"name": model}), backend=FAKE)
        kept.append(caught)
    until_nothing_works(but=before)
    assert len(kept) == 2


def until_nothing_works(but: Collection[str] = ()) -> None:
    """A task that was told to stop may still commit its window."""
    import ray

    ends = time.monotonic() + 60
    while actors() - set(but) or ray.available_resources()["CPU"] < ray.cluster_resources()["CPU"]:
        assert time.monotonic() < ends, actors()
        time.sleep(0.1)


def actors() -> set[str]:
    """Those of jobs that are alive, without what Ray Data has for itself."""
    import ray

    alive = (actor for actor in ray._private.state.actors().values() if actor["State"] != "DEAD")
    return {
        f"{actor['ActorClassName']} {actor['ActorID']}"
        for actor in alive
        if any(name in actor["ActorClassName"] for name in ("EngineActor", "Monitor", "Coordinator"))
        and not actor["Name"]  # Ray Data's own have names
    }


@pytest.mark.ray
@pytest.mark.usefixtures("fake_ray")
def test_a_model_that_cannot_be_loaded_is_the_error_that_arrives(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in.parquet", rows(3))
    with pytest.raises(ModelError, match=r"^broken: no weights in it$"):
        run(job(tmp_path / "in.parquet", tmp_path / "out", model={"name": "broken"}), backend=FAKE)
    assert said(capfd) == ""


def load_nothing(config: JobConfig) -> RecordEngine:
    raise RuntimeError("out of memory\nsecond line")


@pytest.mark.ray
@pytest.mark.usefixtures("fake_ray")
def test_a_loader_that_fails_in_its_own_way_is_told_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in.parquet", rows(3))
    with pytest.raises(ClusterError, match=r"^the engine cannot be loaded: RuntimeError: out of memory"):
        run(
            job(tmp_path / "in.parquet", tmp_path / "out"),
            backend=dataclasses.replace(FAKE, engine=lambda config: load_nothing(config)),
        )
    assert said(capfd) == ""


@pytest.mark.ray
@pytest.mark.usefixtures("fake_ray")
def test_gpus_that_do_not_come_are_not_waited_for_for_ever(tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", rows(3))
    asked: dict[str, dict[str, Any]] = {
        "model": {"name": "fake", "device": "cuda"},
        "cluster": {"gpu_wait_seconds": 0.0},
    }
    with pytest.raises(ClusterError, match=r"no 1 GPUs to a first actor within 0 s \(cluster\.gpu_wait_seconds\)"):
        run(job(tmp_path / "in.parquet", tmp_path / "out", **asked), backend=FAKE)


@pytest.mark.ray
@pytest.mark.usefixtures("fake_ray")
def test_a_row_group_that_turns_out_broken_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "in.parquet", rows(300))
    data = bytearray(path.read_bytes())
    data[200:4000] = b"\xff" * 3800
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"in\.parquet: (cannot read|is not a readable Parquet file): "):
        run(job(path, tmp_path / "out"), backend=FAKE)


@pytest.mark.ray
@pytest.mark.usefixtures("fake_ray")
def test_answers_stay_when_their_images_are_gone(tmp_path: Path) -> None:
    photos, target = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for number in range(4):
        (photos / f"{number}.png").write_bytes(png(number) if number else b"broken")
    source: dict[str, Any] = {"path": str(photos), "kind": "images", "prompt": "what?", "vanished": "keep"}
    config = job(photos, target, input=source)
    run(config, backend=FAKE)
    for name in ("0.png", "1.png"):
        (photos / name).unlink()
    for name in ("5.png", "6.png"):
        (photos / name).write_bytes(png(5) if name == "5.png" else b"broken")
    with pytest.raises(OutputError, match=r"2 rows that are not in the input: .* vanished: keep"):
        run(job(photos, target, input=source | {"vanished": "refuse"}), backend=FAKE)
    summary = run(config, backend=FAKE)
    assert (summary.rows, summary.failed) == (6, 2)
    place = Location.of(str(target))
    assert (status(place).left, status(place).state) == (0, "complete")
    (photos / "6.png").write_bytes(png(6))
    (photos / "5.png").unlink()
    again = run(job(photos, target, input=source, output={"retry_failed": True}), backend=FAKE)
    assert (again.rows, again.failed) == (6, 1)
    found = {row["id"]: row["answer"] for row in answers(target).to_pylist()}
    assert found == {f"{n}.png": f"what? {n}" if n else None for n in (0, 1, 2, 3, 5, 6)}
    assert compare(place, recorded_input(place, {})).findings == ()
    strict = recorded_input(place, {}).model_copy(update={"vanished": "refuse"})
    assert compare(place, strict).findings == ("3 rows are not in the input",)


class NoRay:
    """Stands in for `connected` where Ray must not be needed."""

    def __call__(self, *args: object, **kwargs: object) -> None:
        raise AssertionError("Ray was started")


@pytest.mark.parametrize(
    ("input", "output", "error", "words"),
    [
        ({"path": "nowhere"}, {}, InputError, "nowhere: cannot read the input: not found"),
        ({"image_column": "img"}, {}, InputError, "no column 'img'"),
        ({"id_column": "question"}, {}, InputError, "stand in several rows"),
        ({}, {"path": "in.parquet/out"}, OutputError, "Not a directory"),
    ],
)
def test_what_cannot_work_stops_before_ray(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    input: dict[str, Any],
    output: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules["star_batch.pipeline.job"], "connected", NoRay())
    write(tmp_path / "in.parquet", [{**row, "question": "same"} for row in rows(3)])
    with pytest.raises(error, match=words) as caught:
        run(job("in.parquet", "out", input=input, output=output), backend=FAKE)
    assert "\n" not in str(caught.value)


def said(capfd: pytest.CaptureFixture[str]) -> str:
    return without_remarks("".join(capfd.readouterr()))


def test_a_local_ray_takes_this_python_as_it_is() -> None:
    """Under `uv run`, every Ray once got a copy of the folder and an environment of its own: 7 GB and minutes of it."""
    code = "import star_batch.pipeline, ray._private.ray_constants as ray; assert not ray.RAY_ENABLE_UV_RUN_RUNTIME_ENV"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ENABLE_UV_RUN_RUNTIME_ENV"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
