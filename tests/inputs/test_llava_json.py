"""LLaVA's conversations as an input."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from star_batch.errors import InputError
from star_batch.inputs.base import plan_input
from star_batch.inputs.preprocess import Preprocess
from star_batch.inputs.rows import InputPlan, read_rows
from star_batch.inputs.sources import Sources
from tests.pipeline import bare
from tests.pipeline.fakes import FakePreprocessor
from tests.pipeline.samples import input_config, job, png

COLUMNS = {"prompt_column": "prompt", "reference_column": "reference"}


def record(number: int, *turns: tuple[str, object], **more: Any) -> dict[str, Any]:
    said = [{"from": who, "value": text} for who, text in turns]
    return {"id": f"r{number}", "image": "coco/1.png", "conversations": said} | more


RECORDS = [
    record(0, ("human", "<image>\nwhat?"), ("gpt", "this")),
    record(1, ("human", "which?\n<image>"), ("gpt", "that"), ("human", "sure?"), ("gpt", "yes")),
    record(2, ("system", "be brief"), ("human", "<image> who?")),
    record(3, ("human", "<image>"), ("gpt", "nothing was asked")),
    record(4, ("human", 7), ("gpt", "a number")),
    record(5, image=None),
    record(6, ("human", "two?"), image=["coco/1.png", "coco/1.png"]),
    {"id": "r7", "image": "coco/1.png", "conversations": [{"role": "user", "content": "chat?"}]},
    {"id": "r8", "image": "coco/1.png", "conversations": {"odd": 1}},
    ["no record"],
    {"id": "r10", "conversations": [{"from": "human", "value": "text only?"}]},
]


def write(folder: Path, name: str = "llava.json", records: Any = RECORDS, indent: int | None = 2) -> Path:
    (folder / "coco").mkdir(exist_ok=True)
    (folder / "coco" / "1.png").write_bytes(png(1))
    text = json.dumps(records, indent=indent).encode()
    (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return folder / name


def plan_of(path: Path, **more: Any) -> InputPlan:
    return plan_input(input_config(path, kind="llava", **COLUMNS | more))


@pytest.mark.parametrize("name", ["llava.json", "llava.json.gz"])
def test_the_first_turn_is_asked_and_its_answer_is_the_reference(tmp_path: Path, name: str) -> None:
    config = input_config(write(tmp_path, name), kind="llava", id_column="id", **COLUMNS)
    plan = plan_input(config)
    sources = Sources.of(config, plan.root)
    stage = Preprocess(input=config, schema=plan.schema, sources=sources, load=FakePreprocessor)
    rows = [row for table in read_rows(plan, plan.pieces[0]) for row in stage(table).to_pylist()]
    assert [row["id"] for row in rows] == plan.ids().to_pylist()
    found = {row["id"]: (row["prompt"], row["reference"], row["error_type"]) for row in rows}
    assert found == {
        "r0": ("what?", "this", None),
        "r1": ("which?", "that", None),
        "r2": ("who?", None, None),
        "r3": (None, "nothing was asked", "prompt_missing"),
        "r4": (None, "a number", "prompt_missing"),
        "r5": (None, None, "prompt_missing"),
        "r6": ("two?", None, None),
        "r7": ("chat?", None, None),
        "r8": (None, None, "prompt_missing"),
        f"{name}#9": (None, None, "value_invalid"),
        "r10": (None, None, "image_missing"),
    }
    assert [len(row["pictures"] or ()) for row in rows][6] == 2
    assert rows[9]["error"] == f"{name}, record 9: is no JSON object but ['no record']"


def test_ids_are_places_in_the_array_and_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    plan = plan_of(write(tmp_path))
    assert plan.ids().to_pylist() == [f"llava.json#{number}" for number in range(11)]
    todo = plan.only(np.arange(11) == 6)
    [table] = read_rows(todo, todo.pieces[0])
    assert table.select(["star_batch:id", "prompt"]).to_pylist() == [
        {"star_batch:id": "llava.json#6", "prompt": "two?"}
    ]
    assert plan_of(write(tmp_path), limit=3).num_rows == 3


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[{"conversations": []}, {"conversations": ', "is a JSON array that is broken or cut"),
        ("[]", "1 files without a single record"),
        ("", "1 files without a single record"),
        ('{\n"images": [],\n"annotations": []\n}', "no conversations in the first records"),
        ('[{"image": "x"}]', "no conversations in the first records"),
        ("PAR1", "holds no text of conversations, but a Parquet file"),
    ],
)
def test_what_is_no_array_of_conversations_is_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=why):
        plan_of(tmp_path / "x.json")


def test_a_file_that_changes_behind_the_plan_is_no_lost_row(tmp_path: Path) -> None:
    plan = plan_of(write(tmp_path))
    write(tmp_path, records=RECORDS[:4])
    with pytest.raises(InputError, match="has changed since it was planned: no record 4"):
        list(read_rows(plan, plan.pieces[0]))


def test_a_job_goes_on_where_it_was_left(tmp_path: Path) -> None:
    log, source = str(tmp_path / "log"), write(tmp_path, indent=None)
    sections = {"kind": "llava", "id_column": "id", **COLUMNS}
    assert bare.finish(job(source, tmp_path / "out", input=sections | {"limit": 4}), log) == 0
    assert bare.finish(job(source, tmp_path / "out", input=sections), log) == 0
    ids = [*(f"r{number}" for number in range(9)), "llava.json#9", "r10"]
    assert (tmp_path / "log").read_text().split() == ids
    assert sorted(pq.read_table(tmp_path / "out" / "answers")["id"].to_pylist()) == sorted(ids)
