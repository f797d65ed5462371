"""A job's file and flags: what is right is taken as written, what is wrong is named by its key."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from star_batch.config import FLAGS, Input, JobConfig, load_config, parse_config
from star_batch.errors import ConfigError
from star_batch.options import Decoding, EngineOptions
from star_batch.pruning import Pruning

MINIMAL: dict[str, Any] = {
    "input": {"path": "in.parquet", "prompt": "What is it?"},
    "output": {"path": "out"},
    "model": {"name": "demo"},
}


def job(**sections: Any) -> dict[str, Any]:
    return MINIMAL | sections


def mistake(values: dict[str, Any]) -> str:
    """What is said about the one mistake in `values`."""
    with pytest.raises(ConfigError) as caught:
        parse_config(values, "job.yaml")
    first, *lines = str(caught.value).splitlines()
    assert first == "job.yaml:"
    assert len(lines) == 1, lines
    return lines[0].strip()


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_least_that_makes_a_job() -> None:
    config = parse_config(MINIMAL)
    assert config.pruning == Pruning()
    assert config.decoding == Decoding()
    assert config.engine == EngineOptions()
    assert config.input.paths == ("in.parquet",)
    assert config.cluster.actor_range == (1, 1)


def test_a_plain_string_names_the_model_and_the_output() -> None:
    assert parse_config(job(model="demo", output="out")) == parse_config(MINIMAL)


@pytest.mark.parametrize(("written", "keep"), [("64", 64), ("0.25", 0.25), ("1.0", 1.0), ("1", 1)])
def test_keep_is_a_number_or_a_share_as_it_is_written(tmp_path: Path, written: str, keep: float) -> None:
    """`1` is one token and `1.0` every token."""
    text = yaml.safe_dump(MINIMAL) + f"pruning: {{method: star, keep: {written}}}\n"
    config = load_config(write(tmp_path, text), {})
    assert config.pruning.keep == keep
    assert type(config.pruning.keep) is type(keep)


def test_every_mistake_of_a_file_is_reported_at_once() -> None:
    values = job(model={}, decoding={"max_new_tokens": "many"}, keep=3)
    with pytest.raises(ConfigError) as caught:
        parse_config(values, "job.yaml")
    assert str(caught.value).splitlines() == [
        "job.yaml:",
        "  model.name: is missing",
        "  decoding.max_new_tokens: expected a whole number, not 'many'",
        "  keep: unknown key; did you mean pruning.keep?",
    ]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"moddel": "x"}, "moddel: unknown key; did you mean model?"),
        ({"pruning": {"kep": 1}}, "pruning.kep: unknown key; did you mean keep?"),
        ({"engine": {"keep": 1}}, "engine.keep: unknown key; did you mean pruning.keep?"),
        ({"output": {"path": "o", "zzz": 1}}, "output.zzz: unknown key; known: path, overwrite,"),
        (
            {"model": {"name": "m", "revision": 12345}},
            "model.revision: expected text, not 12345 (put it in quotes)",
        ),
        ({"model": {"name": "m", "dtype": "fp16"}}, "model.dtype: expected 'auto', 'float32', 'bfloat16' or"),
        ({"model": {"name": "m", "device": "cuda:1"}}, "model.device: expected 'auto', 'cpu' or 'cuda', not"),
        ({"model": {"name": ""}}, "model.name: is empty"),
        ({"model": 5}, "model: expected a section with keys, not 5"),
        ({"pruning": {"method": "stars"}}, "pruning.method: expected 'none', 'random', 'stride', 'star' or"),
        ({"pruning": {"method": "star"}}, "pruning.method='star' needs keep"),
        ({"pruning": {"method": "star", "keep": 2.0}}, "pruning.keep=2.0: give a number of visual tokens"),
        (
            {"pruning": {"method": "star", "keep": True}},
            "pruning.keep: expected a whole number or a number, not true",
        ),
        ({"pruning": {"method": "random", "keep": 3, "late_layer": 2}}, "pruning.late_layer=2 belongs to"),
        ({"decoding": {"temperature": -1.0}}, "decoding.temperature=-1.0: give 0.0 (greedy)"),
        ({"decoding": {"max_new_tokens": 1.5}}, "decoding.max_new_tokens: expected a whole number, not 1.5"),
        ({"engine": {"page_size": 0}}, "engine.page_size=0: give a whole number of 1 or more"),
        ({"cluster": {"actors": [4, 1]}}, "cluster.actors: give 1 or more actors, or [min, max]"),
        ({"cluster": {"actors": True}}, "cluster.actors: expected a whole number or a list, not true"),
        ({"cluster": {"windows": 0}}, "cluster.windows: expected 1 or more, not 0"),
        ({"cluster": {"gpus_per_actor": float("inf")}}, "cluster.gpus_per_actor: expected a finite number"),
        ({"cluster": {"gpus_per_actor": 1.5}}, "cluster.gpus_per_actor: give a share below 1.0"),
        ({"cluster": {"runtime_env": 7}}, "cluster.runtime_env: expected a section with keys or text, not what is"),
        ({"cluster": {"runtime_env": "/no/file.yaml"}}, "cluster.runtime_env: /no/file.yaml: cannot be read: No such"),
        ({"cluster": {"runtime_env": {"env_vars": {"KEY": 1}}}}, "cluster.runtime_env: env_vars.KEY: expected text"),
        ({"cluster": {"runtime_env": {"env_vars": ["KEY"]}}}, "cluster.runtime_env: env_vars: expected names"),
        ({"engine": {"memory_share": 1.5}}, "engine.memory_share=1.5: give a share above 0.0 up to 1.0"),
        ({"faults": {"max_failed": 5.0}}, "faults.max_failed: give a number of rows (100) or a share below 1.0"),
        ({"faults": {"max_failed": -1}}, "faults.max_failed: expected 0 or more, not -1"),
        ({"faults": {"hang_seconds": 0}}, "faults.hang_seconds: expected more than 0"),
        ({"output": "in.parquet/"}, "output.path is the input"),
    ],
)
def test_a_mistake_is_named_by_its_key(sections: dict[str, Any], message: str) -> None:
    assert mistake(job(**sections)).startswith(message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, "input: give either a prompt (a template over columns) or a prompt_column"),
        ({"prompt_column": "p"}, "input: give either a prompt (a template over columns) or a prompt_column"),
        (
            {"choices": ["a", "b"], "choices_column": "c"},
            "input: give either choices for all rows or a choices_",
        ),
        ({"choices": []}, "input.choices: is empty"),
        ({"choices": ["a", "a"]}, "input.choices: give choices that differ"),
        ({"choices": ["a", " "]}, "input.choices: give choices that differ and are not blank"),
        ({"choices": "abc"}, "input.choices: expected a list, not 'abc'"),
        ({"keep_columns": ["a", 5]}, "input.keep_columns: expected text, not 5 (put it in quotes)"),
        ({"limit": 0}, "input.limit: expected 1 or more, not 0"),
        ({"limit": "10"}, "input.limit: expected a whole number, not '10'"),
        ({"max_image_pixels": 10**9}, "input.max_image_pixels: expected 178956970 or less"),
        ({"path": []}, "input.path: is empty"),
        ({"path": ""}, "input.path: is empty"),
        ({"path": 5}, "input.path: expected text or a list, not 5"),
        ({"raw_prompt": "yes"}, "input.raw_prompt: expected true or false, not 'yes'"),
    ],
)
def test_a_mistake_about_the_input(change: dict[str, Any], message: str) -> None:
    assert mistake(job(input=MINIMAL["input"] | change)).startswith(message)


@pytest.mark.parametrize("wrong", ["hunter2", {"path": 1, "key": "hunter2"}, ["hunter2"]])
def test_storage_options_appear_nowhere(wrong: Any) -> None:
    for section in ("input", "output"):
        values = job(**{section: MINIMAL[section] | {"storage_options": wrong}}, model={})
        with pytest.raises(ConfigError) as caught:
            parse_config(values)
        assert "hunter2" not in str(caught.value)
    config = parse_config(job(input=MINIMAL["input"] | {"storage_options": {"secret": "hunter2"}}))
    assert config.input.storage_options == {"secret": "hunter2"}
    assert "hunter2" not in repr(config) + str(config.model_dump()) + config.model_dump_json()


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


def test_mistakes_on_the_command_line_name_the_flag() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"input.limit": 0})
    assert str(caught.value).splitlines() == [
        "on the command line:",
        "  input.path (--input): is missing",
        "  input.limit (--limit): expected 1 or more, not 0",
        "  output.path (--output): is missing",
        "  model.name (--model): is missing",
    ]


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


def test_a_job_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse_config(MINIMAL).input.limit = 3


def test_built_in_python() -> None:
    assert Input(path=("a", "b"), prompt="?").paths == ("a", "b")


def known_keys() -> list[tuple[str, str]]:
    config = parse_config(MINIMAL)
    return [(name, key) for name in JobConfig.model_fields for key in sorted(keys_of(getattr(config, name)))]


def keys_of(section: object) -> set[str]:
    if isinstance(section, BaseModel):
        return set(type(section).model_fields)
    return {field.name for field in fields(section)}  # type: ignore[arg-type]


@settings(deadline=None)
@given(key=st.sampled_from(known_keys()), at=st.integers(0, 20))
def test_a_key_with_a_letter_missing_is_recognised(key: tuple[str, str], at: int) -> None:
    section, name = key
    typo = name[: at % len(name)] + name[at % len(name) + 1 :]
    if len(name) > 4 and (section, typo) not in known_keys():
        given = MINIMAL.get(section, {})
        message = mistake(job(**{section: given | {typo: 1}}))
        assert message.startswith(f"{section}.{typo}: unknown key; did you mean ")
        assert name in message


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(key=st.sampled_from(known_keys()), value=values)
def test_any_value_makes_a_job_or_a_config_error(key: tuple[str, str], value: Any) -> None:
    section, name = key
    try:
        parse_config(job(**{section: MINIMAL.get(section, {}) | {name: value}}))
    except ConfigError as error:
        assert str(error).startswith("on the command line:\n  ")  # noqa: PT017


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


@pytest.mark.parametrize(
    "url",
    [
        "pushgateway:9091",
        "ftp://host",
        "http://",
        "http://host:port",
        "http://bob:planted@",
        "http://host:0",
        ["http://bob:planted@h"],
    ],
)
def test_a_pushgateway_is_a_url_and_its_password_is_never_shown(url: Any) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.pushgateway: (give a URL|expected text)") as raised:
        parse_config(job(metrics={"pushgateway": url}), "job.yaml")
    assert "planted" not in str(raised.value)


def test_a_password_of_the_pushgateway_is_not_in_the_words_of_a_configuration() -> None:
    config = parse_config(job(metrics={"pushgateway": "https://bob:planted@host:9091"}))
    assert config.metrics.pushgateway == "https://bob:planted@host:9091"
    assert "planted" not in repr(config)


@pytest.mark.parametrize("port", [-1, 65536, "8090"])
def test_a_port_is_a_port(port: object) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.port .*: expected"):
        parse_config(job(metrics={"port": port}))


def test_a_runtime_env_is_a_section_or_a_file_of_its_own(tmp_path: Path) -> None:
    given = {"env_vars": {"KEY": "planted-secret"}, "uv": ["pyarrow>=18"]}
    file = tmp_path / "env.yaml"
    file.write_text(yaml.safe_dump(given))
    for value in (given, str(file)):
        config = parse_config(MINIMAL | {"cluster": {"runtime_env": value}})
        assert config.cluster.environment == given
        assert "planted-secret" not in repr(config)
    assert parse_config(MINIMAL).cluster.environment is None
