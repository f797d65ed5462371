"""Answers become rows of one schema, and nothing of an answer is lost or invented on the way."""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_batch import errors
from star_batch.errors import ImageMissing, PromptTooLong, RecordError
from star_batch.records import ANSWER_SCHEMA, Answer, Record, Times, matches, to_table

ANSWER = Answer(
    id="7",
    text="red",
    token_ids=(5, 2),
    finish_reason="stop",
    label="red",
    label_probability=0.75,
    num_visual=144,
    num_kept=(54, 18),
    num_prompt=9,
    num_output=2,
    times=Times(waiting=1.0, vision=0.5, prefill=0.25, decode=0.125),
)


def row(answer: Answer, reference: str | None = None, **options: Any) -> dict[str, Any]:
    table = to_table([answer], model="m", fingerprint="f", references=[reference], **options)
    values: dict[str, Any] = table.to_pylist()[0]
    return values


def test_an_answer_as_a_row() -> None:
    assert row(ANSWER, "Red", with_token_ids=True) == {
        "id": "7",
        "question_name": None,
        "answer": "red",
        "error": None,
        "error_type": None,
        "finish_reason": "stop",
        "label": "red",
        "label_probability": 0.75,
        "label_margin": None,
        "label_probabilities": None,
        "num_visual": 144,
        "num_kept": [54, 18],
        "num_prompt": 9,
        "num_output": 2,
        "token_ids": [5, 2],
        "seconds": 1.875,
        "reference": "Red",
        "is_correct": True,
        "model": "m",
        "fingerprint": "f",
    }


def test_an_error_as_a_row() -> None:
    values = row(Answer.failed("7", ImageMissing("no image")), "red", with_token_ids=True)
    filled = {name: value for name, value in values.items() if value is not None}
    assert filled == {
        "id": "7",
        "error": "no image",
        "error_type": "image_missing",
        "reference": "red",
        "is_correct": False,
        "model": "m",
        "fingerprint": "f",
    }


def test_without_a_reference_nothing_is_right_or_wrong() -> None:
    assert row(ANSWER)["is_correct"] is None
    assert to_table([ANSWER], model="m", fingerprint="f").to_pylist()[0]["is_correct"] is None


def test_token_ids_only_on_request() -> None:
    assert row(ANSWER)["token_ids"] is None


def test_an_empty_answer_is_an_answer() -> None:
    values = row(Answer(id="1", text=""), "")
    assert (values["answer"], values["error"], values["is_correct"]) == ("", None, True)


def test_no_answers_make_an_empty_table_of_the_same_schema() -> None:
    assert to_table([], model="m", fingerprint="f").schema == ANSWER_SCHEMA


def test_one_reference_per_answer() -> None:
    with pytest.raises(ValueError, match="zip"):
        to_table([ANSWER], model="m", fingerprint="f", references=[])


def test_an_id_is_never_null() -> None:
    assert not ANSWER_SCHEMA.field("id").nullable
    assert all(ANSWER_SCHEMA.field(name).nullable for name in ANSWER_SCHEMA.names if name != "id")


@pytest.mark.parametrize(
    ("text", "reference", "is_match"),
    [
        ("red", "red", True),
        (" Red\n", "red", True),
        ("STRASSE", "straße", True),
        ("red.", "red", False),
        ("red", "blue", False),
        ("", "", True),
        (None, "red", False),
        (None, "", False),
    ],
)
def test_matches(text: str | None, reference: str, is_match: bool) -> None:
    assert matches(text, reference) == is_match


def test_record_errors_have_words_of_their_own() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, RecordError)]
    words = [kind.kind for kind in kinds]
    assert len(set(words)) == len(words)
    assert all(word.isidentifier() and word.islower() for word in words)


def test_exit_codes_differ_and_are_no_success() -> None:
    kinds = [kind for kind in errors.StarBatchError.__subclasses__() if kind is not RecordError]
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(codes)
    assert all(1 < code < 256 for code in codes)


def test_records_are_values() -> None:
    record = Record(id="1", image=b"...", prompt="?")
    assert record == dataclasses.replace(record)
    assert (record.choices, record.min_new_tokens, record.raw) == (None, 0, False)


def test_times_add_up() -> None:
    assert Times().total == 0.0
    assert Times(waiting=1.0, vision=2.0, prefill=4.0, decode=8.0).total == 15.0


answers = st.builds(
    Answer,
    id=st.text(),
    text=st.text(),
    token_ids=st.lists(st.integers(0, 2**31 - 1), max_size=4).map(tuple),
    finish_reason=st.sampled_from(["stop", "length"]),
    num_kept=st.none() | st.lists(st.integers(0, 2**31 - 1), max_size=3).map(tuple),
    num_output=st.integers(0, 2**31 - 1),
)
failures = st.builds(Answer.failed, st.text(), st.sampled_from([ImageMissing("a"), PromptTooLong("b")]))


@given(rows=st.lists(answers | failures, max_size=8))
def test_one_row_per_answer_in_order_and_complete(rows: list[Answer]) -> None:
    table = to_table(rows, model="m", fingerprint="f", with_token_ids=True)
    table.validate(full=True)
    assert table.schema == ANSWER_SCHEMA
    assert table["id"].to_pylist() == [answer.id for answer in rows]
    for values, answer in zip(table.to_pylist(), rows, strict=True):
        assert (values["answer"] is None) == (values["error"] is not None)
        assert values["answer"] == answer.text
        assert values["num_kept"] == (None if answer.num_kept is None else list(answer.num_kept))
        assert answer.error is not None or tuple(values["token_ids"]) == answer.token_ids


def test_the_schema_survives_parquet(tmp_path: Path) -> None:
    table = to_table([ANSWER, Answer.failed("x", ImageMissing("no"))], model="m", fingerprint="f")
    pq.write_table(table, tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == table.to_pylist()
