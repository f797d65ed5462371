"""Bytes as text, in every way that people write them."""

import base64
import textwrap
import tracemalloc
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_batch.data_uri import decode_base64, decode_data_uri, is_data_uri

DATA = bytes(range(256)) * 2
TEXT = base64.b64encode(DATA).decode()


@pytest.mark.parametrize(
    "uri",
    [
        f"data:image/png;base64,{TEXT}",
        f"DATA:image/png;BASE64,{TEXT}",
        f"data:;base64,{TEXT}",
        f"data:image/png;name=a.png;base64,{TEXT}",
        f"data:image/png; base64, {TEXT}",
        f"  data:image/png;base64,{TEXT}\n",
        f"data:image/png;base64,{TEXT.rstrip('=')}",
        "data:image/png;base64," + "\r\n".join(textwrap.wrap(TEXT, 76)),
        "data:image/png;base64," + TEXT.replace("+", "-").replace("/", "_"),
        "data:image/png;base64," + quote(TEXT, safe=""),
        "data:image/png," + quote(DATA),
        "data:," + quote(DATA),
    ],
)
def test_a_data_uri(uri: str) -> None:
    assert is_data_uri(uri)
    assert decode_data_uri(uri) == DATA


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("data:image/png;base64", "no data"),
        ("data:image/png;base64,****", "not valid base64"),
        ("data:image/png;base64,AAAAA", "not valid base64"),
        ("data:image/png;base64,AA=A", "not valid base64"),
        ("data:image/png;base64,\N{LATIN SMALL LETTER E WITH ACUTE}AAA", "not valid base64"),
        ("data:,\ud800", "no URI has"),
    ],
)
def test_a_broken_one_says_why_and_does_not_quote_itself(uri: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        decode_data_uri(uri)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("text", ["", "data", "database/a.png", "/data:x", "https://h/data:,x"])
def test_what_is_none(text: str) -> None:
    assert not is_data_uri(text)


@given(st.binary(), st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]), st.booleans())
def test_what_was_encoded_comes_back(data: bytes, encode: Callable[[bytes], bytes], is_padded: bool) -> None:
    text = encode(data).decode()
    assert decode_base64(text if is_padded else text.rstrip("=")) == data


def decoded(decode: Callable[[str], bytes], text: str) -> bytes | str:
    """The bytes, or what is said about the text."""
    try:
        return decode(text)
    except ValueError as error:
        return str(error)


@given(st.text())
def test_any_text_is_decoded_or_refused_in_words(text: str) -> None:
    for decode, prefix in ((decode_base64, ""), (decode_data_uri, "data:,"), (decode_data_uri, "data:;base64,")):
        found = decoded(decode, prefix + text)
        assert isinstance(found, bytes) or found.startswith("the data")


@pytest.mark.parametrize("shift", range(3))
def test_percent_encoding_is_decoded_in_pieces_that_cut_no_byte_in_two(shift: int) -> None:
    data = b"a" * shift + b"\xff" * 300_000
    tracemalloc.start()
    try:
        assert decode_data_uri("data:," + quote(data)) == data
        assert tracemalloc.get_traced_memory()[1] < 12_000_000  # 300,000 objects are more
    finally:
        tracemalloc.stop()
