"""Requests of lmms-eval as records: where images go, which options count, and what is refused by name."""

from collections.abc import Mapping
from typing import Any

import pytest

from star_batch.errors import ConfigError, ImageUnreadable
from star_batch.evaluation.requests import Request
from star_batch.options import Decoding

DOCUMENTS = {"task": {"test": ["first document"]}}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def image(url: object) -> dict[str, object]:
    return {"type": "image", "url": url}


def asking(*messages: Mapping[str, Any], **options: object) -> Request:
    arguments = ("", lambda document: list(messages), options, 0, "task", "test")
    return Request.of_arguments(arguments)


def of_user(*content: Mapping[str, Any]) -> Request:
    return asking({"role": "user", "content": list(content)})


def test_images_stand_where_the_messages_have_them() -> None:
    request = of_user(text("Is "), image("a.png"), text(" larger than "), image("b.png"), text("?"))
    record = request.record(DOCUMENTS, "1")
    assert record.prompt == "Is <image> larger than <image>?"
    assert record.images == ("a.png", "b.png")


def test_images_that_come_first_stand_before_the_words() -> None:
    record = of_user(image(b"1"), image(b"2"), text("What is it?")).record(DOCUMENTS, "an id")
    assert (record.id, record.prompt, record.images) == ("an id", "<image><image>What is it?", (b"1", b"2"))


def test_marks_among_the_words_are_the_images_places() -> None:
    record = of_user(image(b"1"), text("In <image> what is it?")).record(DOCUMENTS, "1")
    assert record.prompt == "In <image> what is it?"
    assert record.images == (b"1",)


def test_a_question_without_an_image_is_a_record_without_one() -> None:
    record = asking({"role": "user", "content": "What is it?"}).record(DOCUMENTS, "1")
    assert (record.prompt, record.images) == ("What is it?", (None,))


def test_messages_are_made_of_the_document_that_is_named() -> None:
    documents = {"t": {"train": ["no"], "test": ["no", "no", "yes"]}, "u": {"test": ["no"] * 3}}

    def to_messages(document: str) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [text(document)]}]

    request = Request.of_arguments(("", to_messages, None, 2, "t", "test"))
    assert request.id == "t/test/2"
    assert request.record(documents, request.id).prompt == "yes"


def test_a_document_that_cannot_be_read_is_that_records_error() -> None:
    def broken(document: object) -> list[dict[str, Any]]:
        raise OSError("image file is truncated")

    request = Request.of_arguments(("", broken, {}, 0, "task", "test"))
    with pytest.raises(ImageUnreadable, match="image file is truncated"):
        request.record(DOCUMENTS, "1")


@pytest.mark.parametrize("kind", ["video", "audio", "image_url"])
def test_content_that_is_not_supported_is_refused_by_name(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"task: content of type '{kind}' is not supported"):
        of_user({"type": kind, "url": "x"}, text("What is it?")).record(DOCUMENTS, "1")


@pytest.mark.parametrize("roles", [["system", "user"], ["user", "assistant", "user"], ["assistant"], []])
def test_conversations_are_refused(roles: list[str]) -> None:
    request = asking(*({"role": role, "content": [text("hello")]} for role in roles))
    with pytest.raises(ConfigError, match=r"task: messages of .* are not supported; only one of the user is"):
        request.record(DOCUMENTS, "1")


@pytest.mark.parametrize(
    ("options", "decoding"),
    [
        ({}, Decoding(max_new_tokens=99)),
        ({"max_new_tokens": 16, "until": ["\n\n", "USER:"]}, Decoding(max_new_tokens=16, stop=("\n\n", "USER:"))),
        ({"until": "END"}, Decoding(max_new_tokens=99, stop=("END",))),
        ({"until": "", "temperature": 0}, Decoding(max_new_tokens=99)),
        ({"until": None, "top_p": None, "temperature": None}, Decoding(max_new_tokens=99)),
        ({"temperature": 0.0, "top_p": 0}, Decoding(max_new_tokens=99)),
        ({"temperature": 0.5, "top_p": 0.9}, Decoding(max_new_tokens=99, temperature=0.5, top_p=0.9)),
        ({"temperature": 0.5, "do_sample": False}, Decoding(max_new_tokens=99)),
        ({"do_sample": True}, Decoding(max_new_tokens=99, temperature=1.0)),
        ({"do_sample": True, "temperature": 0}, Decoding(max_new_tokens=99)),
        ({"num_beams": 1, "image_aspect_ratio": "pad"}, Decoding(max_new_tokens=99)),
        ({"num_beams": None, "visual_cot": False, "system_prompt": "", "top_k": 0}, Decoding(max_new_tokens=99)),
        ({"repetition_penalty": 1.2}, Decoding(max_new_tokens=99, repetition_penalty=1.2)),
    ],
)
def test_options_are_honoured(options: dict[str, object], decoding: Decoding) -> None:
    assert asking(**options).decoding(99) == decoding


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_beams": 4}, "task: num_beams=4 is not supported"),
        ({"top_k": 1}, "task: top_k=1 is not supported; what is: max_new_tokens, until"),
        ({"visual_cot": True}, "task: visual_cot=True is not supported"),
        ({"max_new_tokens": 0}, "task: max_new_tokens=0: give 1 or more"),
        ({"temperature": -1}, "task: temperature=-1"),
        ({"temperature": 1.0, "top_p": 0}, "task: top_p=0"),
        ({"until": [""]}, "task: stop=('',)"),
        ({"until": 3}, "task: stop=(3,)"),
    ],
)
def test_options_that_are_not_supported_are_refused_by_name(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        asking(**options).decoding(99)
    assert words in str(caught.value)
