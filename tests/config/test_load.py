"""A job's file and what is typed beside it: what is right is taken as it is written."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from star_batch.config import FLAGS, load_config, parse_config
from star_batch.errors import ConfigError
from star_batch.pruning import Pruning
from tests.config.jobs import MINIMAL, job, write


@pytest.mark.parametrize(("written", "keep"), [("64", 64), ("0.25", 0.25), ("1.0", 1.0), ("1", 1)])
def test_keep_is_a_number_or_a_share_as_it_is_written(tmp_path: Path, written: str, keep: float) -> None:
    """`1` is one token and `1.0` every token."""
    text = yaml.safe_dump(MINIMAL) + f"pruning: {{method: star, keep: {written}}}\n"
    config = load_config(write(tmp_path, text), {})
    assert config.pruning.keep == keep
    assert type(config.pruning.keep) is type(keep)


def test_a_file_that_is_not_yaml_is_located_but_not_quoted(tmp_path: Path) -> None:
    path = write(tmp_path, "input:\n  key: [hunter2\nmodel: demo\n")
    with pytest.raises(ConfigError, match=r"job\.yaml, line 3: ") as caught:
        load_config(path, {})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected sections"),
        ("- 1\n", "expected sections"),
        ("model: a\nmodel: b\n", "line 2: model is given twice"),
        ("pruning:\n  keep: 1\n  keep: 2\n", "line 3: keep is given twice"),
        ("? [a]\n: 1\n", "line 1: a key that is no text; put it in quotes"),
    ],
)
def test_files_that_are_no_job(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text), {})


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "absent.yaml", {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "binary", {})


def test_a_section_with_every_line_commented_out(tmp_path: Path) -> None:
    text = yaml.safe_dump(MINIMAL) + "engine:\n  # max_rows: 8\n"
    assert load_config(write(tmp_path, text), {}) == parse_config(MINIMAL)


def test_flags_alone_make_a_job() -> None:
    flags = {
        "input.path": "in.parquet",
        "input.prompt": "What is it?",
        "output.path": "out",
        "model.name": "demo",
    }
    assert load_config(None, flags | {"pruning.keep": None}) == parse_config(MINIMAL)


def test_a_flag_overrides_the_file(tmp_path: Path) -> None:
    text = yaml.safe_dump(job(model="other", pruning={"method": "star", "keep": 0.5, "late_layer": 2}))
    path = write(tmp_path, text)
    config = load_config(path, {"model.revision": "abc", "pruning.keep": 36, "input.limit": 5})
    assert (config.model.name, config.model.revision) == ("other", "abc")
    assert config.pruning == Pruning(method="star", keep=36, late_layer=2)
    assert config.input.limit == 5


def test_another_method_by_flag_takes_only_keep_from_the_file(tmp_path: Path) -> None:
    text = yaml.safe_dump(job(pruning={"method": "star", "keep": 0.5, "late_layer": 2}))
    path = write(tmp_path, text)
    assert load_config(path, {"pruning.method": "random"}).pruning == Pruning(method="random", keep=0.5)
    assert load_config(path, {"pruning.method": "none"}).pruning == Pruning()
    assert load_config(path, {"pruning.method": "star"}).pruning == Pruning(method="star", keep=0.5, late_layer=2)


def test_a_prompt_by_flag_takes_the_place_of_the_files_prompt_column(tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump(job(input={"path": "in", "prompt_column": "question"})))
    assert load_config(path, {"input.prompt": "Why?"}).input.prompt_column is None
    path = write(tmp_path, yaml.safe_dump(MINIMAL))
    assert load_config(path, {"input.prompt_column": "question"}).input.prompt is None


def test_every_flag_sets_a_known_key() -> None:
    config = parse_config(MINIMAL)
    for key in FLAGS:
        section, name = key.split(".")
        assert hasattr(getattr(config, section), name), key


def test_a_plain_string_names_the_model_and_the_output() -> None:
    assert parse_config(job(model="demo", output="out")) == parse_config(MINIMAL)


@settings(max_examples=60, deadline=None)
@given(
    keep=st.integers(1, 10_000) | st.floats(0.0, 1.0, exclude_min=True),
    actors=st.tuples(st.integers(1, 5), st.integers(5, 9)) | st.integers(1, 9),
    choices=st.none() | st.lists(st.text(st.characters(categories=["L"]), min_size=1), min_size=1, unique=True),
    prompt=st.text(min_size=1),
)
def test_a_job_survives_yaml(keep: float, actors: Any, choices: Any, prompt: str) -> None:
    values = job(
        input={"path": ["a", "b"], "prompt": prompt, "choices": choices},
        pruning={"method": "star", "keep": keep},
        cluster={"actors": list(actors) if isinstance(actors, tuple) else actors},
    )
    config = parse_config(yaml.safe_load(yaml.safe_dump(values)))
    assert (config.pruning.keep, config.cluster.actors, config.input.prompt) == (keep, actors, prompt)
    assert parse_config(config.model_dump()) == config


def test_a_setting_wins_over_the_file_and_a_flag_over_both(tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump(job(input=MINIMAL["input"] | {"limit": 1, "id_column": "key"})))
    typed = ["input.limit=2", "faults.max_failed=0.05", "input.id_column=null"]
    config = load_config(path, {}, typed)
    assert (config.input.limit, config.faults.max_failed, config.input.id_column) == (2, 0.05, None)
    assert load_config(path, {"input.limit": 3}, typed).input.limit == 3


def test_a_setting_counts_whatever_the_method_by_flag_takes_from_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump(job(pruning={"method": "random", "keep": 0.5})))
    by_flag = load_config(path, {"pruning.method": "star"}, ["pruning.late_layer=2"])
    assert by_flag.pruning == Pruning(method="star", keep=0.5, late_layer=2)
    assert load_config(path, {}, ["pruning.method=star", "pruning.late_layer=2"]) == by_flag


def test_a_prompt_by_setting_takes_the_place_of_the_files_prompt_column(tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump(job(input={"path": "in", "prompt_column": "question"})))
    assert load_config(path, {}, ["input.prompt=Why?"]).input.prompt_column is None
    assert load_config(path, {"input.prompt": "How?"}, ["input.prompt_column=q"]).input.prompt == "How?"


def test_a_setting_changes_what_it_names_and_nothing_that_shares_it(tmp_path: Path) -> None:
    text = "input: {path: a, prompt: b, storage_options: &s {key: k}}\n"
    text += "output: {path: o, storage_options: *s}\nmodel: demo\n"
    config = load_config(write(tmp_path, text), {}, ["input.storage_options.key=other", "output.samples=3"])
    assert config.input.storage_options == {"key": "other"}
    assert (config.output.storage_options, config.output.samples) == ({"key": "k"}, 3)
