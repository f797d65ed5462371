import json
from pathlib import Path

import pytest

from star_batch.errors import OutputError
from star_batch.pipeline.fingerprint import Fingerprint
from star_batch.pipeline.output import OutputState, amend, begin, clear, open_output
from star_batch.pipeline.provenance import provenance
from star_batch.pipeline.sink import commit_rows
from star_batch.pipeline.storage import Location
from tests.pipeline.samples import job
from tests.pipeline.test_sink import answers

HERE = Fingerprint({"pruning.keep": 0.5, "model.dtype": "auto"})


@pytest.fixture
def output(tmp_path: Path) -> Location:
    return Location.of(str(tmp_path / "out"))


def start(output: Location, fingerprint: Fingerprint = HERE) -> None:
    begin(output, {"fingerprint": {"parts": dict(fingerprint.parts)}})


def test_an_output_that_is_not_there_is_empty(output: Location) -> None:
    assert open_output(output, HERE, overwrite=False) == OutputState()
    assert output.files() == []


def test_what_is_committed_is_found_again(output: Location) -> None:
    start(output)
    commit_rows(output, answers("a", "b"), HERE.digest)
    commit_rows(output, answers("c"), HERE.digest)
    found = open_output(output, HERE, overwrite=False)
    assert sorted(found.ids.to_pylist()) == ["a", "b", "c"]
    assert not found.is_complete
    output.at("_SUCCESS").write_bytes(b"")
    assert open_output(output, HERE, overwrite=False).is_complete
    start(output)
    assert not open_output(output, HERE, overwrite=False).is_complete


def test_another_job_is_refused_and_told_the_difference(output: Location) -> None:
    start(output)
    other = Fingerprint({"pruning.keep": 0.25, "model.dtype": "auto"})
    with pytest.raises(OutputError) as caught:
        open_output(output, other, overwrite=False)
    assert str(caught.value) == (
        f"{output.url} holds answers of another job (pruning.keep: 0.5 there, 0.25 here): "
        "choose another output, or say overwrite"
    )


def test_answers_without_a_record_of_their_run_are_refused(output: Location) -> None:
    commit_rows(output, answers("a"), "f")
    with pytest.raises(OutputError, match=r"holds answers but no _run\.json"):
        open_output(output, HERE, overwrite=False)


@pytest.mark.parametrize("content", [b"{}", b"[]", b"not json"])
def test_a_foreign_record_is_refused(output: Location, content: bytes) -> None:
    output.at("_run.json").write_bytes(content)
    with pytest.raises(OutputError, match="is not a record of a run of this tool"):
        open_output(output, HERE, overwrite=False)


def test_a_damaged_marker_is_named(output: Location) -> None:
    start(output)
    output.at("_commits", "x.json").write_bytes(b"{")
    with pytest.raises(OutputError, match=r"x\.json is damaged"):
        open_output(output, HERE, overwrite=False)


def test_overwrite_deletes_own_files_only(output: Location) -> None:
    start(output)
    commit_rows(output, answers("a"), "f")
    own = ["_SUCCESS", "report.html", "_metrics/summary.json", "answers/.draft.parquet.abc"]
    foreign = ["notes.txt", "answers/notes.txt", "mine/x.parquet"]
    for name in own + foreign:
        output.at(*name.split("/")).write_bytes(b"x")
    assert open_output(output, Fingerprint({}), overwrite=True) == OutputState()
    assert output.files() == sorted(foreign)


def test_clearing_nothing_is_fine(output: Location) -> None:
    clear(output)


def test_an_unwritable_output_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write the output: Not a directory"):
        start(Location.of(str(tmp_path / "file" / "out")))


def test_the_record_of_a_run_holds_no_credential(output: Location) -> None:
    secret = "hunter2hunter2"
    options = {"key": secret, "client_kwargs": {"endpoint_url": f"http://me:{secret}@h"}}
    config = job("in", "out", input={"storage_options": options}, output={"storage_options": options})
    begin(output, provenance(config, HERE, 3))
    amend(output, {"cluster": {"CPU": 4.0}})
    text = output.at("_run.json").read_bytes().decode()
    assert secret not in text
    record = json.loads(text)
    assert record["config"]["input"]["path"] == "in"
    assert record["fingerprint"]["digest"] == HERE.digest
    assert record["cluster"] == {"CPU": 4.0}
    assert set(record["versions"]) >= {"star_batch", "ray", "torch"}
