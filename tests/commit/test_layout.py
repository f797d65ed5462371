import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_batch.commit import snapshots as epochs
from star_batch.commit.digests import digest_ids, joined
from star_batch.commit.fingerprint import Fingerprint
from star_batch.commit.layout import amend, begin, read_run
from star_batch.commit.parts import read_part, without_failed
from star_batch.commit.snapshots import Snapshot, check_fingerprint, ids_of, next_epoch, open_epoch, read_snapshot
from star_batch.commit.unit import commit_rows
from star_batch.errors import LeaseLost, OutputError
from star_batch.pipeline.provenance import provenance
from star_batch.storage.location import Location
from tests.commit.samples import FINGERPRINT, answers, opened
from tests.pipeline.samples import job


@pytest.fixture
def output(tmp_path: Path) -> Location:
    return Location.of(str(tmp_path / "out"))


def test_an_output_that_is_not_there_is_empty(output: Location) -> None:
    assert read_snapshot(output) == Snapshot()
    assert output.files() == []


def test_what_is_committed_is_found_again(output: Location) -> None:
    epoch = opened(output)
    commit_rows(epoch, answers("a", "b", failed=1))
    commit_rows(epoch, answers("c"))
    later = opened(output)
    commit_rows(later, answers("d"))
    found = read_snapshot(output)
    assert sorted(ids_of(found.commits).tolist()) == sorted(digest_ids([id])[:16] for id in "abcd")
    assert (found.rows, found.answered, found.failed) == (4, 3, 1)
    assert [commit.rows for commit in found.recent] == [1]
    assert not found.is_complete
    output.at("_SUCCESS").write_bytes(epoch.name.encode())
    assert not read_snapshot(output).is_complete  # of an earlier epoch
    output.at("_SUCCESS").write_bytes(later.name.encode())
    assert read_snapshot(output).is_complete


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
    found = read_snapshot(output)
    assert (found.number, len(found.recent)) == (old + 1, 1)


def test_two_cannot_open_one_epoch(output: Location) -> None:
    seen = read_snapshot(output)
    one, other = (next_epoch(output, seen, FINGERPRINT) for _ in range(2))
    open_epoch(one, (), FINGERPRINT)
    open_epoch(one, (), FINGERPRINT)  # as after a lost reply
    with pytest.raises(LeaseLost, match="another run has taken over"):
        open_epoch(other, (), FINGERPRINT)


