"""The command line as a person meets it: help that teaches, mistakes in plain words, results at a glance."""

import io
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner

from star_batch import __version__, cli, pipeline, terminal
from star_batch.cli.exits import EXIT_CODES
from star_batch.commit.digests import digest_ids, joined
from star_batch.commit.finalise import Expected, finalise
from star_batch.commit.layout import begin
from star_batch.commit.snapshots import Epoch
from star_batch.config import FLAGS, Input, JobConfig, parse_config
from star_batch.demo.compare import KEEPS, Measured, held_out, settings
from star_batch.errors import InputError, Interrupted, OutputError, RecordError, StarBatchError
from star_batch.interruption import SENTENCE
from star_batch.metrics import ONE_QUESTION, Progress, Summary
from star_batch.pipeline.sink import commit_rows
from star_batch.pruning import Pruning
from star_batch.records import Answer, to_table
from star_batch.report.gallery import MAX_CARDS
from star_batch.storage.location import Location
from star_batch.wording import duration
from tests.pipeline.samples import rows, write
from tests.pipeline.test_sink import FINGERPRINT, opened

JOB = ["run", "--input", "in.parquet", "--output", "out", "--model", "demo", "--prompt", "What is it?"]

SUMMARY = Summary(
    rows=12_000_000,
    answered=11_999_000,
    failed=1000,
    failed_by_type={"image_unreadable": 600, "image_format_refused": 300, "prompt_too_long": 100},
    num_references=12_000_000,
    num_correct=9_000_000,
    accuracy=0.75,
    mean_visual_tokens=576.0,
    mean_kept_tokens=(216.0, 72.0),
    mean_layer_tokens=144.0,
    finish_reasons={"stop": 11_999_000},
    wall_seconds=40_000.0,
    images_per_second=299.975,
    input_tokens_per_second=71_234.5,
    output_tokens_per_second=1234.5,
    stage_seconds={"fetch": 9000.0, "decode_image": 8000.0, "vision": 70_000.0, "write": 0.01},
)


AT = Progress(rows_done=1200, rows_total=2000, failed=3, images_per_second=56.12, seconds_left=14.2)
STARTING = Progress(rows_done=0, rows_total=2000, failed=0, images_per_second=0.0, seconds_left=None)


class Pipeline:
    """Stands in for the job: remembers what it was called with."""

    def __init__(self) -> None:
        self.configs: list[JobConfig] = []
        self.verbose = False
        self.refusal: StarBatchError | None = None
        self.error: BaseException | None = None

    def run(self, config: JobConfig, *, on_progress: Callable[[Progress], None], verbose: bool) -> Summary:
        self.configs.append(config)
        self.verbose = verbose
        if self.refusal is not None:
            raise self.refusal
        on_progress(STARTING)
        on_progress(AT)
        if self.error is not None:
            raise self.error
        return SUMMARY


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    fake = Pipeline()
    monkeypatch.setattr(pipeline, "run", fake.run)
    return fake


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], prog_name="star-batch")


# --- help


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["plan", "-h"], ["report", "-h"], ["demo", "-h"], []]
)
def test_help_fits_80_columns_and_tells_the_exit_codes(arguments: list[str]) -> None:
    result = invoke(*arguments)
    text = result.stdout + result.stderr
    assert max(map(len, text.splitlines())) <= 80
    for kind, meaning in EXIT_CODES.items():
        assert f"{kind.exit_code:>3}  {meaning}" in text


def test_every_error_that_stops_a_job_has_its_exit_code_explained() -> None:
    assert {*EXIT_CODES, RecordError} == set(StarBatchError.__subclasses__())


def test_the_readme_has_the_same_exit_codes() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    listed = text.partition("**Exit codes:**")[2].partition("\n\n")[0]
    codes = [int(code) for code in re.findall(r"(?:^|, |,\n)\s*(\d+) ", listed)]
    assert codes == [0, 1, *sorted(kind.exit_code for kind in EXIT_CODES)]


def test_every_flag_of_the_configuration_is_an_option() -> None:
    text = invoke("run", "--help").stdout
    assert [flag for flag in FLAGS.values() if flag not in text] == []


