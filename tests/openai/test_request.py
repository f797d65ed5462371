"""Requests as people send them to the Batch API, and every way in which one is refused."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from star_batch.openai.lines import MOST_BYTES
from star_batch.openai.request import COLUMNS, to_row
from tests.pipeline.samples import png

URL = "https://images.example.org/a.png"
DATA = f"data:image/png;base64,{base64.b64encode(png(3)).decode()}"


def part(url: str = URL, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": "what is it?"}, *(parts or (part(),))]}


def request(**body: Any) -> dict[str, Any]:
    return {
        "custom_id": "request-1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "gpt-4o-mini", "messages": [user()], **body},
    }


def row(request: Any) -> dict[str, Any]:
    """The row as it comes back from a table: what a table refuses would stop a job."""
    line = request if isinstance(request, bytes) else json.dumps(request).encode()
    [found] = pa.Table.from_pylist([to_row(line)], schema=COLUMNS).to_pylist()
    return dict(found)


def test_a_request_with_a_url() -> None:
    found = row(request(max_tokens=300))
    assert found["image"] == {"bytes": None, "path": URL}
    assert (found["custom_id"], found["prompt"], found["refused"]) == ("request-1", "what is it?", None)
    nothing = {"temperature": None, "top_p": None, "seed": None, "stop": None}
    assert found["decoding"] == {"max_new_tokens": 300, **nothing}


def test_a_request_with_an_image_in_it() -> None:
    assert row(request(messages=[user(part(DATA, detail="low"))]))["image"] == {"bytes": png(3), "path": None}


def test_what_a_request_says_about_decoding() -> None:
    found = row(request(max_tokens=3, max_completion_tokens=9, temperature=1, top_p=0.5, seed=-1, stop="."))
    assert found["decoding"] == {
        "max_new_tokens": 9,
        "temperature": 1.0,
        "top_p": 0.5,
        "seed": 2**63 - 1,
        "stop": ["."],
    }


def test_words_of_the_system_go_first() -> None:
    messages = [user(), {"role": "system", "content": "Answer in French."}]
    assert row(request(messages=messages))["prompt"] == "Answer in French.\nwhat is it?"


def test_what_asks_for_nothing_is_let_through() -> None:
    idle = {"n": 1, "stream": False, "logprobs": False, "frequency_penalty": 0, "response_format": {"type": "text"}}
    assert row(request(**idle, tools=[], user="u", metadata={"a": "b"}, store=True, stop=None))["refused"] is None


def test_null_asks_for_nothing_wherever_it_stands() -> None:
    names = (
        "tools",
        "response_format",
        "n",
        "stop",
        "logprobs",
        "audio",
        "reasoning_effort",
        "prediction",
        "web_search",
    )
    asked = user(part(detail=None)) | {"name": None, "tool_calls": None}
    nothing = dict.fromkeys(names)
    assert row(request(messages=[asked], **nothing))["refused"] is None
    assert row(request(**nothing) | {"extra": None})["refused"] is None
    assert row(request(messages=None))["refused"] == "body.messages: Field required"


def test_defaults_that_are_written_out_ask_for_nothing() -> None:
    tools = {"tools": [], "functions": [], "tool_choice": "none", "function_call": "auto", "parallel_tool_calls": True}
    others = {"logit_bias": {}, "presence_penalty": 0, "top_logprobs": 0, "modalities": ["text"]}
    assert row(request(**tools, **others))["refused"] is None
    assert "body.modalities" in row(request(modalities=["text", "audio"]))["refused"]


@pytest.mark.parametrize("change", [lambda t: t.rstrip("="), lambda t: f"{t[:40]}\r\n{t[40:]}\n", lambda t: f" {t}"])
def test_data_uris_as_people_write_them(change: Callable[[str], str]) -> None:
    assert row(request(messages=[user(part(change(DATA)))]))["image"] == {"bytes": png(3), "path": None}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"n": 2}, "body.n: Input should be 1"),
        ({"stream": True}, "body.stream: Input should be False"),
        ({"tools": [{"type": "function"}]}, "body.tools"),
        ({"response_format": {"type": "json_object"}}, "body.response_format.type: Input should be 'text'"),
        ({"presence_penalty": 0.5}, "body.presence_penalty"),
        ({"reasoning_effort": "low"}, "body.reasoning_effort: not supported"),
        ({"temperature": 2.5}, "body.temperature"),
        ({"max_tokens": 0}, "body.max_tokens"),
        ({"max_tokens": 10**30}, "body.max_tokens"),
        ({"max_tokens": "many"}, "body.max_tokens"),
        ({"seed": 2**64}, "body.seed"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "body.stop"),
        ({"messages": []}, "body: give one message of the user"),
        ({"messages": [user(), user()]}, "body: give one message of the user"),
        ({"messages": [user(), {"role": "assistant", "content": "a cat"}]}, "'assistant'"),
        ({"messages": [user(part(), part())]}, "body: 2 images; give one image_url"),
        ({"messages": [{"role": "user", "content": "what is it?"}]}, "body: 0 images; give one image_url"),
        ({"messages": [user({"type": "input_audio"})]}, "'input_audio'"),
        ({"messages": [user(part("photo.png"))]}, "neither a URL nor a data URI"),
        ({"messages": [user(part("data:image/png;base64,???"))]}, "not valid base64"),
        ({"messages": [user(part("data:image/png;base64"))]}, "no data"),
        ({"x" * 10_000: 1}, "xxx... (10,005 characters): not supported"),
        ({"messages": [{"role": "\x1b[31m" + "x" * 10_000}]}, "\\x1b[31m"),
        ({"user": [0] * 600_000}, "far too many values"),
        ({"max_tokens": float("nan")}, "body.max_tokens"),
    ],
)
def test_what_is_refused_and_why(changed: dict[str, Any], reason: str) -> None:
    found = row(request(**changed))
    assert reason in found["refused"]
    assert found["custom_id"] == "request-1"
    assert found["image"] is None


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"", None),
        (b"not JSON", None),
        (b"[1, 2]", None),
        (b"{}", None),
        (b'{"custom_id": 7}', None),
        (b'{"custom_id": "\\ud800"}', None),
        (b'{"custom_id": ""}', None),
        (b'{"custom_id": "a", "method": "GET"}', "a"),
        (json.dumps(request() | {"url": "/v1/embeddings"}).encode(), "request-1"),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        # What is wrong elsewhere in a line does not take its name away.
        (b'\xef\xbb\xbf{"custom_id": "a"}', None),
        (b'{"custom_id": "a", "body": "\xe9"}', "a"),
        (b'{"custom_id": "a", "body": "\\ud800"}', "a"),
        (b'{"custom_id": "a"} and more', "a"),
        (b'\t{ "custom_id" : "a\\u0041", "body": {"mess', "aA"),
        (b'{"custom_id": "a", "body": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "a"),
        (b'{"custom_id": "a", "body": ' + b"9" * 10_000 + b"}", "a"),
        (b'{"custom_id": "a", "body": "\0"}', "a"),
        (b'{"custom_id": "a", "body": "' + b"x" * MOST_BYTES + b'"}', "a"),
        (b'{"custom_id": "a' + b"x" * 1_000_000 + b'"}', None),
        (b'{"custom_id": "\xff"}', None),
        (b"\0\0\0", None),
    ],
)
def test_a_line_that_is_no_request_is_a_row_all_the_same(line: bytes, name: str | None) -> None:
    found = row(line)
    assert found["refused"]
    assert found["custom_id"] == name


def test_what_stands_twice_is_refused() -> None:
    for text, key in ((b'"max_tokens": 1, "max_tokens": 2', "max_tokens"), (b'"user": {"a\\n": 1, "a\\n": 1}', "a\\n")):
        line = json.dumps(request()).encode().replace(b'"model"', text + b', "model"')
        assert (row(line)["refused"], row(line)["custom_id"]) == (f"{key}: stands twice in one object", "request-1")


def test_no_reason_is_long_or_holds_a_line_break() -> None:
    bad = {"custom_id": "x" * 1_000_000, "method": "\n" * 10_000, "url": "\x1b" * 10_000, "body": {"\n" * 10_000: 1}}
    for name, value in bad.items():
        reason = row(request() | {name: value})["refused"]
        assert len(reason) < 1000
        assert reason.isprintable()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from(["messages", "max_tokens", "temperature", "seed", "stop", "n", "user"]), JSON))
def test_no_body_whatever_is_more_than_a_row(body: dict[str, Any]) -> None:
    found = row(request(**body))
    assert (found["refused"] is None) == (found["image"] is not None)
