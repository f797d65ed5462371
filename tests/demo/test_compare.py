"""What is compared: the methods and budgets that were typed, always beside the controls, and what cannot be had."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytest

from star_batch.demo.compare import Gain, Line, Measured, compare, num_lines
from star_batch.demo.methods import KEEPS, Asked, budgets_of, every_method, methods_of, parse_method
from star_batch.errors import ConfigError
from star_batch.pruning import CONTROLS, METHODS, Pruning, register_method


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess(Pruning):
    """As a plugin registers it."""

    method: Literal["guess"] = "guess"
    luck: float = 0.5

    def check(self) -> None:
        if self.luck > 1.0:
            raise ConfigError(f"luck={self.luck}: give a share")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told(Pruning):
    """Has to be told something."""

    method: Literal["told"] = "told"
    what: int


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    register_method(Guess)
    register_method(Told)


def measured(is_correct: list[bool], tokens: float = 36.0) -> Measured:
    return Measured(pruning=Pruning(), is_correct=tuple(is_correct), layer_tokens=tokens, seconds=2.0)


def test_what_is_measured() -> None:
    rng = np.random.default_rng(0)
    mine, theirs = rng.random(400) < 0.8, rng.random(400) < 0.6
    result, baseline = measured(mine.tolist()), measured(theirs.tolist())
    difference = mine.astype(float) - theirs
    assert result.accuracy == mine.mean()
    assert result.standard_error == pytest.approx(mine.std() / 20)
    num_differing = np.count_nonzero(difference)
    assert result.gain_over(baseline) == pytest.approx((difference.mean(), difference.std() / 20, num_differing))
    assert result.gain_over(result) == (0.0, 0.0, 0)
    assert result.images_per_second == 200.0


@pytest.mark.parametrize(
    ("gain", "is_clear"), [((0.05, 0.02), True), ((-0.05, 0.02), True), ((0.03, 0.02), False), ((0.0, 0.0), False)]
)
def test_a_difference_is_clear_beyond_two_standard_errors(gain: tuple[float, float], is_clear: bool) -> None:
    assert Gain(*gain, 10).is_clear == is_clear


@pytest.mark.parametrize(("num_rows", "num_wrong"), [(1, 1), (5, 5), (40, 5)])
def test_a_few_rows_that_differ_are_never_clear(num_rows: int, num_wrong: int) -> None:
    right, wrong = [True] * num_rows, [False] * num_wrong + [True] * (num_rows - num_wrong)
    assert not measured(wrong).gain_over(measured(right)).is_clear
    assert measured([False] * 6).gain_over(measured([True] * 6)).is_clear


@pytest.mark.parametrize(
    ("text", "method", "options"),
    [
        ("star", "star", {}),
        ("star:early_scores=features", "star", {"early_scores": "features"}),
        (" star : late_layer = 2 : early_keep=0.5", "star", {"late_layer": 2, "early_keep": 0.5}),
        ("random:seed=3", "random", {"seed": 3}),
        ("none", "none", {}),
    ],
)
def test_a_method_may_carry_options(text: str, method: str, options: dict[str, Any]) -> None:
    asked = parse_method(text)
    assert (asked.method, asked.options) == (method, options)
    if method != "none":
        assert asked.pruning(keep=36) == Pruning(method=method, keep=36, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("best", "method='best' is not known; choose one of none,"),
        ("", "method='' is not known"),
        ("star:fast", "write options as in star:late_layer=2"),
        ("star:late_layer=", "write options as in star:late_layer=2"),
        ("star:late_layer=2:late_layer=3", "'late_layer' is there twice"),
        ("star:late_layer=0", "late_layer=0: give a layer number of 1 or more"),
        ("star:late_layer=[", "--method star:late_layer: the value is not YAML"),
        ("star:early_scores=best", "early_scores='best' is not known; choose one of encoder, features"),
        ("star:luck=1", "luck=1 is not known; method='star' has"),
        ("vispruner:late_layer=2", "late_layer=2 belongs to"),
        ("star:keep=36", "'keep' is no option here; give --keep"),
        ("star:method=none", "'method' is no option here"),
        ("star:early_keep=54:late_keep=18", "keep, early_keep and late_keep: give two of them"),
        ("none:positions=compact", "none keeps every token and has no options"),
    ],
)
def test_what_is_no_method_is_refused_in_its_own_words(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_method(text)
    assert message in str(refused.value)


@pytest.mark.usefixtures("plugins")
def test_a_plugin_that_does_not_check_its_options_is_no_traceback() -> None:
    with pytest.raises(ConfigError, match="guess:luck=much: '>' not supported"):
        parse_method("guess:luck=much")
    with pytest.raises(ConfigError, match=r"told: .*missing 1 required"):
        parse_method("told")
    assert parse_method("told:what=1").pruning(keep=2) == Pruning(method="told", keep=2, what=1)


@pytest.mark.usefixtures("plugins")
def test_every_method_is_compared_but_those_that_have_to_be_told_something() -> None:
    names = [asked.label for asked in every_method()]
    assert names == [name for name in METHODS if name not in (*CONTROLS, "told")]
    assert {"star", "vispruner", "guess"} <= set(names)
    assert methods_of(None) == every_method()


def test_each_method_is_there_once_and_controls_need_not_be_asked_for() -> None:
    typed = ["star", "random", "none", "stride", "star", "random:seed=1", "star:late_layer=2"]
    assert [asked.label for asked in methods_of(typed)] == ["star", "random:seed=1", "star:late_layer=2"]
    assert methods_of(["none"]) == []
    with pytest.raises(ConfigError, match="--method: give a method"):
        methods_of([])


def test_budgets() -> None:
    assert budgets_of(None) == KEEPS
    assert list(map(repr, budgets_of([36, 1, 1.0, 36]))) == ["36", "1", "1.0"]
    assert budgets_of([144]) == (144,)
    assert budgets_of([0.25, 72, 36, 0.5, 18]) == (0.25, 72, 18), "a share and a number may be the same budget"
    with pytest.raises(ConfigError, match="--keep: give a number"):
        budgets_of([])


@pytest.mark.parametrize(("keep", "message"), [(145, "has 144 visual tokens"), (0, "keep=0"), (1.5, "keep=1.5")])
def test_what_is_no_budget_is_refused(keep: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        budgets_of([36, keep])


def lines_of(asked: list[Asked], keeps: tuple[int, ...]) -> list[Line]:
    """As if `random` were right once less than `none`, all others twice less, and the late layer 5 not to be had."""
    wrong = {"none": 0, "random": 1}

    def measure(each: Asked, pruning: Pruning) -> Measured:
        if each.options.get("late_layer") == 5:
            raise ConfigError("late_layer=5: this model has 4 layers")
        assert (pruning.method, each.method) == (each.method, pruning.method)
        num_wrong = wrong.get(each.label, 2)
        return replace(measured([False] * num_wrong + [True] * (10 - num_wrong)), pruning=pruning)

    return list(compare(asked, keeps, measure))


def test_the_controls_come_first_whatever_is_asked_for() -> None:
    lines = lines_of([parse_method("star")], (36, 18))
    block = ["random", "stride", "star"]
    assert [(line.label, line.keep) for line in lines] == [
        ("none", None),
        *((label, keep) for keep in (36, 18) for label in block),
    ]
    assert len(lines) == num_lines([parse_method("star")], (36, 18))
    assert [line.label for line in lines_of([], (36,))] == ["none", "random", "stride"]


def test_gains_are_over_none_and_over_random_at_the_same_budget() -> None:
    none, random, _, star = lines_of([parse_method("star")], (36,))
    assert none.over_none is none.over_random is random.over_random is None
    assert random.over_none == pytest.approx((-0.1, 0.3 / 10**0.5, 1))
    assert star.over_none == pytest.approx((-0.2, 0.4 / 10**0.5, 2))
    assert star.over_random == pytest.approx((-0.1, 0.3 / 10**0.5, 1))


def test_a_budget_that_a_method_cannot_meet_is_a_line_that_says_so() -> None:
    lines = lines_of([parse_method("star:late_layer=5"), parse_method("vispruner")], (36,))
    assert [(line.label, line.refused) for line in lines if line.measured is None] == [
        ("star:late_layer=5", "late_layer=5: this model has 4 layers")
    ]
    assert lines[-1].label == "vispruner"


def test_a_method_that_takes_no_such_budget_is_a_line_that_says_so() -> None:
    both = Asked(label="both", method="star", options={"early_keep": 9, "late_keep": 3})
    assert "give two of them" in (lines_of([both], (36,))[-1].refused or "")


def test_where_nothing_can_be_measured_nothing_is_compared() -> None:
    def measure(each: Asked, pruning: Pruning) -> Measured:
        raise ConfigError("device='tpu' is not known")

    with pytest.raises(ConfigError, match="tpu"):
        list(compare([], (36,), measure))
