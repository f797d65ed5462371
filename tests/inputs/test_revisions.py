"""Data sets of the Hugging Face Hub by name, from a server on this machine that speaks as the Hub does."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfFileSystem

from star_batch.config import Input
from star_batch.errors import InputError
from star_batch.inputs.base import plan_input
from star_batch.inputs.pieces import ID_COLUMN
from star_batch.inputs.revisions import pinned
from star_batch.inputs.rows import InputPlan, read_rows
from star_batch.inputs.sources import Sources
from tests.hub import COMMIT, NEXT, Hub, serving
from tests.pipeline.samples import png

TOKEN = "hf_" + "Q" * 34


def parquet(word: str) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.table({"image": ["images/0.png", "0.png"], "question": [word, word]}), target)
    return target.getvalue()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    files = {
        commit: {"README.md": b"", "data/train/a.parquet": parquet(word), "data/train/images/0.png": png(0)}
        for commit, word in ((COMMIT, "now"), (NEXT, "later"))
    }
    with serving(files) as hub:
        yield hub
    HfFileSystem.clear_instance_cache()


def config(hub: Hub, path: str | list[str] = "hf://datasets/owner/name/data", **more: Any) -> Input:
    options = {"endpoint": hub.url}
    values = {"path": path, "prompt_column": "question", "retry_seconds": 0.0, "storage_options": options}
    return Input.model_validate(values | more)


def words(plan: InputPlan) -> dict[str, str]:
    tables = [table for piece in plan.pieces for table in read_rows(plan, piece)]
    pairs = [zip(t[ID_COLUMN].to_pylist(), t["question"].to_pylist(), strict=True) for t in tables]
    return {id: word for each in pairs for id, word in each}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("hf://datasets/owner/name", "data/train/a.parquet"),
        ("hf://datasets/owner/name/data/train/a.parquet", "a.parquet"),
        ("hf://datasets/owner/name/data/*/*.parquet", "train/a.parquet"),
        ("hf://datasets/owner/name@main/data", "train/a.parquet"),
        (f"hf://datasets/owner/name@{NEXT}/data", "train/a.parquet"),
    ],
)
def test_parquet_is_read_by_name_and_ids_know_no_commit(path: str, name: str, hub: Hub) -> None:
    word = "later" if NEXT in path else "now"
    expected = {f"{name}#{row}": word for row in range(2)}
    assert words(plan_input(config(hub, path))) == expected
    fixed = pinned(config(hub, path))
    assert f"owner/name@{NEXT if NEXT in path else COMMIT}" in str(fixed.path)
    assert words(plan_input(fixed)) == expected


def test_a_job_reads_one_commit_whatever_comes_later(hub: Hub) -> None:
    fixed = pinned(config(hub, ["hf://datasets/owner/name/data/train", "hf://datasets/owner/name/data"]))
    assert fixed.path == tuple(f"hf://datasets/owner/name@{COMMIT}/data{end}" for end in ("/train", ""))
    hub.main = NEXT
    HfFileSystem.clear_instance_cache()
    assert set(words(plan_input(fixed)).values()) == {"now"}
    assert set(words(plan_input(config(hub))).values()) == {"later"}


def test_rows_may_name_images_beside_them(hub: Hub) -> None:
    fixed = pinned(config(hub))
    plan = plan_input(fixed)
    folder = plan.pieces[0].folder(plan.root)
    found = Sources.of(fixed, plan.root).read_all(["images/0.png", "gone.png"], [folder] * 2)
    assert found[0].data == png(0)
    assert found[1].data is None


def test_paths_elsewhere_are_as_they_were(tmp_path: Path) -> None:
    given = Input.model_validate({"path": str(tmp_path), "prompt": "what?"})
    assert pinned(given) is given


def refusal(hub: Hub, path: str = "hf://datasets/owner/name/data", **more: Any) -> str:
    said = []
    for work in (plan_input, pinned):
        with pytest.raises(InputError) as caught:
            work(config(hub, path, **more))
        HfFileSystem.clear_instance_cache()
        said.append(str(caught.value).partition(": cannot ")[2].partition(": ")[2])
    assert said[0] == said[1]
    assert said[0].isprintable()
    return said[0]


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (403, "GatedRepo", "it is gated: ask for access on its page, then log in (hf auth login) or set HF_TOKEN"),
        (
            404,
            "RepoNotFound",
            "no such repository, or it is private: check the name, and log in (hf auth login) or set",
        ),
        (404, "RevisionNotFound", "there is no such revision"),
        (403, "", "access denied: log in (hf auth login) or set HF_TOKEN with a token that may read it"),
        (418, "", "the Hub says 418"),
    ],
)
def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(status: int, code: str, told: str, hub: Hub) -> None:
    hub.refused = (status, code)
    assert refusal(hub).startswith(told)


def test_what_is_not_there_is_said(hub: Hub) -> None:
    assert refusal(hub, "hf://datasets/owner/name@gone/data") == "there is no such revision"
    assert refusal(hub, "hf://datasets/owner/other").startswith("no such repository, or it is private")
    with pytest.raises(InputError, match="not found"):
        plan_input(config(hub, "hf://datasets/owner/name/gone.parquet"))


def test_no_network_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    told = refusal(hub, storage_options={"endpoint": "http://127.0.0.1:9"})
    assert told.startswith("the Hub cannot be reached (")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert refusal(hub, retry_seconds=60.0) == "HF_HUB_OFFLINE is set: unset it, or read files of this machine"


def test_a_hub_that_is_busy_is_asked_again(hub: Hub) -> None:
    hub.hiccups = 2
    assert set(words(plan_input(pinned(config(hub, retry_seconds=60.0)))).values()) == {"now"}


def test_a_stored_token_is_sent_and_never_shown(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    plan = plan_input(config(hub))
    assert plan.root.options["token"] == TOKEN
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in f"{plan!r} {config(hub)!r} {config(hub).model_dump()}"
    hub.refused = (403, "")
    HfFileSystem.clear_instance_cache()
    assert TOKEN not in refusal(hub)
