"""What is wrong is named by its key, and secrets are never quoted."""

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from star_batch.config import JobConfig, load_config, parse_config
from star_batch.errors import ConfigError
from tests.config.jobs import MINIMAL, job, mistake


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
        ({"pruning": {"method": "stars"}}, "pruning.method: expected 'none', 'random', 'stride', 'star', "),
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
