"""Answers that people can read: with everything they read Parquet with, and whichever version wrote a part."""

import datetime
import decimal
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_batch.commit.digests import digest_ids, joined
from star_batch.commit.parts import read_part, without_failed
from star_batch.commit.readable import readable, readable_type
from star_batch.commit.snapshots import PART_FORM, read_snapshot
from star_batch.commit.unit import commit_rows
from star_batch.pipeline.actor import answers_schema
from star_batch.pipeline.sink import AnswersSink
from star_batch.records import ANSWER_SCHEMA, Answer, to_table
from star_batch.report.redraw import redraw
from star_batch.storage.location import Location
from tests.commit.samples import FINGERPRINT, opened
from tests.commit.test_finalise import finish
from tests.pipeline.samples import input_config
from tests.readers import READERS

MAP = pa.map_(pa.string(), pa.float64())
FIRST_SCHEMA = ANSWER_SCHEMA.set(
    ANSWER_SCHEMA.get_field_index("label_probabilities"), pa.field("label_probabilities", MAP)
)
SHARES = {"red": 0.75, "blue": 0.25}
PAIRS = [{"label": "red", "probability": 0.75}, {"label": "blue", "probability": 0.25}]


def labelled(*ids: str) -> pa.Table:
    answers = [Answer(id=id, text="red", label="red", label_probabilities=SHARES, num_kept=(4, 2)) for id in ids[:-1]]
    answers.append(Answer(id=ids[-1], error="gone", error_kind="image_missing"))
    return to_table(answers, model="m", fingerprint=FINGERPRINT.digest, with_token_ids=True)


def as_it_was(table: pa.Table) -> pa.Table:
    """What the first version wrote: a map of probabilities."""
    shares = [None if pairs is None else list(SHARES.items()) for pairs in table["label_probabilities"].to_pylist()]
    place = table.schema.get_field_index("label_probabilities")
    return table.set_column(place, FIRST_SCHEMA.field(place), [pa.array(shares, MAP)]).cast(FIRST_SCHEMA)


def forget_the_form(output: Location) -> None:
    """Records as the first version wrote them."""
    for name in output.at("_epochs").files():
        record = output.at("_epochs", name)
        table = pq.read_table(io.BytesIO(record.read_bytes()))
        info = json.loads(table.schema.metadata[b"star_batch"])
        del info["form"]
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({b"star_batch": json.dumps(info)}), buffer)
        record.write_bytes(buffer.getvalue())


def begun_before(output: Location) -> None:
    """An output of the first version that was interrupted."""
    epoch = opened(output)
    commit_rows(epoch, as_it_was(labelled("a", "b")))
    commit_rows(epoch, as_it_was(labelled("c", "d")))
    forget_the_form(output)


IDS = joined([digest_ids(["a", "b", "c", "d", "e", "f"])])


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Location:
    output = Location.of(str(tmp_path_factory.mktemp("resumed") / "out"))
    begun_before(output)
    commit_rows(opened(output), labelled("e", "f"))
    finish(output, IDS)
    return output


def kinds_of(output: Location) -> set[str]:
    parts = output.at("answers")
    types = {pq.read_schema(parts.at(name).path).field("label_probabilities").type for name in parts.files()}
    return {str(type).partition("<")[0] for type in types}


def test_an_output_written_before_is_finished_in_one_schema(resumed: Location) -> None:
    assert kinds_of(resumed) == {"list"}
    seen = read_snapshot(resumed)
    assert (seen.rows, seen.answered, seen.failed, seen.form, seen.is_complete) == (6, 3, 3, PART_FORM, True)
    written = {
        name: Path(resumed.at("answers", name).path).stat().st_mtime_ns for name in resumed.at("answers").files()
    }
    finish(resumed, IDS)
    assert written == {name: Path(resumed.at("answers", name).path).stat().st_mtime_ns for name in written}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_reads_an_output(resumed: Location, tmp_path: Path, reader: str) -> None:
    rows = {row["id"]: row for row in READERS[reader](Path(resumed.at("answers").path), tmp_path)}
    assert sorted(rows) == list("abcdef")
    assert list(rows["a"]) == ANSWER_SCHEMA.names
    for id in "ace":
        assert [dict(pair) for pair in rows[id]["label_probabilities"]] == PAIRS
        assert list(rows[id]["num_kept"]) == [4, 2]
        assert rows[id]["label"] == "red"
    assert {rows[id]["error_type"] for id in "bdf"} == {"image_missing"}


