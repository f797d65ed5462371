"""The scripts that people start, on real files, with the small model: each joins the Ray of `RAY_ADDRESS`."""

import base64
import json
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from star_batch import cli
from star_batch.cli.demo import DEMO_KEEP
from star_batch.config import load_config
from star_batch.demo.dataset import write_parquet
from tests.inputs.test_fetch import Server, server  # noqa: F401
from tests.readers import READERS

ROOT = Path(__file__).parents[2]
DEMO = ["--model", "demo", "--method", "star", "--keep", str(DEMO_KEEP), "--quiet"]


def start(job: str, *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / job), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, cwd=ROOT)


def run(job: str, config: Path, *options: object) -> None:
    done = start(job, "--config", config, *DEMO, *options)
    assert done.returncode == 0, done.stderr


def rows(output: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(output / "answers").sort_by("id").to_pylist()
    return found


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions about scenes with their answers, as Parquet, and the scenes as image files."""
    folder = tmp_path_factory.mktemp("scenes")
    write_parquet(folder / "rows", 24, seed=7, num_bad=0)
    (folder / "photos").mkdir()
    for row in pq.read_table(folder / "rows").to_pylist():
        (folder / "photos" / f"{row['id']}.png").write_bytes(row["image"])
    return folder


@pytest.fixture
def joined_ray(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts join the tests' Ray, as they do inside `ray job submit`, where the address comes the same way."""
    import ray

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)


def config(folder: Path, text: str) -> Path:
    (folder / "job.yaml").write_text(text)
    return folder / "job.yaml"


CAPTION = """
input:
  path: {place}/photos
  kind: images
  prompt: what shapes are there?
  vanished: keep
output: {place}/captions
model: demo
"""


@pytest.mark.ray
@pytest.mark.usefixtures("joined_ray")
def test_captions_of_new_images_only(tmp_path: Path, scenes: Path) -> None:
    photos = sorted((scenes / "photos").iterdir())
    (tmp_path / "photos" / "some").mkdir(parents=True)
    for photo in photos[:4]:
        shutil.copy(photo, tmp_path / "photos")
    job = config(tmp_path, CAPTION.format(place=tmp_path))
    run("caption.py", job)
    first = rows(tmp_path / "captions")
    assert [row["id"] for row in first] == [photo.name for photo in photos[:4]]
    assert all(row["answer"] for row in first)

    (tmp_path / "photos" / photos[0].name).unlink()
    shutil.copy(photos[4], tmp_path / "photos" / "some")
    (tmp_path / "photos" / "some" / "broken.png").write_bytes(b"no image")
    run("caption.py", job)
    second = rows(tmp_path / "captions")
    assert second[:4] == first
    assert [row["id"] for row in second[4:]] == ["some/" + name for name in sorted([photos[4].name, "broken.png"])]
    assert [row["error_type"] for row in second if row["error"]] == ["image_unreadable"]
    # Five are there, one of them broken, and one that is gone.
    assert CliRunner().invoke(cli.app, ["verify", str(tmp_path / "captions")]).exit_code == 0


LABEL = """
input:
  path: {scenes}/rows
  id_column: id
  questions:
    colour:
      prompt: what colour is it?
      choices: [red, green, blue, yellow]
    own:
      prompt: "{{question}}"
      choices: ["yes", "no", red, green, blue, "two", "three"]
      reference_column: answer
output: {place}/labels
model: demo
"""


@pytest.mark.ray
@pytest.mark.usefixtures("joined_ray")
def test_labels_are_choices_with_a_probability_each(tmp_path: Path, scenes: Path) -> None:
    run("label.py", config(tmp_path, LABEL.format(scenes=scenes, place=tmp_path)))
    answers = tmp_path / "labels" / "answers"
    found = rows(tmp_path / "labels")
    assert len(found) == 48
    for row in found:
        assert row["id"].endswith(f"#{row['question_name']}")
        shares = {pair["label"]: pair["probability"] for pair in row["label_probabilities"]}
        assert row["label"] == row["answer"] == max(shares, key=lambda label: shares[label])
        assert sum(shares.values()) == pytest.approx(1.0)
        first, second, *_ = sorted(shares.values(), reverse=True)
        assert row["label_probability"] == pytest.approx(first)
        assert row["label_margin"] == pytest.approx(first - second)
        assert (row["reference"] is not None) == (row["question_name"] == "own")
    summary = json.loads((tmp_path / "labels" / "_metrics" / "summary.json").read_text())
    agreed = [row["label"] == row["reference"] for row in found if row["question_name"] == "own"]
    assert summary["agreement"] == {"own": pytest.approx(sum(agreed) / len(agreed))}
    counted = sum(sum(row.values()) for row in summary["confusion"]["own"].values())
    assert counted == summary["num_references"] == 24
    for name, read in READERS.items():
        there = {row["id"]: [dict(pair) for pair in row["label_probabilities"]] for row in read(answers, tmp_path)}
        assert there == {row["id"]: row["label_probabilities"] for row in found}, name


