import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_batch.wording import LONGEST_SHOWN, duration, printable


@given(st.text())
def test_what_is_shown_is_printable_and_short(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text)) < LONGEST_SHOWN + 40


def test_what_is_harmless_is_shown_as_it_is() -> None:
    assert printable("s3://bucket/日本 'a' \\x1b.parquet") == "s3://bucket/日本 'a' \\x1b.parquet"


def test_control_characters_are_escaped_and_long_texts_are_cut() -> None:
    assert printable("a\x1b]0;title\x07\nb\u202e") == "a\\x1b]0;title\\x07\\nb\\u202e"
    assert printable("x" * 2048) == "x" * 300 + "... (2,048 characters)"
    assert printable("\udcff") == "\\udcff"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (45, "45 s"),
        (720, "12 min"),
        (11_100, "3 h 05 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