def test_a_record_that_was_there_and_is_gone_belongs_to_a_run_that_is_over(
    output: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = next_epoch(output, read_snapshot(output), FINGERPRINT)

    def too_late(self: Location, data: bytes) -> None:
        raise FileExistsError(self.path)  # and whoever came after its owner deletes it here

    monkeypatch.setattr(Location, "create", too_late)
    with pytest.raises(LeaseLost, match="another run has taken over"):
        open_epoch(epoch, (), FINGERPRINT)


def test_rows_that_failed_can_be_left_out(output: Location) -> None:
    commit_rows(opened(output), answers("a", "b", "c", failed=2))
    commit_rows(opened(output), answers("d", failed=1))
    commit_rows(opened(output), answers("e"))
    seen = read_snapshot(output)
    epoch = next_epoch(output, seen, FINGERPRINT)
    open_epoch(epoch, without_failed(epoch, seen.commits, ids_of(seen.commits)), FINGERPRINT)
    found = read_snapshot(output)
    assert (found.rows, found.answered, found.failed) == (2, 2, 0)
    assert ids_of(found.commits).tobytes() == digest_ids(["c", "e"])


def test_of_rows_that_failed_only_those_that_can_be_asked_again_are_left_out(output: Location) -> None:
    commit_rows(opened(output), answers("a", "b", "c", failed=2))
    commit_rows(opened(output), answers("d", failed=1))
    seen = read_snapshot(output)
    epoch = next_epoch(output, seen, FINGERPRINT)
    kept = without_failed(epoch, seen.commits, joined([digest_ids(["b", "c"])]))
    assert sorted(ids_of(kept)) == sorted(joined([digest_ids(["a", "c", "d"])]))
    assert kept[1] == seen.commits[1]


def test_another_job_is_refused_and_told_the_difference(output: Location) -> None:
    opened(output)
    other = Fingerprint({"pruning.keep": 0.25, "model.dtype": "auto"})
    with pytest.raises(OutputError) as caught:
        check_fingerprint(output, read_snapshot(output).fingerprint, other)
    assert str(caught.value) == (
        f"{output.url} holds answers of another job (pruning.keep: 0.5 there, 0.25 here): "
        "choose another output, or say overwrite"
    )


def test_answers_without_a_record_are_refused(output: Location) -> None:
    commit_rows(opened(output), answers("a"))
    output.at("_epochs", "00000001.parquet").delete()
    with pytest.raises(OutputError, match=r"holds answers but no _epochs"):
        read_snapshot(output)


@pytest.mark.parametrize("name", ["_commits/{}-x.json", "_epochs/00000002.parquet"])
def test_what_is_damaged_is_named(output: Location, name: str) -> None:
    place = name.format(opened(output).name)
    output.at(place).write_bytes(b"{")
    with pytest.raises(OutputError, match=f"{place} is damaged"):
        read_snapshot(output)


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


PART = "answers/00000001-{0}-{1}-{1}.parquet".format("0" * 12, "0" * 32)
DEEP = b"[" * 200_000
WRONG: list[tuple[str, object]] = [
    *[(name, value) for name in ("rows", "answered", "failed") for value in (None, "x", -1, 2.5, 10**30, True)],
    *[("ids", value) for value in (None, 5, "YWJj", "")],
    *[("file", value) for value in (None, 5, "../x.parquet", "answers/../../../proc/kmsg", f"x/{PART}", "answers")],
    *[(name, value) for name in ("at", "seconds") for value in (None, "x", float("nan"), float("inf"), 10**400)],
    *[(name, value) for name in ("attempt", "fingerprint") for value in (None, 5, [""])],
    *[("size", value) for value in ("x", -1, 1.5)],
    ("another", 1),
]


def marker_of(output: Location) -> Location:
    [name] = output.at("_commits").files()
    return output.at("_commits", name)


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_marker_that_cannot_be_true_is_damaged(output: Location, name: str, value: object) -> None:
    commit_rows(opened(output), answers("a"))
    marker = marker_of(output)
    marker.write_bytes(json.dumps(json.loads(marker.read_bytes()) | {name: value}).encode())
    with pytest.raises(OutputError, match=r"_commits/.*\.json is damaged"):
        read_snapshot(output)


@pytest.mark.parametrize("content", [DEEP, b"[]", b"null", b"\xff", b""])
def test_a_marker_that_is_none_is_damaged(output: Location, content: bytes) -> None:
    commit_rows(opened(output), answers("a"))
    marker_of(output).write_bytes(content)
    with pytest.raises(OutputError, match=r"_commits/.*\.json is damaged"):
        read_snapshot(output)


def test_a_marker_of_before_sizes_is_read(output: Location) -> None:
    commit_rows(opened(output), answers("a"))
    marker = marker_of(output)
    values = json.loads(marker.read_bytes())
    del values["size"]
    marker.write_bytes(json.dumps(values).encode())
    assert [commit.size for commit in read_snapshot(output).commits] == [None]


@pytest.mark.parametrize(
    ("column", "value"),
    [("rows", None), ("rows", "x"), ("rows", 2.5), ("ids", b"abc"), ("ids", "abc"), ("file", "../x"), ("at", None)],
)
def test_a_record_of_columns_that_cannot_be_true_is_damaged(output: Location, column: str, value: object) -> None:
    def change(table: pa.Table) -> pa.Table:
        return table.set_column(table.column_names.index(column), column, pa.array([value]))

    change_record(output, change)
    with pytest.raises(OutputError, match=r"_epochs/00000002\.parquet is damaged"):
        read_snapshot(output)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("form", "1e400"), ("form", "[]"), ("holder", "5")],
        *[("opened", value) for value in ("1e400", "NaN", "null")],
        *[("fingerprint", value) for value in ("[1]", "5", DEEP.decode())],
    ],
)
def test_a_record_that_says_what_cannot_be_true_is_damaged(output: Location, name: str, value: str) -> None:
    def change(table: pa.Table) -> pa.Table:
        info = json.loads(table.schema.metadata[b"star_batch"]) | {name: "HERE"}
        return table.replace_schema_metadata({"star_batch": json.dumps(info).replace('"HERE"', value)})

    change_record(output, change)
    with pytest.raises(OutputError, match=r"_epochs/00000002\.parquet is damaged"):
        read_snapshot(output)


