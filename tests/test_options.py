"""Options are refused at birth: a value out of range, or one that the chosen method has no use for."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_batch.errors import ConfigError
from star_batch.options import Decoding, EngineOptions, is_count
from star_batch.pruning import METHODS, Pruning, VisPruner

PRUNING_METHODS = [method for method in METHODS if method != "none"]


def test_defaults_are_no_pruning_and_greedy() -> None:
    assert (Pruning().method, Pruning().keep) == ("none", None)
    assert Decoding().temperature == 0.0


@pytest.mark.parametrize("options", [Pruning(), Decoding(), EngineOptions()])
def test_options_are_frozen_and_comparable(options: Any) -> None:
    assert options == dataclasses.replace(options)
    assert hash(options) == hash(dataclasses.replace(options))
    name = dataclasses.fields(options)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(options, name, getattr(options, name))


@pytest.mark.parametrize("method", PRUNING_METHODS)
@pytest.mark.parametrize("keep", [1, 64, 0.25, 1.0])
def test_every_method_takes_a_number_or_a_share(method: str, keep: float) -> None:
    assert Pruning(method=method, keep=keep).keep == keep


@pytest.mark.parametrize("method", PRUNING_METHODS)
def test_a_method_needs_keep(method: str) -> None:
    with pytest.raises(ConfigError, match="needs keep"):
        Pruning(method=method)


def test_star_can_do_without_keep_if_both_stages_say_theirs() -> None:
    assert Pruning(method="star", early_keep=64, late_keep=0.1).keep is None
    with pytest.raises(ConfigError, match="needs keep"):
        Pruning(method="star", early_keep=64)


@pytest.mark.parametrize("method", PRUNING_METHODS)
def test_every_method_takes_a_budget_that_follows_the_image(method: str) -> None:
    assert Pruning(method=method, keep_mass=0.5, keep_least=4, keep_most=0.5).keep is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_mass": 0.0}, "keep_mass=0.0: give a share"),
        ({"keep_mass": 1.5}, "keep_mass=1.5: give a share"),
        ({"keep_mass": True}, "keep_mass=True: give a share"),
        ({"keep_mass": 0.5, "keep": 8}, "give keep or keep_mass, not both"),
        ({"keep_mass": 0.5, "keep_least": 9, "keep_most": 8}, "keep_least=9 is above keep_most=8"),
        ({"keep_mass": 0.5, "keep_least": 0}, "keep_least=0: give a number"),
        ({"keep": 8, "keep_most": 9}, "bound keep_mass"),
        ({"keep_mass": 0.5, "early_keep": 8}, "keep_mass sets both stages"),
        ({"method": "none", "keep_mass": 0.5}, "keeps every token: leave out keep_mass"),
    ],
)
def test_budgets_that_follow_the_image_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pruning(**{"method": "star"} | options)


def test_none_keeps_everything() -> None:
    with pytest.raises(ConfigError, match="leave out keep=5"):
        Pruning(keep=5)


@pytest.mark.parametrize("keep", [0, -1, 0.0, -0.5, 1.5, 2.0, True, False, float("nan"), float("inf"), "64"])
def test_amounts_out_of_range(keep: Any) -> None:
    with pytest.raises(ConfigError, match="keep="):
        Pruning(method="star", keep=keep)
    with pytest.raises(ConfigError, match="late_keep="):
        Pruning(method="star", keep=0.5, late_keep=keep)


@pytest.mark.parametrize(
    ("field", "value"),
    [("early_keep", 5), ("late_keep", 0.5), ("late_scores", "max"), ("early_scores", "features")],
)
@pytest.mark.parametrize("method", ["random", "stride", "vispruner"])
def test_fields_of_star_are_refused_elsewhere(method: str, field: str, value: Any) -> None:
    assert getattr(Pruning(method="star", keep=0.5, **{field: value}), field) == value
    with pytest.raises(ConfigError, match=f"{field}=.* belongs to method='star', not to '{method}'"):
        Pruning(method=method, keep=0.5, **{field: value})


def test_the_important_ratio_belongs_to_vispruner() -> None:
    found = Pruning(method="vispruner", keep=0.5, important_ratio=0.25)
    assert isinstance(found, VisPruner)
    assert found.important_ratio == 0.25
    with pytest.raises(ConfigError, match="belongs to method='vispruner'"):
        Pruning(method="star", keep=0.5, important_ratio=0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "tome"}, "method='tome' is not known; choose one of none, random"),
        ({"method": "star", "keep": 5, "early_scores": "clip"}, "early_scores='clip' is not known"),
        ({"method": "star", "keep": 5, "positions": "new"}, "positions='new' is not known"),
        ({"method": "star", "keep": 5, "late_layer": 0}, "late_layer=0"),
        ({"method": "star", "keep": 5, "late_layer": True}, "late_layer=True"),
        ({"method": "star", "keep": 5, "late_layer": 1.0}, "late_layer=1.0"),
        ({"method": "fastv", "keep": 5, "late_layer": 0.0}, "late_layer=0.0"),
        ({"method": "star", "keep": 5, "late_scores": "sum"}, "late_scores='sum' is not known"),
        ({"method": "visionzip_unmerged", "keep": 5, "dominant_ratio": -0.1}, "dominant_ratio=-0.1"),
        ({"method": "vispruner", "keep": 5, "important_ratio": 1.5}, "important_ratio=1.5"),
    ],
)
def test_other_mistakes_about_pruning(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Pruning(**options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": 1.5},
        {"max_new_tokens": True},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"stop": ("",)},
    ],
)
def test_mistakes_about_decoding(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Decoding(**options)


@pytest.mark.parametrize("name", ["max_rows", "max_prefill_tokens", "page_size", "vision_batch"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8"])
def test_engine_counts(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name}={value!r}"):
        EngineOptions(**{name: value})


def test_whether_beginnings_are_shared_is_yes_or_no() -> None:
    assert EngineOptions().share_prefix
    with pytest.raises(ConfigError, match="share_prefix='no': give true or false"):
        EngineOptions(share_prefix="no")  # type: ignore[arg-type]


def test_engine_memory() -> None:
    assert EngineOptions(kv_memory_gib=0.5).kv_memory_gib == 0.5
    for memory in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="kv_memory_gib"):
            EngineOptions(kv_memory_gib=memory)


@given(st.integers() | st.booleans() | st.floats() | st.text() | st.none())
def test_a_count_is_a_positive_int(value: object) -> None:
    assert is_count(value) == (type(value) is int and value > 0)


@given(keep=st.integers() | st.floats())
def test_any_number_is_taken_or_refused_by_name(keep: float) -> None:
    is_amount = keep >= 1 if isinstance(keep, int) else 0.0 < keep <= 1.0
    try:
        Pruning(method="random", keep=keep)
    except ConfigError as error:
        assert not is_amount
        assert str(error).startswith("keep=")  # noqa: PT017
    else:
        assert is_amount


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stop": "END"}, "stop='END': give a list"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"top_p": True}, "top_p=True"),
    ],
)
def test_decoding_refuses_what_only_looks_right(wrong: dict[str, Any], message: str) -> None:
    """A plain string was taken letter by letter, and an infinite temperature passed."""
    with pytest.raises(ConfigError, match=message):
        Decoding(**wrong)
