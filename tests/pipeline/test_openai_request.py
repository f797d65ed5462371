"""Requests as people send them to the Batch API, and every way in which one is refused."""

import base64
import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from star_batch.pipeline.openai_request import COLUMNS, to_row
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
    ],
)
def test_a_line_that_is_no_request_is_a_row_all_the_same(line: bytes, name: str | None) -> None:
    found = row(line)
    assert found["refused"]
    assert found["custom_id"] == name


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
