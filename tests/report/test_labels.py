"""What the page says about labels, counted from rows."""

import math

from star_batch.records import Answer, to_table
from star_batch.report import Choice, RowNotes, render
from star_batch.report.labels import MAX_UNCERTAIN, Uncertain, confusion_of
from tests.report.samples import report, sample, summary


def labelled(number: int, margin: float | None) -> Answer:
    shares = {"cat": 0.5, "dog": 0.5 - (margin or 0.0), "none": 0.0}
    return Answer(
        id=f"row-{number:03d}", label="cat", label_probability=0.5, label_margin=margin, label_probabilities=shares
    )


def noted(answers: list[Answer], size: int = 7) -> RowNotes:
    notes = RowNotes()
    references = ["dog"] * len(answers)
    table = to_table(answers, model="m", fingerprint="f", references=references)
    for _ in notes.noting(table.to_batches(max_chunksize=size)):
        pass
    return notes


def test_margins_and_the_least_certain_rows() -> None:
    margins = [number / 100 for number in range(100)]
    odd = [labelled(900, None), labelled(901, math.nan), Answer(id="x", error="bad", error_kind="image_missing")]
    notes = noted([*(labelled(number, margin) for number, margin in enumerate(reversed(margins))), *odd])
    assert (notes.margins.total(), sorted(notes.margins), notes.margins[3]) == (100, list(range(20)), 5)
    assert [row.id for row in notes.uncertain] == [f"row-{99 - n:03d}" for n in range(MAX_UNCERTAIN)]
    assert notes.uncertain[0] == Uncertain(0.0, "row-099", "cat", 0.5, "dog", "dog")
    assert noted([labelled(1, 1.0)]).margins == {19: 1}


def test_rows_without_labels_have_none_of_it() -> None:
    notes = noted([Answer(id="a", text="yes")])
    assert (notes.margins.total(), notes.uncertain) == (0, [])
    page = render(report(notes=notes))
    assert "The least certain labels" not in page
    assert "above the next" not in page


def test_a_confusion_table_has_a_column_for_each_label() -> None:
    found = confusion_of("q", {"cat": {"cat": 3, "dog": 1}, "bird": {"dog": 2}}, 0.5)
    assert found.labels == ["cat", "dog"]
    assert list(found.rows) == [("bird", [0, 2], None), ("cat", [3, 1], 0)]
    many = {f"n{number}": {f"n{number}": number + 1} for number in range(30)}
    assert (len(confusion_of("q", many, 1.0).rows), confusion_of("q", many, 1.0).more) == (20, 10)


def test_the_page_shows_labels() -> None:
    card = sample(answer="cat", choices=(Choice("cat", 0.61), Choice("dog", 0.39)))
    notes = noted([labelled(1, 0.22)])
    confusion = {"(one)": {"cat": {"cat": 3, "dog": 1}}}
    numbers = summary(labels={"cat": 4}, confusion=confusion, agreement={"(one)": 0.75}, working_seconds=20.0)
    page = render(report(samples=[card], notes=notes, summary=numbers))
    assert "while engines were at work, 20 s of 25 s" in page
    for words in ("61.0 %", "The least certain labels", "22.0 %", "row-001", 'scope="row">cat</th>', "above the next"):
        assert words in page
    assert '<td class="n same">3</td><td class="n">1</td>' in page


def test_batches_of_another_size_give_the_same() -> None:
    answers = [labelled(number, (number * 37 % 50) / 50) for number in range(60)]
    assert noted(answers, size=5) == noted(answers, size=60)