def options(command: str) -> dict[str, bool]:
    """Names of a command's parameters, and whether its help is silent about them."""
    parameters = get_command(cli.app).commands[command].params  # type: ignore[attr-defined]
    return {str(parameter.name): getattr(parameter, "hidden", False) for parameter in parameters}


def test_plan_takes_every_option_of_run_and_lists_those_that_matter_to_it() -> None:
    taken, text = options("plan"), invoke("plan", "--help").stdout.partition("Exit codes:")[0]
    assert set(options("run")) <= set(taken)
    assert [name for name, is_hidden in options("run").items() if is_hidden] == []
    for flag in ("--overwrite", "--retry-failed", "--max-failed", "--pushgateway", "--ray-address", "--metrics-port"):
        assert flag not in text
    for flag in ("--input", "--prompt", "--keep", "--actors", "--max-new-tokens", "--limit", "--answer-tokens"):
        assert flag in text


def test_a_hidden_option_is_taken(tmp_path: Path) -> None:
    result = invoke("plan", *JOB[1:], "--overwrite", "--max-failed", "3", "--gpus", "0")
    assert "num_gpus=0" in result.stderr


def test_the_job_file_in_the_help_is_a_job() -> None:
    text = invoke("run", "--help").stdout
    block = re.search(r"job\.yaml:\n((?:    .*\n)+)", text)
    assert block is not None
    config = parse_config(yaml.safe_load(block.group(1).replace("\n    ", "\n").strip()))
    assert (config.model.name, config.input.prompt) == ("demo", "what does the picture show?")


def test_the_examples_in_the_help_are_accepted(job: Pipeline, tmp_path: Path) -> None:
    text = invoke("run", "--help").stdout.replace("\\\n", " ")
    commands = re.findall(r"^ +star-batch (run .*)$", text, re.MULTILINE)
    assert len(commands) == 2
    (tmp_path / "job.yaml").write_text("model: demo\ninput: {path: a, prompt: b}\noutput: c\n")
    for command in commands:
        arguments = [argument.strip("'") for argument in re.findall(r"'[^']*'|\S+", command)]
        given = [str(tmp_path / "job.yaml") if argument == "job.yaml" else argument for argument in arguments]
        assert invoke(*given).exit_code == 0
    assert job.configs[1].pruning == Pruning(method="star", keep=0.25)


def test_version() -> None:
    assert invoke("--version").stdout == f"star-batch {__version__}\n"


def test_a_mistyped_option_is_recognised() -> None:
    result = invoke("run", "--inptu", "x")
    assert (result.exit_code, "--input" in result.stderr) == (2, True)


# --- run


def test_flags_alone(job: Pipeline) -> None:
    assert invoke(*JOB).exit_code == 0
    assert job.configs[0].input.path == "in.parquet"
    assert job.configs[0].output.overwrite is False
    assert job.configs[0].pruning == Pruning()


def test_every_flag_arrives(job: Pipeline) -> None:
    flags = {
        "--revision": "abc",
        "--method": "star",
        "--keep": "0.25",
        "--id-column": "id",
        "--image-column": "photo",
        "--reference-column": "truth",
        "--max-new-tokens": "7",
        "--actors": "3",
        "--device": "cpu",
        "--dtype": "bfloat16",
        "--limit": "9",
        "--ray-address": "auto",
    }
    result = invoke(*JOB, *[text for pair in flags.items() for text in pair], "--overwrite", "--verbose")
    assert result.exit_code == 0, result.stderr
    config = job.configs[0]
    keys = {flag: key.split(".") for key, flag in FLAGS.items()}
    arrived = {flag: str(getattr(getattr(config, keys[flag][0]), keys[flag][1])) for flag in flags}
    assert arrived == flags
    assert (config.output.overwrite, job.verbose) == (True, True)


@pytest.mark.parametrize(("typed", "keep"), [("64", 64), ("0.25", 0.25), ("1.0", 1.0), ("1", 1)])
def test_keep_is_a_number_or_a_share_as_it_is_typed(job: Pipeline, typed: str, keep: float) -> None:
    assert invoke(*JOB, "--method", "star", "--keep", typed).exit_code == 0
    assert job.configs[0].pruning.keep == keep
    assert type(job.configs[0].pruning.keep) is type(keep)