def test_what_was_finished_before_is_read_as_it_is_and_left_alone(tmp_path: Path) -> None:
    output = Location.of(str(tmp_path))
    begun_before(output)
    seen = read_snapshot(output)
    assert seen.form == 1
    table = read_part(output, seen.commits[0], ["id", "label_probabilities"])
    assert sorted(map(str, table["label_probabilities"].to_pylist())) == sorted([str(PAIRS), "None"])
    assert b"image_missing" in redraw(output)
    assert kinds_of(output) == {"map"}


def test_failed_rows_of_an_output_written_before_are_answered_again(tmp_path: Path) -> None:
    output = Location.of(str(tmp_path))
    begun_before(output)
    epoch = opened(output)
    kept = without_failed(epoch, read_snapshot(output).commits, IDS)
    assert [commit.rows for commit in kept] == [1, 1]
    assert all(pq.read_schema(output.at(c.file).path).equals(ANSWER_SCHEMA) for c in kept)


def test_todays_table_is_its_own(tmp_path: Path) -> None:
    table = labelled("a", "b")
    assert readable(table) is table
    assert readable(as_it_was(table)).equals(table)


MAP_OF_TEXT = pa.map_(pa.string(), pa.int32())
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5)
KEPT: dict[str, tuple[pa.DataType, Any]] = {
    "large_list": (pa.large_list(pa.int32()), [1, 2]),
    "fixed_list": (pa.list_(pa.int32(), 2), [1, 2]),
    "decimal": (pa.decimal128(20, 2), decimal.Decimal("1.25")),
    "small_decimal": (pa.decimal32(5, 2), decimal.Decimal("1.25")),
    "time": (pa.timestamp("us", "UTC"), NOW.replace(tzinfo=datetime.UTC)),
    "local_time": (pa.timestamp("ns"), NOW),
    "date": (pa.date32(), NOW.date()),
    "clock": (pa.time64("us"), NOW.time()),
    "span": (pa.duration("us"), datetime.timedelta(seconds=3)),
    "half": (pa.float16(), 0.5),
    "large": (pa.uint64(), 2**63),
    "map": (MAP_OF_TEXT, [("a", 1)]),
    "maps": (pa.struct([("of", pa.list_(MAP_OF_TEXT))]), {"of": [[("a", 1)]]}),
    "nothing": (pa.list_(pa.struct([("a", pa.null())])), [{"a": None}]),
    "words": (pa.dictionary(pa.int32(), pa.string()), "red"),
    "fixed": (pa.binary(3), b"abc"),
    "view": (pa.string_view(), "red"),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part with columns of odd types, committed as a job does."""
    output = Location.of(str(tmp_path_factory.mktemp("kept")))
    columns = {name: pa.array([value, None], type) for name, (type, value) in KEPT.items()}
    table = labelled("a", "b")
    for name, column in columns.items():
        table = table.append_column(name, column)
    schema = answers_schema(pa.table(columns).schema, input_config("in", keep_columns=list(columns)))
    AnswersSink(opened(output), schema, 512).write(iter([table]), None)
    return Path(output.at("answers").path)


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_reads_kept_columns_of_odd_types(kept: Path, tmp_path: Path, reader: str) -> None:
    first, second = sorted(READERS[reader](kept, tmp_path), key=lambda row: str(row["id"]))
    assert list(first) == [*ANSWER_SCHEMA.names, *KEPT]
    assert [dict(pair) for pair in first["map"]] == [{"key": "a", "value": 1}]
    assert list(first["fixed_list"]) == list(first["large_list"]) == [1, 2]
    assert first["decimal"] == first["small_decimal"] == decimal.Decimal("1.25")
    assert (first["words"], first["view"], first["large"]) == ("red", "red", 2**63)
    assert second["map"] is None


@pytest.mark.parametrize("type", [type for type, _ in KEPT.values()], ids=str)
def test_a_readable_type_is_its_own(type: pa.DataType) -> None:
    once = readable_type(type)
    assert readable_type(once) == once
    text = str(once)
    assert not any(word in text for word in ("map<", "null", "dictionary", "decimal32"))


def test_the_columns_of_the_answers_are_readable() -> None:
    assert all(readable_type(field.type) == field.type for field in ANSWER_SCHEMA)
