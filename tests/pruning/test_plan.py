"""Budgets: equal layer-mean cost for every method, and overrides."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from star_batch.errors import ConfigError
from star_batch.pruning import METHODS, Pruning, make_plan
from star_batch.pruning.plan import resolve
from star_batch.pruning.scores import num_for_mass


def counts(num_visual: int = 576, num_layers: int = 32, **options: object) -> tuple[int, ...]:
    return make_plan(Pruning(**options), num_layers, num_visual).counts(num_visual)


def test_star_keep_128_of_32_layers_is_192_then_64_from_layer_16() -> None:
    plan = make_plan(Pruning(method="star", keep=128), 32, 576)
    assert plan.counts(576) == (192, 64)
    assert plan.layer_groups == (range(16), range(16, 32))
    assert plan.layer_mean(576) == 128


@pytest.mark.parametrize("method", [m for m in METHODS if m != "none"])
@pytest.mark.parametrize("num_layers", [6, 28, 32, 40])
def test_keep_means_the_same_cost_for_every_method(method: str, num_layers: int) -> None:
    plan = make_plan(Pruning(method=method, keep=384), num_layers, 576)
    assert plan.layer_mean(576) == pytest.approx(384, abs=0.5)


@pytest.mark.parametrize(("method", "kept"), [("fastv", 98), ("star_pro", (256, 64, 32)), ("pyramiddrop", None)])
def test_published_schedules_at_128_of_576(method: str, kept: object) -> None:
    """STAR-Pro: 12 layers with 2T, 12 with T/2, 8 with T/4. FastV: 2 layers with all. PyramidDrop: 8, which is more."""
    if method == "star_pro":
        assert counts(method=method, keep=128) == kept
    elif method == "fastv":
        assert counts(method=method, keep=128) == (576, kept)
    else:
        with pytest.raises(ConfigError, match=r"keep=128 cannot be met: layers would see 144\.75 of 576"):
            counts(method=method, keep=128)


def test_pyramiddrop_halves_where_the_budget_is_the_published_one() -> None:
    assert counts(method="pyramiddrop", keep=270) == (576, 288, 144, 72)


@pytest.mark.parametrize(
    ("num_layers", "late_layer", "layer"), [(32, 0.5, 16), (6, 0.5, 3), (28, 0.75, 21), (2, 0.9, 1)]
)
def test_a_layer_by_share_of_the_depth(num_layers: int, late_layer: float, layer: int) -> None:
    plan = make_plan(Pruning(method="star", keep=64, late_layer=late_layer), num_layers, 576)
    assert [step.layer for step in plan.late] == [layer]


def test_rounding_stays_near_the_ratio_where_few_layers_follow_the_cut() -> None:
    """Five layers of six before the cut: a token more or less there is five after it."""
    assert counts(144, 6, method="star", keep=36, late_layer=5) == (40, 16)
    assert counts(576, 32, method="star", keep=65) == (98, 32)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "none"])
@pytest.mark.parametrize("keep", [576, 9999, 1.0])
def test_keeping_more_than_there_is_keeps_all(method: str, keep: int | float) -> None:
    assert set(counts(method=method, keep=keep)) == {576}


def test_a_share_is_taken_of_the_image() -> None:
    assert counts(method="vispruner", keep=0.25) == (144,)
    assert counts(method="vispruner", keep=1) == (1,)


def test_star_overrides() -> None:
    assert counts(method="star", keep=128, early_keep=160) == (160, 96)
    assert counts(method="star", keep=128, late_keep=32) == (224, 32)
    assert counts(method="star", early_keep=200, late_keep=0.125) == (200, 72)
    assert counts(method="star", keep=128, late_layer=8) == (256, 85)


def test_star_above_two_thirds_keeps_all_early_and_meets_the_mean_late() -> None:
    assert counts(method="star", keep=480) == (576, 384)


@pytest.mark.parametrize(
    ("options", "mean"),
    [
        ({"keep": 128, "early_keep": 64}, "64"),
        ({"keep": 16, "early_keep": 200}, "100.5"),
        ({"keep": 400, "late_keep": 10}, "293"),
    ],
)
def test_a_part_that_makes_keep_impossible_is_refused(options: dict[str, int], mean: str) -> None:
    """Methods would be compared at a cost that they do not have."""
    with pytest.raises(ConfigError, match=f"keep={options['keep']} cannot be met .* {mean} of 576"):
        counts(method="star", **options)


def test_keep_and_both_stages_say_too_much() -> None:
    with pytest.raises(ConfigError, match="give two of them"):
        Pruning(method="star", keep=5, early_keep=200, late_keep=100)


def test_star_refuses_a_late_stage_larger_than_the_early_one() -> None:
    with pytest.raises(ConfigError, match="early_keep=64 and late_keep=65"):
        counts(method="star", early_keep=64, late_keep=65)


@pytest.mark.parametrize("layer", [32, 99])
def test_late_layer_out_of_range_says_what_is_allowed(layer: int) -> None:
    with pytest.raises(ConfigError, match=f"late_layer={layer}: this model has 32 layers; choose 1 to 31"):
        counts(method="star", keep=64, late_layer=layer)


@given(
    num_visual=st.integers(1, 3000),
    keep=st.one_of(st.integers(1, 4000), st.floats(0.001, 1.0)),
    half_depth=st.integers(1, 40),
)
def test_star_meets_the_mean_for_any_image(num_visual: int, keep: int | float, half_depth: int) -> None:
    plan = make_plan(Pruning(method="star", keep=keep), 2 * half_depth, num_visual)
    early, late = plan.counts(num_visual)
    wanted = max(1, min(round(keep * num_visual) if isinstance(keep, float) else keep, num_visual))
    assert 1 <= late <= early <= num_visual
    assert abs(plan.layer_mean(num_visual) - wanted) <= 1


@given(
    first=st.integers(1, 3000), num_visual=st.integers(1, 3000), early=st.floats(0.01, 1.0), late=st.integers(1, 900)
)
def test_stages_fit_any_image_once_they_fit_one(first: int, num_visual: int, early: float, late: int) -> None:
    """Numbers beside shares: a small image has fewer tokens than were thought of when the plan was made."""
    try:
        plan = make_plan(Pruning(method="star", early_keep=early, late_keep=late), 32, first)
    except ConfigError:
        return
    before, after = plan.counts(num_visual)
    assert 1 <= after <= before <= num_visual


def test_positions_on_several_axes_cannot_be_counted_anew() -> None:
    pruning = Pruning(method="vispruner", keep=8, positions="compact")
    assert make_plan(pruning, 4, 64).positions == "compact"
    with pytest.raises(ConfigError, match="positions='compact': this model's images have rows and columns"):
        make_plan(pruning, 4, 64, num_axes=3)


def peaked(num_tokens: int, num_peaks: int) -> Tensor:
    """Attention `[1, 1, N]`: all of it on the first few."""
    attention = torch.zeros(1, 1, num_tokens)
    attention[..., :num_peaks] = 1.0
    return attention


def test_keep_mass_is_the_fewest_tokens_that_receive_so_much() -> None:
    plan = make_plan(Pruning(method="vispruner", keep_mass=0.5), 4, 100)
    assert plan.counts_of(peaked(100, 10), 100) == (5,)
    assert plan.counts_of(peaked(100, 60), 100) == (30,)
    assert plan.counts(100) == (100,), "before an image is seen, it may need all it has"


def test_keep_mass_stays_between_its_bounds() -> None:
    pruning = Pruning(method="vispruner", keep_mass=0.5, keep_least=8, keep_most=0.2)
    plan = make_plan(pruning, 4, 100)
    assert [plan.counts_of(peaked(100, peaks), 100) for peaks in (10, 30, 60)] == [(8,), (15,), (20,)]
    assert plan.counts(100) == (20,)


@pytest.mark.parametrize(("least", "most"), [(8, 0.01), (0.5, 3)])
def test_the_least_holds_against_a_most_that_is_below_it_and_is_planned_for(
    least: int | float, most: int | float
) -> None:
    plan = make_plan(Pruning(method="vispruner", keep_mass=0.5, keep_least=least, keep_most=most), 4, 100)
    assert plan.counts_of(peaked(100, 10), 100) == plan.counts(100) == (resolve(least, 100),)


def test_star_says_only_what_was_given_when_it_cannot_keep_so_many() -> None:
    with pytest.raises(ConfigError, match="keep=18 cannot be met with early_keep=10: layers would see 10 of 144"):
        make_plan(Pruning(method="star", keep=18, early_keep=10), 6, 144)


def test_star_spends_what_keep_mass_allows_as_it_would_spend_keep() -> None:
    following = make_plan(Pruning(method="star", keep_mass=0.5), 32, 576)
    assert following.counts_of(peaked(576, 256), 576) == counts(method="star", keep=128)


@given(
    scores=st.lists(st.floats(0.001, 1.0), min_size=1, max_size=60),
    mass=st.floats(0.01, 1.0),
)
def test_fewer_tokens_would_not_do(scores: list[float], mass: float) -> None:
    num = num_for_mass(torch.tensor(scores, dtype=torch.float64), mass)
    ordered = sorted(scores, reverse=True)
    assert sum(ordered[:num]) >= mass * sum(scores) - 1e-9
    assert sum(ordered[: num - 1]) <= mass * sum(scores) + 1e-9
