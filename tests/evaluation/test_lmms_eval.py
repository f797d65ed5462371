"""The real lmms-eval, offline, on a task of its own: it prints what the engine gives by itself on the same rows.

`uv run --extra eval --with pytest --with pytest-timeout --with hypothesis pytest -m faults tests/evaluation` runs it.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import ImageFile

from star_batch.demo.dataset import write_parquet
from star_batch.demo.rows import make_rows
from star_batch.engine import Engine
from star_batch.errors import ConfigError
from star_batch.options import Decoding
from star_batch.pruning import Pruning
from star_batch.records import Record, matches

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(900),
    pytest.mark.skipif(find_spec("lmms_eval") is None, reason="lmms-eval is not installed (the extra `eval`)"),
]

NUM_ROWS, SEED, NUM_BAD = 128, 11, 4
NUM_FAILING = 3  # lmms-eval tells Pillow to make do with images that are cut off
TASK = {
    "task": "scenes",
    "dataset_path": "parquet",
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "answer",
    "generation_kwargs": {"max_new_tokens": 32, "temperature": 0, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True}],
}
UTILS = """
import io
from PIL import Image


def images(row):
    return [] if row["image"] is None else [Image.open(io.BytesIO(row["image"]))]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the task `scenes`: held-out scenes of the demo, some of them broken."""
    folder = tmp_path_factory.mktemp("tasks")
    files = write_parquet(folder / "rows", NUM_ROWS, SEED, NUM_BAD)
    task = TASK | {"dataset_kwargs": {"data_files": {"test": [str(file) for file in files]}}}
    (folder / "utils.py").write_text(UTILS)
    function = "doc_to_visual: !function utils.images\n"  # a tag that only lmms-eval knows
    (folder / "scenes.yaml").write_text(yaml.safe_dump(task) + function)
    return folder


def lmms_eval(tasks: Path, model_args: str, home: Path) -> str:
    """What the command prints."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(home), "COLUMNS": "200"}
    options = ["--model", "star_batch", "--model_args", model_args, "--tasks", "scenes", "--include_path", str(tasks)]
    done = subprocess.run(
        [sys.executable, "-m", "lmms_eval", *options],
        cwd=home,
        env=os.environ | offline,
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
    )
    return done.stdout + done.stderr


def engines_own(pruning: Pruning) -> float:
    """The share of right answers, a row that fails being wrong; cut images count as lmms-eval's Pillow reads them."""
    rows = list(make_rows(NUM_ROWS, SEED, NUM_BAD))
    records = [Record(id=row["id"], image=row["image"], prompt=row["question"]) for row in rows]
    engine = Engine.from_pretrained("demo", pruning=pruning, device="cpu", dtype="float32")
    with engine, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        answers = engine.answer(records, decoding=Decoding(max_new_tokens=32, stop=("\n\n",)))
    assert sum(answer.error is not None for answer in answers) == NUM_FAILING
    return sum(matches(answer.text, row["answer"]) for answer, row in zip(answers, rows, strict=True)) / NUM_ROWS


def printed(output: str) -> float:
    found = re.search(r"\|scenes *\|.*\|exact_match *\|[^|]*\| *([\d.]+) *\|", output)
    assert found is not None, output[-5000:]
    return float(found[1])


@pytest.fixture(scope="module")
def unpruned() -> float:
    return engines_own(Pruning())


def test_it_prints_what_the_engine_gives(tasks: Path, tmp_path: Path, unpruned: float) -> None:
    output = lmms_eval(tasks, "model=demo,device=cpu,dtype=float32", tmp_path)
    assert printed(output) == pytest.approx(unpruned, abs=0.00005)
    kinds = ("no-bytes", "not-an-image", "no-question")
    failing = [number for number, row in enumerate(make_rows(NUM_ROWS, SEED, NUM_BAD)) if row["id"].startswith(kinds)]
    assert len(failing) == NUM_FAILING
    for number in failing:
        assert re.search(rf"scenes/test/{number}: (image|prompt)_\w+: ", output), number
    assert f"{NUM_FAILING} of {NUM_ROWS} rows failed and are scored as empty answers" in output


def test_pruning_changes_the_number_as_it_does_in_the_engine(tasks: Path, tmp_path: Path, unpruned: float) -> None:
    pruned = engines_own(Pruning(method="star", keep=18))
    assert pruned != unpruned
    output = lmms_eval(tasks, "model=demo,method=star,keep=18,device=cpu,dtype=float32", tmp_path)
    assert printed(output) == pytest.approx(pruned, abs=0.00005)


def test_the_command_says_which_argument_is_wrong(tasks: Path, tmp_path: Path) -> None:
    output = lmms_eval(tasks, "model=demo,method=star", tmp_path)
    assert "method='star' needs keep: a number of tokens or a share" in output
    assert "exact_match" not in output


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    from star_batch.evaluation.model import StarBatch

    model = StarBatch(model="demo", device="cpu", dtype="float32", batch_size=1)
    yield model
    model.clean()


def test_what_it_cannot_do_is_refused_in_plain_words(model: Any) -> None:
    with pytest.raises(NotImplementedError, match="does not compute the likelihood"):
        model.loglikelihood([])
    with pytest.raises(NotImplementedError, match="holds no conversation"):
        model.generate_until_multi_round([])


def test_a_task_of_videos_is_refused_by_name(model: Any) -> None:
    from lmms_eval.api.instance import Instance

    def to_messages(_: object) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "video", "url": "a.mp4"}, {"type": "text", "text": "what?"}]}]

    model.task_dict["films"] = {"test": [{}]}
    about = {"task": "films", "doc_id": 0, "repeats": 1}
    instance = Instance("generate_until", ("", to_messages, {}, 0, "films", "test"), 0, about)
    with pytest.raises(ConfigError, match="films: content of type 'video' is not supported"):
        model.generate_until([instance])


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from star_batch.evaluation.model import StarBatch

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="several processes are not supported"):
        StarBatch(model="demo")
