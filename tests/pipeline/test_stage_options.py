from typing import Any

import pytest

from star_batch.errors import ConfigError
from star_batch.options import Decoding, EngineOptions
from star_batch.pipeline.stage_options import added_columns, stage_config
from star_batch.pruning import Pruning


def config(model: Any = "demo", sections: dict[str, Any] | None = None, **options: Any) -> Any:
    return stage_config(model, sections or {}, {"prompt_column": "question"} | options)


def test_options_are_a_jobs_in_their_sections() -> None:
    sections = {
        "pruning": Pruning(method="star", keep=64),
        "decoding": Decoding(max_new_tokens=7),
        "engine": EngineOptions(),
    }
    found = config(
        "demo",
        sections,
        revision="main",
        dtype="bfloat16",
        actors=(1, 8),
        gpus_per_actor=0.5,
        max_failed=0.05,
        max_image_bytes=1000,
        fetch={"hosts": ["images.example.org"]},
        token_ids=True,
    )
    assert found.pruning == sections["pruning"]
    assert found.decoding == sections["decoding"]
    assert (found.model.name, found.model.revision, found.model.dtype) == ("demo", "main", "bfloat16")
    assert (found.cluster.actor_range, found.cluster.gpus_per_actor) == ((1, 8), 0.5)
    assert (found.faults.max_failed, found.input.max_image_bytes) == (0.05, 1000)
    assert found.input.fetch.hosts == ("images.example.org",)
    assert found.output.token_ids


def test_sections_as_they_stand_in_a_file() -> None:
    found = config({"name": "demo", "dtype": "float32"}, {"pruning": {"method": "star", "keep": 0.5}})
    assert (found.model.dtype, found.pruning.method, found.pruning.keep) == ("float32", "star", 0.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": "two"}, "give either a prompt"),
        ({"choices": ["a", "a"]}, "input.choices: give choices that differ"),
        ({"actors": 0}, "cluster.actors: give 1 or more actors"),
        ({"max_failed": 1.5}, r"faults.max_failed: give a number of rows"),
        ({"dtype": "float8"}, "model.dtype: expected"),
        ({"actor": 2}, "actor: unknown option; did you mean actors"),
        ({"zzz": 2}, "zzz: unknown option; known: actors, "),
        ({"questions": {"a": "b"}}, "questions: each row is answered once: use a stage for each question"),
        ({"path": "x"}, "path: the rows are those of the dataset"),
        ({"keep_columns": ["x"]}, "keep_columns: the rows are those of the dataset"),
        ({"address": "auto"}, "address: the stage runs on the Ray that is there"),
        ({"image_column": 7}, "input.image_column: expected text"),
        ({"image_roots": "/data"}, "input.image_roots: expected a list"),
    ],
)
def test_mistakes_are_named_as_in_a_job(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(**options)


@pytest.mark.parametrize("model", [None, 7, "", [], {"nam": "demo"}])
def test_a_model_that_is_none(model: Any) -> None:
    with pytest.raises(ConfigError, match="model"):
        config(model)


def test_only_columns_that_say_something_are_added() -> None:
    plain = added_columns(config(), "")
    assert list(plain) == list(plain.values())
    assert not {"id", "label", "is_correct", "token_ids", "question_name", "reference"} & plain.keys()
    assert {"answer", "error", "error_type", "finish_reason", "num_kept", "model", "fingerprint"} <= plain.keys()
    full = added_columns(config(choices=["a", "b"], reference_column="truth", token_ids=True), "my_")
    assert {"label", "label_probabilities", "is_correct", "token_ids"} <= full.keys()
    assert full["label"] == "my_label"


@pytest.mark.parametrize("prefix", [None, 7, "a\nb"])
def test_a_prefix_is_text(prefix: Any) -> None:
    with pytest.raises(ConfigError, match="prefix: expected text"):
        added_columns(config(), prefix)
