"""`--set`: values are read as in a file, mistakes are named, and no value is quoted that may be a secret."""

from pathlib import Path
from typing import Any

import pytest

from star_batch.config import load_config
from star_batch.config.settings import read_settings
from star_batch.errors import ConfigError
from tests.config.jobs import MINIMAL

MINIMAL_FLAGS = {"input.path": "in", "input.prompt": "?", "output.path": "out", "model.name": "demo"}


def said(*typed: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, MINIMAL_FLAGS, typed)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("0.05", 0.05),
        ("true", True),
        ("null", None),
        ("[a, 'b c']", ["a", "b c"]),
        ("{a: 1}", {"a": 1}),
        ("text with = signs", "text with = signs"),
        ("'5'", "5"),
        ("2026-11-30", "2026-11-30"),
    ],
)
def test_a_value_is_read_as_in_a_file(text: str, value: Any) -> None:
    assert read_settings([f"section.key={text}"]) == {"section.key": value}


def test_keys_may_lie_deeper_and_the_last_value_counts() -> None:
    config = load_config(
        None,
        MINIMAL_FLAGS,
        [
            "input.fetch.hosts=[a.example]",
            "input.fetch.seconds=5.0",
            "input.fetch.seconds=6.0",
            "cluster.actors=[1, 4]",
        ],
    )
    assert config.input.fetch is not None
    assert (config.input.fetch.hosts, config.input.fetch.seconds) == (("a.example",), 6.0)
    assert config.cluster.actor_range == (1, 4)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("decodin.seed=1", "decodin (--set): unknown key; did you mean decoding?"),
        ("decoding.sede=1", "decoding.sede (--set): unknown key; did you mean seed?"),
        ("input.fetch.hots=[a]", "input.fetch.hots (--set): unknown key; did you mean hosts?"),
        ("faults.max_failed=-1", "faults.max_failed (--set): expected 0 or more, not -1"),
        ("model.revision=12345", "model.revision (--set): expected text, not 12345 (put it in quotes that the shell"),
        ("pruning.method=star", "pruning.method='star' needs keep"),
    ],
)
def test_a_mistake_is_the_files_and_names_the_option(typed: str, line: str) -> None:
    heading, *lines = said(typed).splitlines()
    assert heading == "on the command line:"
    assert any(each.startswith(f"  {line}") for each in lines), lines


def test_beside_a_file_only_what_was_set_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("model: {name: demo, dtype: fp16}\ninput: {path: a, prompt: b}\noutput: o\n")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "job.yaml", {}, ["input.limit=0", "model.device=tpu"])
    assert [line.partition(":")[0].strip() for line in str(caught.value).splitlines()[1:]] == [
        "input.limit (--set)",
        "model.dtype",
        "model.device (--set)",
    ]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("faults.max_failed", "--set number 1: write --set SECTION.KEY=VALUE"),
        ("=5", "--set number 1: write"),
        ("limit=5", "--set number 1: write"),
        ("input.limit=", "--set input.limit=: no value; write null for none"),
        ("input.prompt=[what", "--set input.prompt: the value is not YAML; put a text in quotes"),
        ("input.prompt=\x00", "--set input.prompt: the value is not YAML"),
    ],
)
def test_what_is_no_setting(typed: str, words: str) -> None:
    assert said(typed).startswith(words)


def test_a_text_is_no_section() -> None:
    words = "--set input.id_column.name: input.id_column is no section with keys"
    assert said("input.id_column=id", "input.id_column.name=x") == words


@pytest.mark.parametrize(
    "typed",
    [
        "input.storage_options=planted",
        "input.storage_options.secret:planted",
        "input.storage_options.secret=[planted",
        "input.storage_options.secret=!planted x",
        "input.storage_options.secret=*planted",
        "input.storage_optoins={secret: planted}",
        "inptu.storage_options.secret=planted",
        "output.storage_options=[planted]",
        "metrics.pushgateway=bob:planted@host",
        "metrics.pushgateway=[planted]",
        "cluster.runtime_env.env_vars={KEY: [planted]}",
        "https://bob:planted@host/a.b=c",
        "planted",
    ],
)
def test_a_secret_is_never_shown(typed: str) -> None:
    assert "planted" not in said(typed)


def test_the_least_that_makes_a_job_by_settings_alone() -> None:
    typed = [f"{section}.{key}={value}" for section, keys in MINIMAL.items() for key, value in keys.items()]
    assert load_config(None, {}, typed).input.prompt == "What is it?"