def test_several_inputs(job: Pipeline) -> None:
    assert invoke(*JOB, "--input", "more.parquet").exit_code == 0
    assert job.configs[0].input.paths == ("in.parquet", "more.parquet")


def test_a_flag_overrides_the_file(job: Pipeline, tmp_path: Path) -> None:
    text = "model: a\ninput: {path: b, prompt: c, limit: 5}\noutput: {path: d, overwrite: true}\n"
    (tmp_path / "job.yaml").write_text(text)
    assert invoke("run", str(tmp_path / "job.yaml"), "--model", "demo").exit_code == 0
    config = job.configs[0]
    assert (config.model.name, config.input.limit, config.output.overwrite) == ("demo", 5, True)


# --- mistakes


@pytest.mark.parametrize("kind", EXIT_CODES)
def test_an_error_is_one_plain_line_and_an_exit_code(job: Pipeline, kind: type[StarBatchError]) -> None:
    job.error = kind("something [bold]is[/bold] wrong")
    result = invoke(*JOB)
    assert result.exit_code == kind.exit_code
    assert result.stderr.splitlines()[-1] == "star-batch: something [bold]is[/bold] wrong"
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_verbose_shows_the_traceback(job: Pipeline) -> None:
    job.error = InputError("wrong")
    result = invoke(*JOB, "--verbose")
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1] == "star-batch: wrong"


def test_ctrl_c_before_the_job_has_begun(job: Pipeline) -> None:
    job.error = KeyboardInterrupt()
    result = invoke(*JOB)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (130, f"star-batch: {SENTENCE}")
    assert Interrupted.exit_code == 130


