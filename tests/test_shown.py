"""What a person sees of texts from outside: all of it, on one line, and nothing that a terminal would obey."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from star_batch import cli
from star_batch.cli import messages, screen
from star_batch.cli.summary import show_summary
from star_batch.errors import LONGEST_REASON, ConfigError, ImageFetchFailed, StarBatchError
from star_batch.metrics import Summary
from star_batch.records import Answer
from star_batch.wording import LONGEST_LINE, LONGEST_SHOWN
from tests.report.samples import summary

FORGED = "star-batch: complete"
HOSTILE = f"\x1b[31mred\x1b]0;title\x07\r\n{FORGED}\x9b2J\u2028\u202etxt [bold]:smile:"
LONG = HOSTILE + "x" * 1_000_000


def is_harmless(text: str) -> bool:
    """No line of it is forged or too long, and none holds anything but what can be printed."""
    lines = text.split("\n")
    return (
        all(line.isprintable() and len(line) < LONGEST_LINE + 100 for line in lines)
        and not any(line.startswith(FORGED) for line in lines)
        and len(text) < 20_000
    )


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen.out, "_width", 300)
    monkeypatch.setattr(screen.err, "_width", 300)


@pytest.fixture
def logs() -> Any:
    handlers, level, hook = messages.logger.handlers, messages.logger.level, sys.excepthook
    yield messages.set_up_logs
    messages.logger.handlers, messages.logger.level, sys.excepthook = handlers, level, hook


@pytest.mark.parametrize("text", [HOSTILE, LONG, "\udcff"], ids=ascii)
def test_whatever_shows_results_shows_it_escaped(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    screen.show_line(text)
    screen.show_list(text, [(text, text)])
    screen.show_numbers([(text, text, text)])
    screen.show_table([text, "b"], [[text, text]])
    show_summary(hostile_summary(text))
    shown = capsys.readouterr().out
    assert is_harmless(shown)
    assert text == "\udcff" or shown.count("\\x1b]0;title\\x07\\r\\n") > 5
    assert text == "\udcff" or "[bold]:smile:" in shown


def hostile_summary(text: str) -> Summary:
    confusion = {text: {text: {text: 3}}}
    return replace(summary(), labels={text: 1}, failed_by_type={text: 1}, agreement={text: 0.5}, confusion=confusion)


@pytest.mark.parametrize("text", [HOSTILE, LONG, "%s %d", "\udcff"], ids=ascii)
@pytest.mark.parametrize("verbose", [False, True])
def test_an_error_is_as_many_lines_as_it_was_made_of(
    text: str, verbose: bool, capsys: pytest.CaptureFixture[str], logs: Any
) -> None:
    logs("text")
    try:
        raise ConfigError(f"{text}:", f"  key: {text}")
    except ConfigError as error:
        messages.show_error(error, 2, verbose=verbose)
    shown = capsys.readouterr().err
    assert is_harmless(shown)
    assert verbose or shown.count("\n") == 2


@pytest.mark.parametrize("text", [HOSTILE, LONG, "%s", "\udcff"], ids=ascii)
def test_a_log_record_is_one_line(text: str, capsys: pytest.CaptureFixture[str], logs: Any) -> None:
    logs("text")
    logging.getLogger("star_batch.x").warning("row %s was lost", text)
    assert capsys.readouterr().err.count("\n") == 1
    try:
        raise ValueError(text)
    except ValueError:
        logging.getLogger("star_batch.x").exception("row %s", text)
    shown = capsys.readouterr().err
    assert is_harmless(shown)
    assert "\n  Traceback" in shown


@pytest.mark.parametrize("text", [HOSTILE, "\udcff", "\U000e0001", "\u3000日本"])
def test_a_json_record_is_one_line_of_json(text: str, capsys: pytest.CaptureFixture[str], logs: Any) -> None:
    logs("json", job=text)
    logging.getLogger("star_batch.x").warning("row %s", text, extra={"labels": {text: 1}})
    written = capsys.readouterr().err
    assert written.removesuffix("\n").isprintable()
    record = json.loads(written)
    assert record["message"].isprintable()
    assert (record["labels"], record["job"]) == ({text: 1}, text)


def test_a_bug_quotes_nothing_raw(capsys: pytest.CaptureFixture[str], logs: Any) -> None:
    logs("text")
    error = KeyError(ValueError(HOSTILE))
    sys.excepthook(KeyError, error, None)
    assert is_harmless(capsys.readouterr().err)


@given(st.text(max_size=3000))
def test_what_is_written_as_a_rows_error_is_one_line_of_bounded_length(text: str) -> None:
    written = Answer.failed("a", ImageFetchFailed(f"{text}: not found")).error
    assert written is not None
    assert written.isprintable()
    assert len(written) < LONGEST_REASON + 40


def test_an_error_survives_its_way_between_processes() -> None:
    import pickle

    for error in (ImageFetchFailed(LONG), ConfigError("a:", "  b: c"), StarBatchError("x")):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(ConfigError("a:", "  b: c")) == "a:\n  b: c"


def typed(*arguments: str, **environment: str) -> Any:
    return CliRunner().invoke(cli.app, list(arguments), prog_name="star-batch", env=environment)


MISTYPED = [
    (HOSTILE,),
    (f"--{HOSTILE}",),
    ("run", f"--{LONG}"),
    ("run", "--limit", HOSTILE),
    ("run", "--keep", LONG),
    ("run", "--log-format", HOSTILE),
    ("run", "a.yaml", HOSTILE),
    ("run", HOSTILE),
    ("run", f"/{HOSTILE}.yaml"),
    ("status", f"/nowhere/{HOSTILE}.yaml"),
    ("run", "--input", "a", "--output", "b", "--model", "demo", "--prompt", "{" + HOSTILE + "!}"),
    ("run", "--input", "a", "--output", "b", "--model", "demo", "--prompt", "a", "--kind", LONG),
    ("plan", "--input", "a", "--output", "b", "--model", "demo", "--prompt", "a", "--gpu", LONG),
]


@pytest.mark.parametrize("arguments", MISTYPED)
def test_what_is_mistyped_is_quoted_escaped_and_short(arguments: tuple[str, ...]) -> None:
    result = typed(*arguments)
    assert result.exit_code == 2
    assert is_harmless(result.stderr)
    assert len(result.stderr) < 3 * LONGEST_SHOWN


def test_so_is_what_stands_in_the_environment() -> None:
    result = typed("run", "--input", "a", STAR_BATCH_LOG_FORMAT=HOSTILE)
    assert result.exit_code == 2
    assert is_harmless(result.stderr)
    job = ("run", "--input", "a", "--output", "b", "--model", "demo", "--prompt", "a")
    result = typed(*job, STAR_BATCH_PUSHGATEWAY=HOSTILE)
    assert result.exit_code == 2
    assert is_harmless(result.stderr)


@pytest.mark.parametrize("key", ["input", HOSTILE])
def test_keys_and_values_of_a_jobs_file_are_quoted_escaped_and_short(key: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    questions = {HOSTILE + "#": {"prompt": "a", HOSTILE: 1}}
    values = {key: {"path": 7, HOSTILE: LONG[:10_000], "questions": questions, "kind": HOSTILE}, "model": [HOSTILE]}
    file.write_text(json.dumps(values), encoding="utf-8")
    result = typed("run", str(file))
    assert result.exit_code == 2
    assert is_harmless(result.stderr)
    assert "\\x1b]0;title" in result.stderr


def test_very_many_mistakes_are_counted(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("".join(f"key{n}: 1\n" for n in range(5000)))
    result = typed("run", str(tmp_path / "job.yaml"))
    assert result.stderr.count("\n") < 30
    assert "  and 4,983 more" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--log-format", "json", "--limti", "3"], "No such option: --limti"),
        (["run", "--limit", "x", "--log-format=json"], "--limit"),
        (["--log-format=json", "run"], "--log-format"),
        (["plan", "--log-format", "json", "--gpus"], "--gpus"),
        (["run", "--log-format", "json", HOSTILE, HOSTILE], "\\x1b]0;title"),
    ],
)
def test_what_is_mistyped_is_json_where_json_was_asked_for(arguments: list[str], words: str) -> None:
    result = typed(*arguments)
    record = json.loads(result.stderr)
    assert (result.exit_code, record["exit_code"], record["level"]) == (2, 2, "ERROR")
    assert words in record["message"]
    assert not result.stdout


def test_it_is_json_where_the_environment_asks_and_no_option_says_otherwise() -> None:
    asked = {"STAR_BATCH_LOG_FORMAT": "json"}
    assert json.loads(typed("rnu", **asked).stderr)["exit_code"] == 2
    assert typed("run", "--log-format", "text", "--limti", **asked).stderr.startswith("Usage: ")
    assert typed("run", "--limti", "--log-format").stderr.startswith("Usage: ")


def test_the_help_keeps_its_lines() -> None:
    assert typed().stderr.count("\n") > 20


def as_typed(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from star_batch.cli import main; main()", *arguments]
    env = os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)


@pytest.mark.faults
def test_as_a_person_types_it() -> None:
    done = as_typed("run", f"--{HOSTILE}")
    assert done.returncode == 2
    assert is_harmless(done.stderr)
    done = as_typed("run", "--limti", STAR_BATCH_LOG_FORMAT="json")
    assert (done.returncode, json.loads(done.stderr)["exit_code"]) == (2, 2)
