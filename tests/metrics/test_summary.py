"""The summary is a pure function of the rows and the counters, however the rows are cut into batches."""

import json
from collections.abc import Sequence

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from star_batch.errors import ImageMissing, PromptTooLong
from star_batch.metrics import MAX_LABELS, ONE_QUESTION, OTHER_LABELS, EngineStats, Summary, summarise
from star_batch.records import ANSWER_SCHEMA, Answer, to_table


def answered(id: str, text: str = "red", kept: tuple[int, ...] | None = (50, 10)) -> Answer:
    return Answer(id=id, text=text, finish_reason="stop", num_visual=100, num_kept=kept, num_prompt=9, num_output=2)


def batches(
    answers: Sequence[Answer], references: Sequence[str | None] | None = None, size: int = 2
) -> list[pa.RecordBatch]:
    table = to_table(answers, model="m", fingerprint="f", references=references)
    return list(table.to_batches(max_chunksize=size))


FAILED = [Answer.failed("x", ImageMissing("no")), Answer.failed("y", PromptTooLong("long"))]

STATS = EngineStats(
    rows_answered=4,
    prefill_batches=2,
    prefill_rows=4,
    prefill_tokens=240,
    layer_tokens=4 * (2 * 50 + 6 * 10),
    row_layers=4 * 8,
    output_tokens=8,
    decode_slots=10,
    decode_rows=4,
    padded_tokens=200,
    padding_tokens=50,
    decode_image_seconds=0.5,
    vision_seconds=1.0,
    select_seconds=0.1,
    prefill_seconds=2.0,
    decode_seconds=3.0,
)


def test_a_job() -> None:
    rows = [answered("a"), answered("b", "blue"), *FAILED, answered("c"), answered("d")]
    references = ["Red ", "red", "red", None, None, "red"]
    summary = summarise(
        batches(rows, references),
        STATS,
        wall_seconds=2.0,
        fetch_seconds=7.0,
        decode_seconds=0.25,
        write_seconds=0.75,
    )
    assert (summary.rows, summary.answered, summary.failed) == (6, 4, 2)
    assert summary.failed_by_type == {"image_missing": 1, "prompt_too_long": 1}
    assert summary.images_per_second == 2.0
    assert (summary.num_references, summary.num_correct, summary.accuracy) == (4, 2, 0.5)
    assert (summary.input_tokens_per_second, summary.output_tokens_per_second) == (120.0, 4.0)
    assert (summary.mean_visual_tokens, summary.mean_kept_tokens) == (100.0, (50.0, 10.0))
    assert summary.mean_layer_tokens == 20.0
    assert (summary.mean_prefill_rows, summary.padding_share, summary.slot_occupancy) == (2.0, 0.25, 0.4)
    assert summary.finish_reasons == {"stop": 4}
    assert summary.stage_seconds == {
        "fetch": 7.0,
        "decode_image": 0.75,
        "vision": 1.0,
        "select": 0.1,
        "prefill": 2.0,
        "decode": 3.0,
        "write": 0.75,
    }


def test_a_failed_row_with_a_reference_counts_as_wrong() -> None:
    summary = summarise(batches([answered("a"), FAILED[0]], ["red", "red"]), EngineStats(), wall_seconds=1.0)
    assert (summary.num_references, summary.accuracy) == (2, 0.5)


def test_without_references_there_is_no_accuracy() -> None:
    summary = summarise(batches([answered("a")]), EngineStats(), wall_seconds=1.0)
    assert (summary.num_references, summary.accuracy) == (0, None)


def test_no_rows_at_all() -> None:
    summary = summarise([], EngineStats(), wall_seconds=0.0)
    assert (summary.rows, summary.images_per_second, summary.mean_layer_tokens) == (0, 0.0, None)


def test_methods_with_different_numbers_of_stages_and_rows_without_counts() -> None:
    rows = [answered("a", kept=(40,)), answered("b", kept=(20, 6)), answered("c", kept=None), *FAILED]
    summary = summarise(batches(rows, size=3), EngineStats(), wall_seconds=1.0)
    assert summary.mean_kept_tokens == (30.0, 6.0)


