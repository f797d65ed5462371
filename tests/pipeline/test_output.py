import json
from pathlib import Path

import pytest

from star_batch.errors import LeaseLost, OutputError
from star_batch.pipeline import epochs
from star_batch.pipeline.digests import digest_ids, joined
from star_batch.pipeline.epochs import Standing, check_fingerprint, ids_of, look, next_epoch, open_epoch
from star_batch.pipeline.fingerprint import Fingerprint
from star_batch.pipeline.output import amend, begin
from star_batch.pipeline.parts import without_failed
from star_batch.pipeline.provenance import provenance
from star_batch.pipeline.sink import commit_rows
from star_batch.pipeline.storage import Location
from tests.pipeline.samples import job
from tests.pipeline.test_sink import FINGERPRINT, answers, opened


@pytest.fixture
def output(tmp_path: Path) -> Location:
    return Location.of(str(tmp_path / "out"))


def test_an_output_that_is_not_there_is_empty(output: Location) -> None:
    assert look(output) == Standing()
    assert output.files() == []


def test_what_is_committed_is_found_again(output: Location) -> None:
    epoch = opened(output)
    commit_rows(epoch, answers("a", "b", failed=1))
    commit_rows(epoch, answers("c"))
    later = opened(output)
    commit_rows(later, answers("d"))
    found = look(output)
    assert sorted(ids_of(found.commits).tolist()) == sorted(digest_ids([id])[:16] for id in "abcd")
    assert (found.rows, found.answered, found.failed) == (4, 3, 1)
    assert [commit.rows for commit in found.recent] == [1]
    assert not found.is_complete
    output.at("_SUCCESS").write_bytes(epoch.name.encode())
    assert not look(output).is_complete  # of an earlier epoch
    output.at("_SUCCESS").write_bytes(later.name.encode())
    assert look(output).is_complete


@pytest.mark.parametrize("at_work", ["the first epoch", "the next epoch"])
def test_whoever_looks_while_an_epoch_is_opened_sees_what_counts(
    output: Location, monkeypatch: pytest.MonkeyPatch, at_work: str
) -> None:
    """Once `status` that met a run at its first commit said that nobody had accounted for the answers."""
    if at_work == "the next epoch":
        commit_rows(opened(output), answers("a"))
    list_epochs = epochs.newest
    old = list_epochs(output)

    def newest(place: Location) -> int:
        monkeypatch.setattr(epochs, "newest", list_epochs)
        commit_rows(opened(output), answers("b"))
        output.at("_epochs", f"{old:08d}.parquet").delete()
        return old

    monkeypatch.setattr(epochs, "newest", newest)
    found = look(output)
    assert (found.number, len(found.recent)) == (old + 1, 1)


def test_two_cannot_open_one_epoch(output: Location) -> None:
    seen = look(output)
    one, other = (next_epoch(output, seen, FINGERPRINT) for _ in range(2))
    open_epoch(one, (), FINGERPRINT)
    open_epoch(one, (), FINGERPRINT)  # as after a lost reply
    with pytest.raises(LeaseLost, match="another run has taken over"):
        open_epoch(other, (), FINGERPRINT)


def test_rows_that_failed_can_be_left_out(output: Location) -> None:
    commit_rows(opened(output), answers("a", "b", "c", failed=2))
    commit_rows(opened(output), answers("d", failed=1))
    commit_rows(opened(output), answers("e"))
    seen = look(output)
    epoch = next_epoch(output, seen, FINGERPRINT)
    open_epoch(epoch, without_failed(epoch, seen.commits, ids_of(seen.commits)), FINGERPRINT)
    found = look(output)
    assert (found.rows, found.answered, found.failed) == (2, 2, 0)
    assert ids_of(found.commits).tobytes() == digest_ids(["c", "e"])


def test_of_rows_that_failed_only_those_that_can_be_asked_again_are_left_out(output: Location) -> None:
    commit_rows(opened(output), answers("a", "b", "c", failed=2))
    commit_rows(opened(output), answers("d", failed=1))
    seen = look(output)
    epoch = next_epoch(output, seen, FINGERPRINT)
    kept = without_failed(epoch, seen.commits, joined([digest_ids(["b", "c"])]))
    assert sorted(ids_of(kept)) == sorted(joined([digest_ids(["a", "c", "d"])]))
    assert kept[1] == seen.commits[1]


def test_another_job_is_refused_and_told_the_difference(output: Location) -> None:
    opened(output)
    other = Fingerprint({"pruning.keep": 0.25, "model.dtype": "auto"})
    with pytest.raises(OutputError) as caught:
        check_fingerprint(output, look(output).fingerprint, other)
    assert str(caught.value) == (
        f"{output.url} holds answers of another job (pruning.keep: 0.5 there, 0.25 here): "
        "choose another output, or say overwrite"
    )


def test_answers_without_a_record_are_refused(output: Location) -> None:
    commit_rows(opened(output), answers("a"))
    output.at("_epochs", "00000001.parquet").delete()
    with pytest.raises(OutputError, match=r"holds answers but no _epochs"):
        look(output)


@pytest.mark.parametrize("name", ["_commits/{}-x.json", "_epochs/00000002.parquet"])
def test_what_is_damaged_is_named(output: Location, name: str) -> None:
    place = name.format(opened(output).name)
    output.at(place).write_bytes(b"{")
    with pytest.raises(OutputError, match=f"{place} is damaged"):
        look(output)


def test_an_unwritable_output_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write the output: Not a directory"):
        begin(Location.of(str(tmp_path / "file" / "out")), {})


def test_the_record_of_a_run_holds_no_credential(output: Location) -> None:
    secret = "hunter2hunter2"
    options = {"key": secret, "client_kwargs": {"endpoint_url": f"http://me:{secret}@h"}}
    config = job("in", "out", input={"storage_options": options}, output={"storage_options": options})
    begin(output, provenance(config, FINGERPRINT, 3))
    amend(output, {"cluster": {"CPU": 4.0}})
    text = output.at("_run.json").read_bytes().decode()
    assert secret not in text
    record = json.loads(text)
    assert record["config"]["input"]["path"] == "in"
    assert record["fingerprint"]["digest"] == FINGERPRINT.digest
    assert record["cluster"] == {"CPU": 4.0}
    assert set(record["versions"]) >= {"star_batch", "ray", "torch"}
