"""What `--model_args` may say, and how it is told what it may not."""

import pytest

from star_batch.errors import ConfigError
from star_batch.evaluation.settings import Settings
from star_batch.options import EngineOptions
from star_batch.pruning import Pruning, StarPruning


def test_names_find_their_section() -> None:
    arguments = {"model": "demo", "method": "star", "keep": 64, "late_layer": 2, "max_rows": 8, "dtype": "float32"}
    settings = Settings.of_arguments(arguments)
    assert settings.pruning == StarPruning(keep=64, late_layer=2)
    assert settings.options == EngineOptions(max_rows=8)
    assert (settings.model, settings.dtype, settings.max_new_tokens) == ("demo", "float32", 1024)


def test_without_a_method_nothing_is_pruned() -> None:
    settings = Settings.of_arguments({"model": "demo"})
    assert settings.pruning == Pruning()
    assert settings.options == EngineOptions()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "give model="),
        ({"model": 7}, "model=7: lmms-eval read it as int"),
        ({"model": "demo", "revision": 1e10}, "revision=10000000000.0: lmms-eval read it as float"),
        ({"model": "demo", "pretrained": "demo"}, "pretrained is not known; choose from model"),
        ({"model": "demo", "pruning": "star"}, "pruning is not known"),
        ({"model": "demo", "method": "best", "keep": 64}, "method='best' is not known"),
        ({"model": "demo", "method": "star"}, "method='star' needs keep"),
        ({"model": "demo", "method": "star", "keep": "many"}, "keep='many'"),
        (
            {"model": "demo", "method": "vispruner", "keep": 64, "late_layer": 2},
            "late_layer=2 belongs to method='star'",
        ),
        ({"model": "demo", "max_rows": 0}, "max_rows=0"),
        ({"model": "demo", "max_new_tokens": 0.5}, "max_new_tokens=0.5"),
        ({"model": "demo", "dtype": "int8"}, "dtype='int8' is not known"),
        ({"model": "demo", "trust_remote_code": "yes"}, "trust_remote_code='yes'"),
    ],
)
def test_what_is_wrong_is_named(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.of_arguments(arguments)
    assert words in str(caught.value)


def test_pruning_that_does_not_fit_the_model_is_refused_when_it_is_loaded() -> None:
    settings = Settings.of_arguments({"model": "demo", "method": "star", "keep": 18, "late_layer": 900})
    with pytest.raises(ConfigError, match="late_layer"):
        settings.load()