def requests(images: Sequence[str]) -> str:
    content = [
        [{"type": "text", "text": "what colour is it?"}, {"type": "image_url", "image_url": {"url": url}}]
        for url in images
    ]
    lines = [
        {
            "custom_id": f"request-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "gpt-4o-mini", "max_tokens": 5, "messages": [{"role": "user", "content": parts}]},
        }
        for number, parts in enumerate(content)
    ]
    return "\n".join([*map(json.dumps, lines), "not JSON"])


ANSWER = """
input:
  path: {place}/requests.jsonl
  kind: openai
  fetch: {{hosts: ["{host}"], schemes: [http], allow_private: true}}
output: {place}/out
model: demo
"""


@pytest.mark.ray
@pytest.mark.usefixtures("joined_ray")
def test_openai_requests_in_and_results_out(tmp_path: Path, scenes: Path, server: Server) -> None:  # noqa: F811
    photo = next(iter(sorted((scenes / "photos").iterdir())))
    inline = f"data:image/png;base64,{base64.b64encode(photo.read_bytes()).decode()}"
    urls = [
        inline,
        f"http://{server.host}/image",
        "http://127.0.0.1:9/a.png",
        f"file://{photo}",
        f"http://{server.host}/none",
    ]
    (tmp_path / "requests.jsonl").write_text(requests(urls))
    job = config(tmp_path, ANSWER.format(place=tmp_path, host=server.host))
    run("answer.py", job)
    answered, failed = results(tmp_path / "out")
    assert sorted(answered) == ["request-0", "request-1"]
    assert {name: line["response"]["body"]["error"]["code"] for name, line in failed.items()} == {
        "request-2": "image_fetch_refused",
        "request-3": "image_fetch_refused",
        "request-4": "image_fetch_failed",
        None: "request_refused",
    }
    body = answered["request-0"]["response"]["body"]
    assert body["choices"][0]["message"]["content"]
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
    assert body["usage"]["prompt_tokens"] > 5 >= body["usage"]["completion_tokens"] > 0

    asked = len(server.asked)
    run("answer.py", job)
    assert results(tmp_path / "out") == (answered, failed)
    assert len(server.asked) == asked


def results(output: Path) -> tuple[dict[Any, Any], dict[Any, Any]]:
    read = [(output / name).read_text().splitlines() for name in ("output.jsonl", "errors.jsonl")]
    good, bad = ({line["custom_id"]: line for line in map(json.loads, lines)} for lines in read)
    return good, bad


@pytest.mark.parametrize(
    ("job", "text", "said"),
    [
        (
            "label.py",
            "input: {path: x, prompt: q}\noutput: o\nmodel: demo\n",
            "input.choices or a choices_column: is missing",
        ),
        (
            "label.py",
            "input: {path: x, questions: {kind: q}}\noutput: o\nmodel: demo\n",
            "input.questions.kind.choices: is missing",
        ),
        (
            "answer.py",
            "input: {path: x, prompt: q, choices: [a]}\noutput: o\nmodel: demo\n",
            "jobs/label.py takes choices",
        ),
        ("caption.py", "input: {path: x, kind: openai}\noutput: o\nmodel: demo\n", "jobs/answer.py OpenAI's requests"),
        ("caption.py", "input: {path: x, kind: images}\noutput: o\nmodel: demo\n", "give either a prompt"),
        ("caption.py", "input: {path: x, prompt: q}\n", "output: is missing"),
    ],
)
def test_a_wrong_job_stops_before_anything_is_started(tmp_path: Path, job: str, text: str, said: str) -> None:
    done = start(job, "--config", config(tmp_path, text))
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("name", ["caption", "label", "answer"])
def test_the_file_beside_each_job_is_a_job(name: str) -> None:
    load_config(ROOT / "jobs" / f"{name}.yaml", {})


def test_what_travels_with_a_job_is_what_the_package_needs() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    sent = yaml.safe_load((ROOT / "jobs" / "runtime_env.yaml").read_text())["uv"]
    assert sent == [requirement for requirement in needed if not requirement.startswith("ray[")]


def test_an_output_for_each_day() -> None:
    caption = runpy.run_path(str(ROOT / "jobs" / "caption.py"))["caption"]
    flags = {"input.path": "s3://b/{yesterday}/", "output.path": "s3://b/out/{date}/"}
    found = caption(load_config(ROOT / "jobs" / "caption.yaml", flags))
    assert found.input.paths[0] < found.output.path.replace("/out/", "/")
    assert found.output.path.startswith("s3://b/out/2")
    assert "{" not in str(found.input.paths) + found.output.path
