"""The numbers of a job at a glance."""

import re
from dataclasses import replace

import pytest

from star_batch.cli import screen
from star_batch.cli.summary import show_summary
from star_batch.metrics import ONE_QUESTION, Summary
from tests.cli.jobs import SUMMARY


def test_long_paths_are_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    screen.show_list("Written", [("answers", "s3://bucket/" + "a" * 200)])
    assert "a" * 200 in capsys.readouterr().out


def test_texts_from_outside_bring_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    screen.show_list("Asked", [("what?", "\x1b[2Jred\r\n[bold]")])
    show_summary(replace(SUMMARY, labels={"\x1b[2J[red]": 5}))
    text = capsys.readouterr().out
    assert not {"\x1b", "\r"} & set(text)
    assert "[bold]" in text
    assert "[red]" in text


def test_few_labels_are_shown_beside_the_references(capsys: pytest.CaptureFixture[str]) -> None:
    few = {"red": {"red": 1200, "blue": 3}, "blue": {"blue": 7}}
    show_summary(replace(SUMMARY, agreement={"colour": 0.9975}, confusion={"colour": few}))
    text = capsys.readouterr().out
    assert re.search(r"agreement +99\.8 % +colour: labels that are the reference *\n", text)
    assert text.endswith(
        "\nRows by colour: reference (down) and label (across)\n"
        "      blue    red\n"
        "red      3  1,200\n"
        "blue     7      0\n"
    ), text
    many = {str(number): {str(number): 1} for number in range(1000)}
    show_summary(replace(SUMMARY, agreement={ONE_QUESTION: 1.0}, confusion={ONE_QUESTION: many}))
    assert "Rows by" not in capsys.readouterr().out


def test_a_summary_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show_summary(Summary(rows=0, answered=0, failed=0))
    assert "None" not in capsys.readouterr().out
