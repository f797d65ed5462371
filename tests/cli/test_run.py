"""`run` as it is typed: what arrives at the job, and what is said of it."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from star_batch.config import FLAGS, FORMER_FLAGS, parse_config
from star_batch.config.settings import read_settings
from star_batch.errors import InputError
from star_batch.pruning import Pruning
from tests.cli.jobs import JOB, Pipeline, invoke


def test_every_flag_of_the_configuration_is_an_option() -> None:
    text = invoke("run", "--help").stdout
    assert [flag for flag in FLAGS.values() if flag not in text] == []


def test_the_job_file_in_the_help_is_a_job() -> None:
    text = invoke("run", "--help").stdout
    block = re.search(r"job\.yaml:\n((?:    .*\n)+)", text)
    assert block is not None
    config = parse_config(yaml.safe_load(block.group(1).replace("\n    ", "\n").strip()))
    assert (config.model.name, config.input.prompt) == ("demo", "what does the picture show?")


def test_the_examples_in_the_help_are_accepted(job: Pipeline, tmp_path: Path) -> None:
    text = invoke("run", "--help").stdout.replace("\\\n", " ")
    commands = re.findall(r"^ +star-batch (run .*)$", text, re.MULTILINE)
    assert len(commands) == 4
    (tmp_path / "job.yaml").write_text("model: demo\ninput: {path: a, prompt: b}\noutput: c\n")
    for command in commands:
        arguments = shlex.split(command)
        given = [str(tmp_path / "job.yaml") if argument == "job.yaml" else argument for argument in arguments]
        assert invoke(*given).exit_code == 0
    assert job.configs[1].pruning == Pruning(method="star", keep=0.25)
    assert (job.configs[2].input.choices, job.configs[2].input.keep_columns) == (("cat", "dog", "other"), ("url",))
    assert (job.configs[3].faults.max_failed, job.configs[3].input.keep_columns) == (0.05, ("label", "url"))


def test_flags_alone(job: Pipeline) -> None:
    assert invoke(*JOB).exit_code == 0
    assert job.configs[0].input.path == "in.parquet"
    assert job.configs[0].output.overwrite is False
    assert job.configs[0].pruning == Pruning()


def test_every_flag_arrives(job: Pipeline) -> None:
    flags = {
        "--method": "star",
        "--keep": "0.25",
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


def test_quiet_says_nothing(job: Pipeline) -> None:
    result = invoke(*JOB, "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_a_refusal_comes_before_any_word_of_starting(job: Pipeline) -> None:
    """It used to say that Ray was starting, and then that the input is not there."""
    job.refusal = InputError("in.parquet: no such file")
    assert invoke(*JOB).stderr == "star-batch: in.parquet: no such file\n"
    job.refusal = None
    assert invoke(*JOB).stderr == "starting Ray and loading the model\n"


def test_what_has_no_flag_goes_by_set(job: Pipeline) -> None:
    typed = ["input.id_column=id", "faults.max_failed=0.05", "input.keep_columns=[a, b]", "model.revision=null"]
    result = invoke(*JOB, *[text for each in typed for text in ("--set", each)])
    assert result.exit_code == 0, result.stderr
    [config] = job.configs
    assert (config.input.id_column, config.input.keep_columns, config.model.revision) == ("id", ("a", "b"), None)
    assert (config.faults.max_failed, config.input.prompt) == (0.05, "What is it?")


def test_a_flag_overrides_set_and_set_the_file(job: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("model: a\ninput: {path: b, prompt: c, limit: 1}\noutput: {path: d}\n")
    settings = ["--set", "input.limit=2", "--set", "model.name=e"]
    assert invoke("run", str(tmp_path / "job.yaml"), *settings, "--model", "demo").exit_code == 0
    assert (job.configs[0].input.limit, job.configs[0].model.name) == (2, "demo")


def test_a_wrong_set_is_one_plain_message(job: Pipeline) -> None:
    result = invoke(*JOB, "--set", "faults.max_faild=5")
    assert (result.exit_code, job.configs) == (2, [])
    assert "faults.max_faild (--set): unknown key; did you mean max_failed?" in result.stderr
    result = invoke(*JOB, "--set", "output.storage_options.secret:planted")
    assert (result.exit_code, "planted" in result.stderr) == (2, False)


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_flag_that_is_gone_says_what_to_write(job: Pipeline, command: str) -> None:
    for flag, key in FORMER_FLAGS.items():
        result = invoke(command, *JOB[1:], flag, "5")
        assert result.exit_code == 2
        assert f"Error: {flag} 5: write --set " in result.stderr
        option, setting = shlex.split(result.stderr.partition(": write ")[2])
        is_number = key in ("faults.max_failed", "metrics.port")
        assert (option, read_settings([setting])) == ("--set", {key: 5 if is_number else "5"})


def test_all_flags_that_are_gone_are_said_at_once() -> None:
    result = invoke(*JOB, "--id-column=id", "--image-column", "my photo", "--log-format", "json")
    message = json.loads(result.stderr)["message"]
    told = "--set input.id_column=id --set 'input.image_column=my photo'"
    assert message == f"--id-column=id --image-column my photo: write {told}"


def test_a_mistyped_flag_beside_one_that_is_gone_is_what_is_named() -> None:
    assert "No such option: --limti" in invoke(*JOB, "--limti", "3", "--max-failed", "3").stderr
    assert "No such option: --max-failed" in invoke("status", "out", "--max-failed", "3").stderr


def test_labels_by_flags(job: Pipeline) -> None:
    typed = ["--choices", "cat, dog", "--choices", '"none, really"', "--keep-columns", "url,label", "--samples", "9"]
    assert invoke(*JOB, *typed).exit_code == 0
    [config] = job.configs
    assert (config.input.choices, config.input.keep_columns) == (("cat", "dog", "none, really"), ("url", "label"))
    assert config.output.samples == 9
    assert invoke(*JOB, "--keep-columns", "*").exit_code == 0
    assert job.configs[1].input.keep_columns == ("*",)


def test_several_questions_by_flags_take_the_place_of_the_files_prompt(job: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("model: a\ninput: {path: b, prompt: c}\noutput: {path: d}\n")
    typed = ["--questions", "colour=What colour is it?", "--questions", "sum=1 + 1 = ?"]
    result = invoke("run", str(tmp_path / "job.yaml"), *typed)
    assert result.exit_code == 0, result.stderr
    [config] = job.configs
    asked = {name: question.prompt for name, question in config.input.asked.items()}
    assert asked == {"colour": "What colour is it?", "sum": "1 + 1 = ?"}


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--questions", "colour"], "'colour' is not NAME=TEXT"),
        (["--questions", "a=b", "--questions", "a=c"], "'a' is there twice"),
        (["--questions", "a=b"], "give either a prompt"),
        (["--choices", "a,a"], "input.choices (--choices): give choices that differ"),
        (["--samples", "-1"], "output.samples (--samples): expected 0 or more"),
    ],
)
def test_mistakes_about_labels(job: Pipeline, typed: list[str], words: str) -> None:
    result = invoke(*JOB, *typed)
    assert (result.exit_code, job.configs) == (2, [])
    assert words in " ".join(result.stderr.split())
