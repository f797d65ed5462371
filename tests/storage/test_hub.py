"""Names of repositories, and what is never done with the Hub."""

from typing import Any

import pytest

from star_batch.config import JobConfig
from star_batch.errors import ConfigError
from star_batch.storage.location import Location
from star_batch.storage.redaction import redacted


@pytest.mark.parametrize(
    "url",
    [
        "hf://datasets/owner/name",
        "hf://datasets/owner/name@main/data/*.parquet",
        "hf://datasets/owner/name@refs/convert/parquet/a.parquet",
        "hf://owner/name/a.parquet",
        "hf://buckets/owner/name/a.parquet",
    ],
)
def test_a_repository_is_a_place(url: str) -> None:
    assert Location.of(url, {"token": False}).url == url


@pytest.mark.parametrize(
    "url", ["hf://datasets", "hf://datasets/owner", "hf://owner", "hf://datasets/@/x", "hf://datasets//x"]
)
def test_what_names_no_repository_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="names no repository; write hf://datasets/OWNER/NAME/path"):
        Location.of(url, {"token": False})


def test_the_environment_is_written_down_for_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    place = Location.of("hf://datasets/owner/name")
    assert place.options == {"endpoint": "https://mirror.example", "token": "hf_" + "x" * 34}
    assert "xxx" not in repr(place) + redacted("refused hf_" + "x" * 34)
    given: dict[str, Any] = {"endpoint": "https://own.example", "token": False}
    assert Location.of("hf://datasets/owner/name", given).options == given


def test_answers_are_not_written_there() -> None:
    with pytest.raises(ValueError, match="answers cannot be written to the Hugging Face Hub"):
        JobConfig.model_validate(
            {"input": {"path": "in", "prompt": "?"}, "output": {"path": "hf://datasets/a/b"}, "model": {"name": "demo"}}
        )