def test_a_bug_keeps_its_traceback(job: Pipeline) -> None:
    job.error = ZeroDivisionError()
    assert isinstance(invoke(*JOB).exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "input.path (--input): is missing"),
        ([*JOB, "--method", "stars"], "pruning.method (--method): expected 'none', 'random'"),
        ([*JOB, "--method", "star"], "pruning.method='star' needs keep"),
        ([*JOB, "--keep", "many"], "'many' is neither a number (64) nor a share (0.25)"),
        ([*JOB, "--limit", "many"], "'--limit'"),
        (["run", "absent.yaml"], "absent.yaml: cannot be read: No such file or directory"),
        (["demo", "--method", "none", "--keep", "5"], "pruning.method='none' keeps every token"),
        (["demo", "--rows", "0"], "'--rows'"),
        (["demo", "--compare", "--dtype", "fp16"], "model.dtype (--dtype): expected 'auto'"),
    ],
)
def test_mistakes_are_said_in_plain_words(job: Pipeline, arguments: list[str], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert job.configs == []


# --- what is shown


def test_the_summary_fits_80_columns(job: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = invoke(*JOB).stdout
    assert max(map(len, text.splitlines())) <= 80
    for words in ("12,000,000", "75.0 %", "300.0", "image_unreadable 600", "216, then 72; 144.0 per layer"):
        assert words in " ".join(text.split())
    assert re.search(r"answers +out/answers\n", text)
    assert re.search(r"numbers +out/_metrics/summary\.json\n", text)
    assert "report" not in text
    (tmp_path / "out").mkdir()
    (tmp_path / "out/report.html").touch()
    assert re.search(r"report +out/report\.html\n", invoke(*JOB).stdout)


def test_long_paths_are_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_list("Written", [("answers", "s3://bucket/" + "a" * 200)])
    assert "a" * 200 in capsys.readouterr().out


def test_texts_from_outside_bring_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_list("Asked", [("what?", "\x1b[2Jred\r\n[bold]")])
    terminal.show_summary(replace(SUMMARY, labels={"\x1b[2J[red]": 5}))
    text = capsys.readouterr().out
    assert not {"\x1b", "\r"} & set(text)
    assert "[bold]" in text
    assert "[red]" in text


def test_few_labels_are_shown_beside_the_references(capsys: pytest.CaptureFixture[str]) -> None:
    few = {"red": {"red": 1200, "blue": 3}, "blue": {"blue": 7}}
    terminal.show_summary(replace(SUMMARY, agreement={"colour": 0.9975}, confusion={"colour": few}))
    text = capsys.readouterr().out
    assert re.search(r"agreement +99\.8 % +colour: labels that are the reference *\n", text)
    assert text.endswith(
        "\nRows by colour: reference (down) and label (across)\n"
        "      blue    red\n"
        "red      3  1,200\n"
        "blue     7      0\n"
    ), text
    many = {str(number): {str(number): 1} for number in range(1000)}
    terminal.show_summary(replace(SUMMARY, agreement={ONE_QUESTION: 1.0}, confusion={ONE_QUESTION: many}))
    assert "Rows by" not in capsys.readouterr().out


def test_a_summary_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_summary(Summary(rows=0, answered=0, failed=0))
    assert "None" not in capsys.readouterr().out


def test_quiet_says_nothing(job: Pipeline) -> None:
    result = invoke(*JOB, "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("command", [getattr(c.callback, "__name__", "") for c in cli.app.registered_commands])
def test_every_command_can_say_more_and_less(command: str) -> None:
    text = invoke(command, "--help").stdout
    assert re.search(r"-v, --verbose +Say more", text)
    assert re.search(r"-q, --quiet +Print ", text)


def test_a_refusal_comes_before_any_word_of_starting(job: Pipeline) -> None:
    """It used to say that Ray was starting, and then that the input is not there."""
    job.refusal = InputError("in.parquet: no such file")
    assert invoke(*JOB).stderr == "star-batch: in.parquet: no such file\n"
    job.refusal = None
    assert invoke(*JOB).stderr == "starting Ray and loading the model\n"


def test_progress_is_plain_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line every ten seconds, not one for every second of a job that takes a night."""
    clock = itertools.count(step=1)
    monkeypatch.setattr(terminal, "monotonic", lambda: float(next(clock)))
    terminal.set_up_logs()
    with terminal.live_progress() as on_progress:
        for _ in range(25):
            on_progress(STARTING)
        for second in range(25):
            on_progress(replace(AT, rows_done=second))
    lines = capsys.readouterr().err.splitlines()
    told = [f"{n} of 2,000 rows, 56.1 images/s, 3 failed, 14 s left" for n in (0, 10, 20)]
    assert lines == ["starting Ray and loading the model", *told]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal of 80 columns."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, force_interactive=True, width=80, markup=False)
    monkeypatch.setattr(terminal, "err", console)
    terminal.set_up_logs()
    return screen


def seen(screen: io.StringIO) -> list[str]:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    return [line for line in re.split(r"[\r\n]", text) if line.strip()]


def test_progress_is_one_live_line_on_a_terminal(screen: io.StringIO) -> None:
    with terminal.live_progress() as on_progress:
        on_progress(replace(AT, rows_done=12_000_000, rows_total=120_000_000, failed=123_456, images_per_second=1234.5))
    lines = seen(screen)
    assert max(map(len, lines)) <= 80
    assert any("12,000,000 of 120,000,000 rows, 1,234.5 images/s, 123,456 failed" in line for line in lines)


def test_on_a_terminal_the_job_is_checked_before_ray_starts(screen: io.StringIO) -> None:
    with pytest.raises(InputError), terminal.live_progress():
        raise InputError
    assert "checking the job" in seen(screen)[0]
    with terminal.live_progress() as on_progress:
        on_progress(STARTING)
    assert "starting Ray and loading the model" in seen(screen)[-1]


def test_quiet_shows_no_live_line(screen: io.StringIO) -> None:
    terminal.set_up_logs(quiet=True)
    with terminal.live_progress() as on_progress, terminal.working("drawing"):
        on_progress(AT)
    assert seen(screen) == []


# --- logs for machines


def logged(result: Any) -> list[dict[str, Any]]:
    """Every line is an object with the four fields that each has."""
    assert result.stdout == ""
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert all({"ts", "level", "message", "job"} <= set(line) for line in lines)
    assert all(datetime.fromisoformat(line["ts"]).tzinfo is not None for line in lines)
    return lines


def test_logs_are_one_object_per_line(job: Pipeline, tmp_path: Path) -> None:
    text = "model: demo\ninput: {path: b, prompt: c}\noutput: d\nmetrics: {job: nightly}\n"
    (tmp_path / "job.yaml").write_text(text)
    started, finished = logged(invoke("run", str(tmp_path / "job.yaml"), "--log-format", "json"))
    assert (started["level"], started["message"]) == ("INFO", "starting Ray and loading the model")
    assert (started["rows_done"], started["rows_total"]) == (0, 2000)
    assert (finished["message"], finished["job"]) == ("finished", "nightly")
    assert {key: finished[key] for key in SUMMARY.as_dict()} == SUMMARY.as_dict()


def test_an_error_is_an_object_too(job: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAR_BATCH_LOG_FORMAT", "json")
    job.error = InputError("wrong\nin two lines")
    result = invoke(*JOB, "--verbose")
    error = logged(result)[-1]
    assert (error["level"], error["message"]) == ("ERROR", "wrong\\nin two lines")
    assert (error["error"], error["exit_code"]) == ("InputError", result.exit_code)
    assert "Traceback" in error["exc_info"]


def test_a_job_that_cannot_be_read_is_an_object_without_a_name() -> None:
    [error] = logged(invoke("run", "absent.yaml", "--log-format", "json"))
    assert (error["job"], error["error"]) == (None, "ConfigError")


def test_a_bug_is_an_object_with_its_traceback(tmp_path: Path) -> None:
    code = "from star_batch.terminal import set_up_logs; set_up_logs('json'); 1 / 0"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    [line] = done.stderr.splitlines()
    assert done.returncode == 1
    assert "ZeroDivisionError" in json.loads(line)["exc_info"]


# --- completion


def completed(line: str, folder: Path) -> list[str]:
    """What bash offers after `line`."""
    asked = {"_STAR_BATCH_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    command = [sys.executable, "-c", "from star_batch.cli import main; main()"]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | asked, capture_output=True, text=True, timeout=100, check=False
    )
    return done.stdout.split()


def test_a_shell_offers_what_fits(tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", rows(2))
    assert completed("star-batch ver", tmp_path) == ["verify"]
    assert completed("star-batch run --method s", tmp_path) == ["stride", "star"]
    assert completed("star-batch run --log-format ", tmp_path) == ["text", "json"]
    assert completed("star-batch run --input in.parquet --prompt-column q", tmp_path) == ["question"]
    assert completed("star-batch run --input absent.parquet --prompt-column q", tmp_path) == []


def test_completion_can_be_installed(tmp_path: Path) -> None:
    # Told which shell it is: what a test runs under may have none.
    home = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [sys.executable, "-c", "from star_batch.cli import main; main()", "--install-completion", "bash"]
    done = subprocess.run(command, env=os.environ | home, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    script = "\n".join(file.read_text() for file in tmp_path.rglob("*.sh"))
    assert "_STAR_BATCH_COMPLETE=complete_bash" in script


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


# --- demo


def measured(pruning: Pruning, is_correct: list[bool]) -> Measured:
    return Measured(pruning=pruning, is_correct=tuple(is_correct), layer_tokens=36.0, seconds=2.0)


def test_what_is_measured() -> None:
    rng = np.random.default_rng(0)
    mine, theirs = rng.random(400) < 0.8, rng.random(400) < 0.6
    result, baseline = measured(Pruning(), mine.tolist()), measured(Pruning(), theirs.tolist())
    difference = mine.astype(float) - theirs
    assert result.accuracy == mine.mean()
    assert result.standard_error == pytest.approx(mine.std() / 20)
    assert result.gain_over(baseline) == pytest.approx((difference.mean(), difference.std() / 20))
    assert result.gain_over(result) == (0.0, 0.0)
    assert result.images_per_second == 200.0


def test_methods_are_compared_at_equal_keep() -> None:
    chosen = settings()
    assert chosen[0] == Pruning()
    assert len(set(chosen)) == len(chosen)
    for keep in KEEPS:
        methods = [(p.method, getattr(p, "early_scores", "encoder")) for p in chosen if p.keep == keep]
        assert {method for method, _ in methods} == {"random", "stride", "vispruner", "star"}
        assert ("star", "features") in methods


def test_compare_prints_a_line_per_method(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Any] = []

    def measure(pruning: Pruning, given: list[dict[str, Any]], **_: str) -> Measured:
        rows.append(given)
        return measured(pruning, [True] * 9 + [pruning.method == "none"])

    monkeypatch.setattr(cli.demo, "measure", measure)
    result = invoke("demo", "--compare", "--rows", "10", "--keep", "36", "--method", "star")
    assert result.exit_code == 0, result.stderr
    assert rows == [held_out(10)] * 3
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["none", "36.0", "100.0", "±", "0.0", "5.0"]
    assert lines[2].split() == ["star", "(encoder)", "36.0", "90.0", "±", "9.5", "5.0", "-10.0", "±", "9.5"]
    assert "1 of 3: none, keep all" in result.stderr


def test_compare_sets_budgets_that_follow_the_image_against_fixed_ones_of_the_same_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Pruning] = []

    def measure(pruning: Pruning, given: list[dict[str, Any]], **_: str) -> Measured:
        seen.append(pruning)
        result = measured(pruning, [True] * 9 + [pruning.keep_mass is not None])
        return replace(result, layer_tokens=35.7 if pruning.keep_mass else 36.0)

    monkeypatch.setattr(cli.demo, "measure", measure)
    result = invoke("demo", "--compare", "--rows", "10", "--keep-mass", "0.6")
    assert result.exit_code == 0, result.stderr
    methods = ("vispruner", "star")
    assert seen == [Pruning(method=m, **budget) for m in methods for budget in ({"keep_mass": 0.6}, {"keep": 36})]
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["vispruner,", "mass", "0.6", "35.7", "100.0", "±", "0.0", "5.0", "+10.0", "±", "9.5"]
    assert lines[2].split() == ["vispruner", "36.0", "90.0", "±", "9.5", "5.0"]


@pytest.mark.parametrize("more", [[], ["--compare", "--keep", "36"]])
def test_keep_mass_belongs_to_compare_and_takes_the_place_of_keep(more: list[str]) -> None:
    result = invoke("demo", "--keep-mass", "0.6", *more)
    assert result.exit_code == 2
    assert "--keep-mass goes with --compare, and without --keep" in result.stderr


def test_the_demo_asks_a_job_of_its_own_scenes(job: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.demo, "_samples", lambda answers: [("what is it?", "red")])
    result = invoke("demo", "--output", str(tmp_path), "--rows", "100")
    assert result.exit_code == 0, result.stderr
    assert "100 questions in" in result.stderr
    assert "2 of them broken on purpose" in result.stderr
    assert len(list((tmp_path / "input").glob("*.parquet"))) == 4
    assert job.configs[0].pruning == Pruning(method="star", keep=36)
    assert job.configs[0].input.reference_column == "answer"
    assert re.search(r"what is it\? +red", result.stdout)


def test_the_demo_that_is_interrupted_says_what_happens_next(job: Pipeline, tmp_path: Path) -> None:
    """It used to speak of `overwrite`, which nobody had typed: the demo itself sets it."""
    job.error = Interrupted("run the same command without overwrite")
    result = invoke("demo", "--output", str(tmp_path), "--rows", "4")
    said = "star-batch: interrupted; the same command begins the demo anew"
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (130, said)


def test_the_demo_without_pruning(job: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.demo, "_samples", lambda answers: [])
    assert invoke("demo", "--output", str(tmp_path), "--rows", "4", "--method", "none").exit_code == 0
    assert job.configs[0].pruning == Pruning()


def test_a_folder_that_cannot_be_written(job: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = invoke("demo", "--output", str(tmp_path / "file"), "--rows", "4")
    assert result.exit_code == OutputError.exit_code
    assert "cannot be written" in result.stderr


def star_batch(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The installed command in a process of its own."""
    command = [sys.executable, "-c", "from star_batch.cli import main; main()", *arguments]
    plain = os.environ | {"COLUMNS": "80", "TERM": "dumb"}
    return subprocess.run(command, cwd=folder, env=plain, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("options", "num_rows", "num_broken", "accuracy"),
    [(["--rows", "100"], 100, 2, 0.8), pytest.param([], 2000, 40, 0.9, marks=pytest.mark.faults)],
)
def test_the_demo_as_a_person_runs_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    num_rows: int,
    num_broken: int,
    accuracy: float,
) -> None:
    done = star_batch("demo", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert re.search(rf"^rows +{num_rows:,}\b", done.stdout, re.MULTILINE)
    assert re.search(rf"^failed +{num_broken}  ", done.stdout, re.MULTILINE)
    assert re.search(r"^accuracy +\d+\.\d %", done.stdout, re.MULTILINE)
    for name in ("answers", "_metrics/summary.json", "report.html"):
        assert f"star-batch-demo/output/{name}" in done.stdout
    assert "Asked and answered" in done.stdout
    saved = done.stdout.partition("What pruning saves")[2].splitlines()[1:3]
    assert re.fullmatch(r" *none, 144 tokens +[\d,]+ images/s by one engine alone *", saved[0])
    assert re.fullmatch(r" *star, 36 tokens +[\d,]+ images/s, \d+\.\d\d times as many *", saved[1])
    check_output(tmp_path / "star-batch-demo", num_rows, num_broken, accuracy)
    monkeypatch.chdir(tmp_path)
    assert invoke("verify", "star-batch-demo/output").exit_code == 0


def check_output(folder: Path, num_rows: int, num_broken: int, accuracy: float) -> None:
    """What any reader finds there: every question once, with an answer or with the reason why not."""
    output = folder / "output"
    found = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    numbered = r"(_commits/|_epochs/|_runs/|answers/|_metrics/sample-)[^.].*(\.\w+)$"
    found = {re.sub(numbered, r"\1*\2", name) for name in found}
    found = {name for name in found if not name.startswith("_lease")}
    assert found == {
        "answers/*.parquet",
        "_commits/*.json",
        "_epochs/*.parquet",
        "_runs/*.parquet",
        "_metrics/summary.json",
        "_metrics/throughput.parquet",
        "_metrics/metrics.prom",
        "_metrics/sample-*.parquet",
        "_run.json",
        "report.html",
        "_SUCCESS",
    }
    answers, asked = pq.read_table(output / "answers").to_pylist(), pq.read_table(folder / "input").to_pylist()
    assert sorted(row["id"] for row in answers) == sorted(row["id"] for row in asked)
    assert len(answers) == num_rows
    assert [row["answer"] is None for row in answers] == [row["error_type"] is not None for row in answers]
    assert sum(row["error"] is not None for row in answers) == num_broken
    assert sum(row["is_correct"] or False for row in answers) / num_rows > accuracy
    summary = json.loads((output / "_metrics" / "summary.json").read_text())
    assert (summary["rows"], summary["answered"], summary["failed"]) == (num_rows, num_rows - num_broken, num_broken)
    page = (output / "report.html").read_text()
    assert page.count("144 → 54 → 18 tokens") == MAX_CARDS
    assert len(page.encode()) < 1_500_000


@pytest.mark.timeout(240)
def test_compare_measures_the_real_engine(tmp_path: Path) -> None:
    done = star_batch("demo", "--compare", "--rows", "24", "--keep", "36", "--method", "star", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    tokens = [line.split("  ") for line in done.stdout.splitlines() if line.startswith(("none", "star"))]
    assert [[cell.strip() for cell in line if cell][1] for line in tokens] == ["144.0", "36.0", "36.0"]
    assert list(tmp_path.iterdir()) == []


# --- status, verify and report


@pytest.fixture
def half_done(tmp_path: Path) -> Epoch:
    """An output with two rows of three."""
    source = Input(path=str(write(tmp_path / "in.parquet", rows(3))), id_column="id", prompt_column="question")
    output = Location.of(str(tmp_path / "out"))
    begin(output, {"num_input_rows": 3, "config": {"input": source.model_dump(mode="json")}})
    epoch = opened(output)
    made = [Answer(id="row-0000", text="yes"), Answer(id="row-0001", error="bad", error_kind="image_missing")]
    commit_rows(epoch, to_table(made, model="m", fingerprint=FINGERPRINT.digest))
    return epoch


@pytest.fixture
def finished(half_done: Epoch, tmp_path: Path) -> Path:
    """The same with all of them, in a folder with its input."""
    commit_rows(half_done, to_table([Answer(id="row-0002", text="no")], model="m", fingerprint=FINGERPRINT.digest))
    ids = joined([digest_ids([f"row-000{n}" for n in range(3)])])
    expected = Expected(ids=ids, epoch=half_done.number, fingerprint=FINGERPRINT)
    finalise(half_done.output, expected, lambda: None)
    return tmp_path


def test_a_job_that_is_half_done(half_done: Epoch) -> None:
    out = half_done.output.path
    told = invoke("status", out)
    assert told.exit_code == 0, told.stderr
    assert re.search(r"done +2 +of 3 ", told.stdout)
    assert re.search(r"left +1 ", told.stdout)
    assert "stopped" in told.stdout
    found = invoke("verify", out)
    assert found.exit_code == 8
    assert "1 rows are missing; the job is not finished" in found.stderr


def test_an_output_that_keeps_the_promise(finished: Path) -> None:
    result = invoke("verify", str(finished / "out"))
    assert result.exit_code == 0, result.stderr
    assert re.search(r"rows +3 *\n *answered +2 *\n *failed +1", result.stdout)
    assert "each id of the input once" in result.stderr
    told = invoke("status", str(finished / "out"))
    assert "complete" in told.stdout
    assert "2 " in told.stdout


def test_a_report_is_drawn_of_what_there_is_where_one_wants_it(half_done: Epoch, tmp_path: Path) -> None:
    result = invoke("report", half_done.output.path, "--to", str(tmp_path / "page.html"))
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == str(tmp_path / "page.html")
    assert "1 of 2 rows answered, 1 failed" in (tmp_path / "page.html").read_text()
    assert not half_done.output.at("report.html").exists()
    assert invoke("report", half_done.output.path, "--quiet").stdout == ""
    assert half_done.output.at("report.html").read_bytes() == (tmp_path / "page.html").read_bytes()


def test_a_report_of_nothing_or_to_nowhere(half_done: Epoch, tmp_path: Path) -> None:
    assert "no job has begun there" in invoke("report", str(tmp_path / "nothing")).stderr
    (tmp_path / "file").touch()
    result = invoke("report", half_done.output.path, "--to", str(tmp_path / "file" / "page.html"))
    assert result.exit_code == OutputError.exit_code
    assert "cannot write the report" in result.stderr


def test_a_job_file_says_where_the_output_is(finished: Path) -> None:
    job = finished / "job.yaml"
    job.write_text(f"model: demo\ninput: {{path: a, prompt: b}}\noutput: {finished / 'out'}\n")
    assert invoke("verify", str(job)).exit_code == 0


def test_an_input_that_has_moved(finished: Path) -> None:
    (finished / "in.parquet").rename(finished / "moved.parquet")
    out = str(finished / "out")
    assert invoke("verify", out).exit_code == InputError.exit_code
    assert invoke("verify", out, "--input", str(finished / "moved.parquet")).exit_code == 0
    without = invoke("verify", out, "--no-input")
    assert without.exit_code == 0
    assert "without the input" in without.stderr


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda part: part.write_bytes(part.read_bytes()[:200]), "is damaged"),
        (lambda part: part.unlink(), "counts, and is not there"),
        (lambda part: (part.parent / "stray.parquet").write_bytes(b""), "1 files among the answers do not count"),
    ],
)
def test_an_output_that_breaks_the_promise(finished: Path, damage: Callable[[Path], Any], words: str) -> None:
    damage(sorted((finished / "out" / "answers").glob("*.parquet"))[0])
    result = invoke("verify", str(finished / "out"))
    assert result.exit_code == 8
    assert words in result.stderr


def test_where_nothing_is_there_is_nothing_to_tell(tmp_path: Path) -> None:
    for command in ("status", "verify"):
        arguments = [command, str(tmp_path / "out"), *(["--no-input"] if command == "verify" else [])]
        result = invoke(*arguments)
        assert (result.exit_code, "no job has begun there" in result.stderr) == (OutputError.exit_code, True)