def change_record(output: Location, change: Callable[[pa.Table], pa.Table]) -> None:
    """Of the second epoch, which knows a part of the first."""
    commit_rows(opened(output), answers("a"))
    opened(output)
    record = output.at("_epochs", "00000002.parquet").path
    pq.write_table(change(pq.read_table(record)), record)


@pytest.mark.parametrize("name", ["²", "\u0663", "77", "9" * 30, "0000000\u0663"])
def test_a_file_that_is_named_unlike_a_record_is_none(output: Location, name: str) -> None:
    opened(output)
    output.at("_epochs", f"{name}.parquet").write_bytes(b"")
    assert read_snapshot(output).number == 1


def changed(column: str, values: pa.Array) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(column), column, values)


NOT_TEXT = pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())
DAMAGES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "id twice": lambda table: table.append_column("id", table["id"]),
    "error twice": lambda table: table.append_column("error", table["error"]),
    "no error": lambda table: table.drop_columns(["error"]),
    "id null": changed("id", pa.array([None], pa.string())),
    "id no text": changed("id", NOT_TEXT),
    "answer no text": changed("answer", NOT_TEXT),
    "answer a struct": changed("answer", pa.array([{"a": 1}])),
    "error a list": changed("error", pa.array([[1]])),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("columns", [None, ["id", "answer", "error"]])
def test_a_part_of_other_columns_is_damaged(output: Location, damage: str, columns: list[str] | None) -> None:
    commit_rows(opened(output), answers("a"))
    [commit] = read_snapshot(output).commits
    part = output.at(commit.file).path
    pq.write_table(DAMAGES[damage](pq.read_table(part)), part)
    with pytest.raises(OutputError, match=r"is damaged: delete it, then run the same command again"):
        read_part(output, commit, columns)


def test_a_part_with_a_byte_that_has_changed_is_named(output: Location) -> None:
    commit_rows(opened(output), answers(*(f"row-{n}" for n in range(100))))
    [commit] = read_snapshot(output).commits
    part = output.at(commit.file)
    whole, said = part.read_bytes(), []
    for at in range(4, len(whole), 97):
        part.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            read_part(output, commit)
        except OutputError as error:
            said.append(str(error))
    assert len(said) > 5
    assert all(commit.file in words and "delete it, then run the same command again" in words for words in said)


@pytest.mark.parametrize("content", [DEEP, b"[]", b"\xff", b"9" * 5000])
def test_a_record_of_a_run_that_cannot_be_read_is_none(output: Location, content: bytes) -> None:
    output.at("_run.json").write_bytes(content)
    assert read_run(output) is None


@pytest.mark.parametrize("total", ["x", -5, 1.5, [1], True])
def test_a_number_of_rows_that_is_none_is_not_known(output: Location, total: object) -> None:
    begin(output, {"num_input_rows": total, "config": {}})
    assert read_run(output) == {"num_input_rows": None, "config": {}}