def test_labels_are_counted_up_to_a_limit() -> None:
    labels = ["cat", "cat", *(f"label {number}" for number in range(MAX_LABELS + 5))]
    rows = [Answer(id=str(n), text=label, label=label) for n, label in enumerate(labels)]
    summary = summarise(batches(rows, size=100), EngineStats(), wall_seconds=1.0)
    assert (summary.labels["cat"], summary.labels[OTHER_LABELS]) == (2, 6)
    assert sum(summary.labels.values()) == len(rows)


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["red", "blue", "failed", "no counts"]), max_size=20),
    size=st.integers(1, 21),
)
def test_the_cut_into_batches_does_not_matter(kinds: list[str], size: int) -> None:
    rows = [
        FAILED[0] if kind == "failed" else answered(str(n), kind, (n, 3) if kind != "no counts" else None)
        for n, kind in enumerate(kinds)
    ]
    references: list[str | None] = ["red" if number % 3 else None for number in range(len(rows))]
    whole = to_table(rows, model="m", fingerprint="f", references=references).combine_chunks()
    parts = whole.to_batches(max_chunksize=size)
    expected = summarise(whole.to_batches(), STATS, wall_seconds=1.0)
    assert summarise(iter(parts), STATS, wall_seconds=1.0) == expected
    assert expected.rows == expected.answered + expected.failed == len(rows)
    assert expected.accuracy is None or 0.0 <= expected.accuracy <= 1.0


def example() -> Summary:
    rows = [answered("a"), answered("b", "blue"), *FAILED]
    return summarise(batches(rows, ["red"] * 4), STATS, wall_seconds=2.0)


def test_a_summary_survives_json() -> None:
    values = example().as_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert Summary.from_dict(values | {"of a later version": 1}) == example()


def labelled(id: str, label: str) -> Answer:
    return Answer(id=id, text=label, label=label, label_probability=0.9, finish_reason="stop")


def test_labels_beside_references() -> None:
    rows = [labelled("1", "Red"), labelled("2", "Red"), labelled("3", "blue"), answered("4"), *FAILED]
    summary = summarise(batches(rows, ["red ", "blue", "Blue", "red", "red", None]), STATS, wall_seconds=1.0)
    assert summary.agreement == {ONE_QUESTION: 2 / 3}
    assert summary.confusion == {ONE_QUESTION: {"Red": {"Red": 1}, "blue": {"Red": 1, "blue": 1}}}
    assert summarise(batches([labelled("1", "Red")]), STATS, wall_seconds=1.0).confusion == {}


def test_each_question_has_a_table_of_its_own() -> None:
    rows = [labelled("1#a", "yes"), labelled("1#b", "yes"), labelled("2#a", "no")]
    table = to_table(rows, model="m", fingerprint="f", references=["yes", "no", "no"], questions=["a", "b", "a"])
    summary = summarise(table.to_batches(max_chunksize=2), STATS, wall_seconds=1.0)
    assert summary.agreement == {"a": 1.0, "b": 0.0}
    assert summary.confusion == {"a": {"no": {"no": 1}, "yes": {"yes": 1}}, "b": {"no": {"yes": 1}}}


def test_the_schema_has_what_the_summary_reads() -> None:
    needed = {"error_type", "finish_reason", "label", "is_correct", "num_visual", "num_kept"}
    assert needed <= set(ANSWER_SCHEMA.names)


def test_pace_is_that_of_the_engines_while_they_were_at_work() -> None:
    stats = EngineStats(rows_answered=6, prefill_tokens=30, output_tokens=12)
    summary = summarise(batches([answered("a")]), stats, wall_seconds=10.0, working_seconds=3.0)
    assert (summary.images_per_second, summary.input_tokens_per_second, summary.output_tokens_per_second) == (2, 10, 4)
