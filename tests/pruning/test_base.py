"""`Pruning(method=...)` is the method's own class; everything that is done with options is done with it."""

import copy
import dataclasses
import pickle
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from star_batch.config import parse_config
from star_batch.errors import ConfigError
from star_batch.pruning import (
    METHODS,
    NoPruning,
    Pruning,
    RandomPruning,
    StarPruning,
    StridePruning,
    VisPruner,
    field_names,
)

EACH = [
    NoPruning(),
    RandomPruning(keep=0.25, seed=3),
    StridePruning(keep_mass=0.5, keep_least=4),
    StarPruning(keep=64, late_layer=16),
    StarPruning(keep=64, late_layer=0.5, late_scores="max"),
    VisPruner(keep=64, important_ratio=0.25, positions="compact"),
    Pruning(method="fastv", keep=0.5, late_layer=3),
    Pruning(method="pyramiddrop", keep=0.5),
    Pruning(method="star_pro", keep_mass=0.5),
    Pruning(method="visionzip_unmerged", keep=64, dominant_ratio=0.5),
    Pruning(method="divprune", keep=64),
    Pruning(method="cdpruner", keep=64),
]


@pytest.mark.parametrize("pruning", EACH, ids=lambda pruning: pruning.method)
def test_a_name_makes_an_instance_of_the_methods_class(pruning: Pruning) -> None:
    values = dataclasses.asdict(pruning)
    assert next(iter(values)) == "method"
    assert METHODS[pruning.method] is type(pruning)
    made = Pruning(**values)
    assert (type(made), made, hash(made)) == (type(pruning), pruning, hash(pruning))
    assert repr(made).startswith(f"{type(pruning).__name__}(method='{pruning.method}', keep=")


@pytest.mark.parametrize("pruning", EACH, ids=lambda pruning: pruning.method)
def test_options_can_be_copied_and_sent(pruning: Pruning) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(pruning, protocol)) == pruning
    assert copy.copy(pruning) == copy.deepcopy(pruning) == dataclasses.replace(pruning) == pruning


def test_another_method_can_be_put_in_place() -> None:
    """What says nothing of the old method's own fields goes; what says something is refused."""
    star: Any = Pruning(method="star", keep=64)
    assert dataclasses.replace(star, method="vispruner") == VisPruner(keep=64)
    with pytest.raises(ConfigError, match="early_keep=3 belongs to method='star', not to 'vispruner'"):
        dataclasses.replace(star, early_keep=3, method="vispruner")


def test_a_field_of_another_method_may_stand_there_empty() -> None:
    given: dict[str, Any] = {"late_layer": None, "early_scores": "encoder", "important_ratio": 0.5}
    assert Pruning(method="random", keep=3, **given) == RandomPruning(keep=3)


def test_a_name_that_nobody_knows_is_refused_with_what_the_method_has() -> None:
    with pytest.raises(ConfigError) as caught:
        Pruning(method="stride", kep=3)
    fields = "method, keep, keep_mass, keep_least, keep_most, positions"
    assert str(caught.value) == f"kep=3 is not known; method='stride' has {fields}"


@pytest.mark.parametrize("method", ["stars", "", 3, None, ["star"]])
def test_a_method_that_nobody_knows_is_refused(method: Any) -> None:
    with pytest.raises(ConfigError, match="is not known; choose one of none, random, stride, star, "):
        Pruning(method=method, keep=3)


def test_a_class_of_ones_own_needs_no_registration_to_be_made() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Mine(Pruning):
        method: str = "mine"
        own: int = 3

    assert "mine" not in METHODS
    assert dataclasses.replace(Mine(keep=4), own=5).own == 5


def test_all_fields_of_all_methods_are_known() -> None:
    own = ["seed", "early_keep", "late_keep", "late_layer", "early_scores", "late_scores", "important_ratio"]
    own += ["dominant_ratio"]
    shared = ["method", "keep", "keep_mass", "keep_least", "keep_most", "positions"]
    assert field_names() == [*shared, *own]


class Section(BaseModel):
    pruning: Pruning = Pruning()


@pytest.mark.parametrize("pruning", EACH, ids=lambda pruning: pruning.method)
def test_pydantic_reads_what_it_writes(pruning: Pruning) -> None:
    section = Section(pruning=pruning)
    assert section.pruning is pruning
    assert section.model_dump() == {"pruning": dataclasses.asdict(pruning)}
    assert Section.model_validate_json(section.model_dump_json()) == section
    assert TypeAdapter(type(pruning)).validate_python(dataclasses.asdict(pruning)) == pruning


def test_pydantic_names_each_key_that_is_wrong() -> None:
    with pytest.raises(ValidationError) as caught:
        Section.model_validate({"pruning": {"method": "star", "keep": "x", "late_layer": "y", "lat": 1}})
    keys = {mistake["loc"][:2] for mistake in caught.value.errors()}
    assert keys == {("pruning", "keep"), ("pruning", "late_layer"), ("pruning", "lat")}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (7, "pruning: expected a section with keys, not 7"),
        ({"method": 7}, "pruning.method: expected 'none', 'random', 'stride', 'star', "),
        ({"method": "star", "keep": 4, "late_layer": "2"}, "pruning.late_layer: expected a whole number or a number, "),
        ({"method": "star", "keep": 4, "late_layer": 0}, "pruning.late_layer=0: give a layer number of 1 or more"),
        ({"method": "star", "keep": 4, "early_scores": "x"}, "expected 'encoder' or 'features', not 'x'"),
        ({"method": "star", "keep": 4, "seed": 1}, "pruning.seed=1 belongs to method='random', not to 'star'"),
    ],
)
def test_a_jobs_file_is_told_what_is_wrong(section: Any, message: str) -> None:
    values = {"input": {"path": "x", "prompt": "?"}, "output": "y", "model": "demo", "pruning": section}
    with pytest.raises(ConfigError) as caught:
        parse_config(values, "job.yaml")
    assert message in str(caught.value)
