"""The summary is a pure function of the rows and the counters, however the rows are cut into batches."""

import json
from collections.abc import Sequence
from dataclasses import fields

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from star_batch.errors import ImageMissing, PromptTooLong
from star_batch.metrics import (
    BATCH_ROWS,
    MAX_LABELS,
    ONE_QUESTION,
    OTHER_LABELS,
    EngineStats,
    Histogram,
    Progress,
    Readings,
    Snapshot,
    Summary,
    summarise,
)
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


stats = st.builds(EngineStats, **{f.name: st.integers(0, 2**40) for f in fields(EngineStats)})


@given(first=stats, second=stats)
def test_engine_stats_add_up(first: EngineStats, second: EngineStats) -> None:
    assert first + second == second + first
    assert first + second - second == first
    assert first + EngineStats() == first


values = st.lists(st.integers(0, 2000).map(float), max_size=30)


def histogram(observed: Sequence[float]) -> Histogram:
    made = Histogram.over(BATCH_ROWS)
    for value in observed:
        made.observe(value)
    return made


@given(first=values, second=values)
def test_histograms_add_up(first: list[float], second: list[float]) -> None:
    both = histogram(first + second)
    assert histogram(first) + histogram(second) == both
    assert both - histogram(second) == histogram(first)
    assert (sum(both.counts), both.total) == (len(first + second), sum(first + second))


def test_a_value_on_a_bound_is_not_above_it() -> None:
    made = histogram([1.0, 1.5, 2.0, 513.0])
    assert (made.counts[:2], made.counts[-1]) == ([1, 2], 1)


def test_readings_of_several_engines() -> None:
    first = Readings(rows_waiting=3, pages_in_use=(5, 2), pages=(8, 8), idle_seconds=1.0)
    first.observe("decode", rows=4, seconds=0.5)
    second = Readings(rows_running=2, pages_in_use=(1,), pages=(8,), idle_seconds=0.5)
    both = first + second
    assert (both.rows_waiting, both.rows_running, both.idle_seconds) == (3, 2, 1.5)
    assert (both.pages_in_use, both.pages) == ((6, 2), (16, 8))
    assert sum(both.batch_rows["decode"].counts) == 1
    ended = both.at_the_end()
    assert (ended.rows_waiting, ended.rows_running, ended.pages) == (0, 0, ())
    assert (ended.idle_seconds, ended.step_seconds) == (1.5, both.step_seconds)


def done(answered: int, failed: int = 0) -> Snapshot:
    return Snapshot(engines=1, stats=EngineStats(rows_answered=answered, rows_failed=failed))


def test_progress_tells_the_time_that_is_left() -> None:
    progress = Progress.at(done(45, failed=5), seconds=10.0, before=100, total=200)
    assert (progress.rows_done, progress.rows_total, progress.failed) == (150, 200, 5)
    assert (progress.images_per_second, progress.seconds_left, progress.rows_left) == (5.0, 10.0, 50)


def test_progress_before_the_first_row() -> None:
    assert Progress.at(Snapshot(), seconds=0.0, before=0, total=200).seconds_left is None


def test_rows_that_were_answered_twice_leave_no_less_than_nothing() -> None:
    progress = Progress.at(done(120), seconds=10.0, before=100, total=200)
    assert (progress.rows_left, progress.seconds_left) == (0, 0.0)


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
