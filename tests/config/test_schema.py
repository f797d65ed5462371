"""What a job is when nothing is wrong with it."""

from pathlib import Path

import pytest
import yaml

from star_batch.config import Input, parse_config
from star_batch.errors import ConfigError
from star_batch.options import Decoding, EngineOptions
from star_batch.pruning import Pruning
from tests.config.jobs import MINIMAL, job


def test_the_least_that_makes_a_job() -> None:
    config = parse_config(MINIMAL)
    assert config.pruning == Pruning()
    assert config.decoding == Decoding()
    assert config.engine == EngineOptions()
    assert config.input.paths == ("in.parquet",)
    assert config.cluster.actor_range == (1, 1)


def test_a_job_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse_config(MINIMAL).input.limit = 3


def test_built_in_python() -> None:
    assert Input(path=("a", "b"), prompt="?").paths == ("a", "b")


def test_a_password_of_the_pushgateway_is_not_in_the_words_of_a_configuration() -> None:
    config = parse_config(job(metrics={"pushgateway": "https://bob:planted@host:9091"}))
    assert config.metrics.pushgateway == "https://bob:planted@host:9091"
    assert "planted" not in repr(config)


@pytest.mark.parametrize("port", [-1, 65536, "8090"])
def test_a_port_is_a_port(port: object) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.port: expected"):
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


def test_a_star_for_all_columns_is_a_list_of_one() -> None:
    for written in ("*", ["*"]):
        config = parse_config(
            {"model": "demo", "input": {"path": "a", "prompt": "b", "keep_columns": written}, "output": "c"}
        )
        assert config.input.keep_columns == ("*",)
