"""Texts cut into requests: whatever the pieces they come in, nothing is lost, and nothing is held that has no end."""

import json
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_batch.errors import InputError
from star_batch.openai import lines as request_lines
from star_batch.openai.lines import MOST_BYTES, split_requests


def cut(text: bytes, size: int) -> Iterator[bytes]:
    return (text[start : start + size] for start in range(0, len(text), size))


def split(chunks: Iterable[bytes]) -> list[bytes]:
    return list(split_requests(chunks, "in.jsonl"))


STRINGS = st.text(st.sampled_from('"\\[]{},é\n a'), max_size=6)
VALUES = st.recursive(
    st.none() | st.integers() | STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.lists(st.dictionaries(STRINGS, VALUES, max_size=3), max_size=5)


@given(OBJECTS, st.integers(1, 20), st.sampled_from([None, 1]), st.booleans())
def test_an_array_is_its_elements(objects: list[object], size: int, indent: int | None, is_ascii: bool) -> None:
    text = json.dumps(objects, indent=indent, ensure_ascii=is_ascii).encode()
    assert [json.loads(part) for part in split(cut(b"\n " + text + b"\r\n", size))] == objects


@given(OBJECTS, st.integers(1, 20), st.sampled_from(["\n", "\r\n", "\n\n \n"]))
def test_lines_are_requests(objects: list[object], size: int, end: str) -> None:
    text = end.join(map(json.dumps, objects)).encode()
    assert [json.loads(part) for part in split(cut(text, size))] == objects


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"", []),
        (b"\n \r\n", []),
        (b"[1, 2]\n{}", [b"[1, 2]", b"{}"]),
        (b"[", [b"["]),
        (b"not JSON\n\0\0\n[", [b"not JSON", b"\0\0", b"["]),
        (b"{}\n\xef\xbb\xbf{}", [b"{}", b"{}"]),
        (b"[{}, 7, , null,]", [b"{}", b" 7", b" null"]),
        (b"[]", []),
    ],
)
def test_what_is_a_line_and_what_an_array(text: bytes, parts: list[bytes]) -> None:
    for size in (1, 2, 100):
        assert split(cut(text, size)) == parts


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'[{"a": 1}, {"b": 2}', "ends within request 2"),
        (b'[{"a": "b}, {}]', "ends within request 1"),
        (b'[{"a": 1}, {"b" 2}, {}]', "request 2: Expecting ':'"),
        (b"[{}] {}", "something stands behind its end"),
        (b"[{}]]", "something stands behind its end"),
    ],
)
def test_an_array_that_is_broken_is_refused_whole(text: bytes, said: str) -> None:
    for size in (1, 100):
        with pytest.raises(InputError, match=r"^in\.jsonl: is a JSON array that is broken or cut") as caught:
            split(cut(text, size))
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_array_may_hold_what_only_its_request_suffers_from() -> None:
    deep, huge = b"[" * 100_000 + b"]" * 100_000, b"9" * 10_000
    parts = [b'{"a": ' + deep + b"}", b'{"a": ' + huge + b"}", b'{"a": "\xff\t"}', b"{}"]
    assert split([b"[" + b",".join(parts) + b"]"]) == parts


@pytest.mark.parametrize("form", [b"%s\n{}", b"[%s,{}]"])
def test_of_a_request_that_is_too_long_only_the_beginning_is_held(form: bytes) -> None:
    long = b'{"a": "' + b"x" * (MOST_BYTES + 1000) + b'"}'
    first, second = split(cut(form % long, 2**20))
    assert (first, second) == (long[: MOST_BYTES + 1], b"{}")


def test_a_request_without_an_end_stops_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_lines, "_ENDLESS_BYTES", 10_000)
    read = 0

    def bomb() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 1000
            yield b"0" * 1000

    with pytest.raises(InputError, match="request 1 has more than 10,000 bytes and no end"):
        split(bomb())
    assert read == 11_000
