"""Examples and lengths are noted while rows pass, and the rows pass as they are."""

from star_batch.records import Answer, to_table
from star_batch.report.rows import MAX_EXAMPLES, MAX_TYPES, Failed, RowNotes


def failed(id: str, kind: str = "image_missing", error: str = "no image") -> Answer:
    return Answer(id=id, error=error, error_kind=kind)


def noted(*answers: Answer, rows_per_batch: int = 3) -> RowNotes:
    table, notes = to_table(answers, model="m", fingerprint="f"), RowNotes()
    batches = table.to_batches(max_chunksize=rows_per_batch)
    assert list(notes.noting(batches)) == batches
    return notes


def test_a_few_examples_of_each_type() -> None:
    notes = noted(*(failed(f"row-{n}") for n in range(10)), failed("late", "prompt_too_long", "300 words"))
    assert notes.examples["image_missing"] == [Failed(f"row-{n}", "no image") for n in range(MAX_EXAMPLES)]
    assert notes.examples["prompt_too_long"] == [Failed("late", "300 words")]
    assert notes.first_examples() == {"image_missing": "row-0: no image", "prompt_too_long": "late: 300 words"}


def test_neither_many_types_nor_long_messages_fill_the_memory() -> None:
    notes = noted(*(failed(f"row-{n}", f"kind-{n}", "x" * 100_000) for n in range(3 * MAX_TYPES)))
    assert len(notes.examples) == MAX_TYPES
    assert max(len(row.error) for rows in notes.examples.values() for row in rows) < 540


def test_lengths_of_answered_rows() -> None:
    answers = [Answer(id=f"row-{n}", text="x", num_prompt=9 + n % 2, num_output=3) for n in range(10)]
    notes = noted(*answers, failed("row-x"))
    assert notes.prompt_tokens == {9: 5, 10: 5}
    assert notes.output_tokens == {3: 10}
