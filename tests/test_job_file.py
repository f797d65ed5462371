"""Files that claim to be a job: refused in a line, in a second, whatever they would become."""

import runpy
import string
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from star_batch import job_file
from star_batch.errors import ConfigError
from star_batch.job_file import MAX_BYTES, read_yaml

LETTERS = string.ascii_lowercase
ROWS = list(pairwise(LETTERS))
LAUGHS = "a: &a [x, x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in ROWS)
MERGED = "a: &a {x: 1}\n" + "".join(f"{b}: &{b} {{<<: [*{a}, *{a}, *{a}]}}\n" for a, b in ROWS)
REPEATED = "a: &a " + "x" * 100_000 + "\nb: [" + ", ".join(["*a"] * 1000) + "]"

REFUSED = {
    "aliases that multiply": (
        LAUGHS,
        "line 5: more than 1,048,576 bytes from here on, with what its aliases stand for",
    ),
    "merged sections that multiply": (MERGED, "with what its aliases stand for"),
    "a long text many times": (REPEATED, "line 2: more than 1,048,576 bytes"),
    "itself": ("a: &a [*a]", "line 1: an alias stands within what it means"),
    "itself as the whole": ("&a [*a]", "an alias stands within what it means"),
    "deep lists": ("a: " + "[" * 500_000, "line 1: "),
    "deep sections": ("\n".join(" " * n + "a:" for n in range(1000)), "line 16: more than 16 levels"),
    "deep dashes": ("- " * 400_000, "line 1: more than 16 levels"),
    "very many values": ("- a\n" * 260_000, "more than 1,048,576 bytes"),
    "a number of a million digits": ("a: " + "9" * 1_000_000, "line 1: a number of 1,000,000 characters"),
    "a number of a million places": ("a: 0." + "9" * 1_000_000, "line 1: a number of 1,000,002 characters"),
    "a number in sixties": ("a: 1" + ":1" * 400_000, "line 1: a number of 800,001 characters"),
    "a number above 64 bits": ("a: 9223372036854775808", "line 1: a number of more than 64 bits"),
    "no number": ("a: 0x_", "line 1: the value is no number; put it in quotes"),
    "no float": ("x: 1\na: !!float abc", "line 2: the value is no number; put it in quotes"),
    "a float of nothing": ('a: !!float ""', "line 1: the value is no number"),
    "a float in hexadecimal": ("a: !!float 0x10", "line 1: the value is no number"),
    "an integer of nothing": ('a: !!int ""', "line 1: the value is no number"),
    "an integer's sign": ('a: !!int "-"', "line 1: the value is no number"),
    "neither yes nor no": ("a: !!bool maybe", "line 1: the value is no yes or no"),
    "NUL": ("a: \0", "is not YAML"),
    "an escape sequence": ("a: \x1b]0;x", "is not YAML"),
    "an object of Python": ("a: !!python/object/apply:os.system [x]", "has no meaning here"),
    "a tag with a control character": ('a: !<\\x1b> "x"', "line 1: "),
    "bytes": ("a: !!binary aaaa", "has no meaning here"),
    "a number as a key": ("1: a", "line 1: a key that is no text; put it in quotes"),
    "a truth as a key": ("input:\n  questions:\n    yes: is it?", "line 3: a key that is no text"),
    "a section as a key": ("? {a: b}\n: c", "line 1: a key that is no text"),
    "a key twice": ("a: 1\nb: 2\na: 3", "line 3: a is given twice"),
    "a tab": ("a:\n\tb: 1", "line 2: found character that cannot start any token"),
    "two documents": ("a: 1\n---\nb: 2", "line 2: but found another document"),
    "an alias of nothing": ("a: *b", "line 1: found undefined alias"),
    "too much": ("#" * (MAX_BYTES + 1), "is larger than 1,048,576 bytes"),
    "nothing": ("", "expected sections"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_soon_and_cheaply(name: str, tmp_path: Path) -> None:
    text, message = REFUSED[name]
    file = tmp_path / "job.yaml"
    file.write_text(text, encoding="utf-8")
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(ConfigError) as caught:
            read_yaml(file)
        seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert seconds < 6.0  # tracing itself takes most of it
    assert peak < 60e6


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(ConfigError, match="is larger than"):
        read_yaml(Path("/dev/zero"))


def test_no_text_at_all(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(bytes(range(128, 256)))
    with pytest.raises(ConfigError, match="is not text in UTF-8"):
        read_yaml(tmp_path / "job.yaml")


@pytest.mark.parametrize("libyaml", [True, False])
def test_what_people_write_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, libyaml: bool) -> None:
    monkeypatch.setattr(yaml, "__with_libyaml__", libyaml and yaml.__with_libyaml__)
    read_yaml = runpy.run_path(job_file.__file__)["read_yaml"]
    text = (
        "\ufeffa: &a {x: 1, y: 0x10}\nb: {<<: *a, x: 3}\nc: [*a, *a]\nd: 2026-99-99\ne: -9223372036854775808\nf: 1_000"
    )
    (tmp_path / "job.yaml").write_text(text, encoding="utf-8")
    shared = {"x": 1, "y": 16}
    assert read_yaml(tmp_path / "job.yaml") == {
        "a": shared,
        "b": {"x": 3, "y": 16},
        "c": [shared, shared],
        "d": "2026-99-99",
        "e": -(2**63),
        "f": 1000,
    }
