"""All requests at once: their order, rows that fail, and what a real engine makes of it."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from PIL import Image

from star_batch.demo.rows import make_rows
from star_batch.engine import Engine
from star_batch.errors import ConfigError, ImageUnreadable
from star_batch.evaluation.answering import answer_all, failures, ignored
from star_batch.evaluation.requests import Request
from star_batch.evaluation.settings import Settings
from star_batch.options import Decoding
from star_batch.records import Answer, Record


class Echo:
    """Answers with id, decoding and words; a record without an image fails."""

    def __init__(self) -> None:
        self.calls: list[Decoding] = []

    def answer(self, records: Iterable[Record], *, decoding: Decoding) -> list[Answer]:
        self.calls.append(decoding)
        return [self._of(record, decoding) for record in records]

    @staticmethod
    def _of(record: Record, decoding: Decoding) -> Answer:
        if record.image is None:
            return Answer.failed(record.id, ImageUnreadable("no\nimage"))
        return Answer(id=record.id, text=f"{decoding.max_new_tokens} {record.prompt}")


def to_messages(row: dict[str, Any]) -> list[dict[str, Any]]:
    if row["question"] == "broken":
        raise OSError("cut off")
    images = [{"type": "image", "url": row["image"]}] if row["image"] is not None else []
    return [{"role": "user", "content": [*images, {"type": "text", "text": row["question"]}]}]


def request(number: int, task: str = "task", **options: object) -> Request:
    return Request.of_arguments(("", to_messages, options, number, task, "test"))


def row(question: str, image: bytes | None = b"image") -> dict[str, Any]:
    return {"question": question, "image": image}


def test_answers_come_in_the_order_of_requests_whatever_their_options() -> None:
    documents = {"task": {"test": [row(f"q{number}") for number in range(6)]}}
    engine = Echo()
    requests = [request(number, max_new_tokens=8 if number % 2 else 4) for number in (5, 0, 3, 2, 1, 4)]
    answers = answer_all(engine, requests, documents, max_new_tokens=9)
    expected = ["8 <image>q5", "4 <image>q0", "8 <image>q3", "4 <image>q2", "8 <image>q1", "4 <image>q4"]
    assert [answer.text for answer in answers] == expected
    assert engine.calls == [Decoding(max_new_tokens=8), Decoding(max_new_tokens=4)]


def test_repetitions_of_a_request_have_ids_of_their_own() -> None:
    documents = {"task": {"test": [row("q")]}, "other": {"test": [row("q")]}}
    requests = [request(0), request(0), request(0, task="other"), request(0)]
    answers = answer_all(Echo(), requests, documents, max_new_tokens=9)
    assert [answer.id for answer in answers] == ["task/test/0", "task/test/0#2", "other/test/0", "task/test/0#3"]


def test_rows_that_fail_cost_only_themselves() -> None:
    documents = {"task": {"test": [row("q0"), row("broken"), row("q2", None), row("q3")]}}
    ticks: list[None] = []
    requests = [request(number) for number in range(4)]
    answers = answer_all(Echo(), requests, documents, max_new_tokens=9, on_row=lambda: ticks.append(None))
    assert [answer.text for answer in answers] == ["9 <image>q0", None, None, "9 <image>q3"]
    assert len(ticks) == 4
    assert failures(answers) == [
        "task/test/1: image_unreadable: the task cannot read its document: cut off",
        "task/test/2: image_unreadable: no\\nimage",
        "2 of 4 rows failed and are scored as empty answers: 2 image_unreadable",
    ]
    assert failures(answers[:1]) == []


def test_options_are_looked_at_before_any_row_is() -> None:
    engine = Echo()
    with pytest.raises(ConfigError, match="other: num_beams=2"):
        answer_all(engine, [request(0), request(1, task="other", num_beams=2)], {}, max_new_tokens=9)
    assert engine.calls == []


def test_options_that_change_nothing_are_named_once_per_task() -> None:
    requests = [request(0, image_aspect_ratio="pad"), request(1, image_aspect_ratio="pad"), request(0, task="other")]
    assert ignored(requests) == ["task: 'image_aspect_ratio' changes nothing here"]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    arguments = {"model": "demo", "method": "star", "keep": 36, "device": "cpu", "dtype": "float32"}
    with Settings.of_arguments(arguments).load() as engine:
        yield engine


def test_the_engine_answers_as_without_the_detour(engine: Engine) -> None:
    rows = list(make_rows(16, seed=3))
    requests = [request(number, max_new_tokens=32, until=["\n\n"], temperature=0) for number in range(16)]
    answers = answer_all(engine, requests, {"task": {"test": rows}}, max_new_tokens=9)
    records = [Record(id=row["id"], image=row["image"], prompt=row["question"]) for row in rows]
    alone = engine.answer(records, decoding=Decoding(max_new_tokens=32))
    assert [answer.text for answer in answers] == [answer.text for answer in alone]
    assert [answer.num_kept for answer in answers] == [answer.num_kept for answer in alone]


def test_the_engines_error_rows_and_several_images(engine: Engine) -> None:
    good, bad = next(make_rows(1, seed=4)), row("what is it?", b"this is not an image")
    two = [{"type": "image", "url": Image.new("RGB", (64, 64), colour)} for colour in ("red", "blue")]
    content = [{"type": "text", "text": "Is "}, two[0], {"type": "text", "text": " like "}, two[1]]
    several = Request.of_arguments(
        ("", lambda _: [{"role": "user", "content": content}], {"max_new_tokens": 4}, 2, "task", "test")
    )
    requests = [request(0, max_new_tokens=4), request(1, max_new_tokens=4), several]
    answers = answer_all(engine, requests, {"task": {"test": [good, bad, good]}}, max_new_tokens=9)
    assert [answer.error_kind for answer in answers] == [None, "image_unreadable", None]
    one, _, both = (answer.num_visual or 0 for answer in answers)
    assert both == 2 * one
