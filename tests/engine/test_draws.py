"""Draws follow the distribution, depend on their own row alone, and never leave the nucleus."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from star_batch.engine import draws
from star_batch.engine.draws import Chance, draw, is_in_nucleus, nucleus


def chance(seed: int = 0, step: int = 0, temperature: float = 1.0, top_p: float = 1.0) -> Chance:
    return Chance(temperature=temperature, top_p=top_p, seed=seed, step=step)


def drawn(logits: Tensor, chances: list[Chance]) -> list[int]:
    return draw(logits, logits.amax(dim=-1), dict(enumerate(chances))).tolist()


def random_logits(rows: int, tokens: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(rows, tokens, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.5, 0.8), (1.0, 0.3)])
def test_draws_come_as_often_as_their_probability_says(temperature: float, top_p: float) -> None:
    """Chi-square over the tokens of a row, far below what chance would exceed once in ten thousand runs."""
    logits, number = random_logits(1, 12), 6000
    found = drawn(logits.expand(number, -1), [chance(n, temperature=temperature, top_p=top_p) for n in range(number)])
    probabilities = (logits[0].double() / temperature).softmax(-1)
    inside = nucleus(probabilities[None], [top_p])[0]
    expected = number * inside / inside.sum()
    counts = torch.bincount(torch.tensor(found), minlength=12)
    assert counts[inside == 0].sum() == 0
    is_there = inside > 0
    freedom = int(is_there.sum()) - 1
    square = float(((counts - expected)[is_there] ** 2 / expected[is_there]).sum())
    assert square < freedom + 4 * math.sqrt(2 * freedom) + 4


@given(
    st.integers(1, 9),
    st.integers(1, 1500),
    st.integers(0, 99),
    st.sampled_from([0.3, 1.0]),
    st.sampled_from([0.2, 0.9, 1.0]),
)
@settings(max_examples=60)
def test_a_draw_does_not_know_who_is_beside_it(rows: int, tokens: int, seed: int, heat: float, top_p: float) -> None:
    logits = random_logits(rows, tokens, seed)
    chances = [chance(seed + row, row % 3, heat, top_p) for row in range(rows)]
    together = drawn(logits, chances)
    assert together == [drawn(logits[row : row + 1], [chances[row]])[0] for row in range(rows)]
    order = list(reversed(range(rows)))
    assert drawn(logits[order], [chances[row] for row in order]) == [together[row] for row in order]
    weights = (logits / heat).softmax(-1)
    inside = nucleus(weights, [top_p * 1.001] * rows)
    assert all(inside[row, token] > 0 for row, token in enumerate(together))


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=20), st.floats(0.01, 1.0))
def test_the_nucleus_is_the_smallest_set_that_holds_top_p(weights: list[float], top_p: float) -> None:
    """But for tokens as likely as its last one, which belong to it, too."""
    probabilities = torch.tensor([weights], dtype=torch.float64)
    probabilities /= probabilities.sum()
    kept = nucleus(probabilities, [top_p])[0]
    inside = kept > 0
    assert kept.sum() >= top_p - 1e-9
    assert kept.sum() - kept[kept == kept[inside].min()].sum() < top_p
    if not inside.all():
        assert probabilities[0][inside].min() > probabilities[0][~inside].max()


@given(st.integers(1, 700), st.integers(0, 50), st.floats(0.05, 0.99))
@settings(max_examples=60)
def test_two_ways_to_know_a_nucleus_agree(tokens: int, seed: int, top_p: float) -> None:
    weights = random_logits(1, tokens, seed).exp()
    blocks = torch.nn.functional.pad(weights, (0, -tokens % draws._BLOCK)).unflatten(1, (-1, draws._BLOCK))
    inside = nucleus(weights, [top_p])[0] > 0
    total = weights.sum(dim=1, dtype=torch.float64)
    asked = [bool(is_in_nucleus(blocks, torch.tensor([token]), total, [top_p])) for token in range(tokens)]
    assert sum(one != other for one, other in zip(asked, inside.tolist(), strict=True)) <= 1  # rounding, at its edge


def test_rows_that_reject_for_long_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = random_logits(6, 2000, scale=0.01)
    logits[:, 7] += 0.2
    assert drawn(logits, [chance(row, top_p=1e-9) for row in range(6)]) == [7] * 6
    monkeypatch.setattr(draws, "_ROUNDS", 1)
    found = drawn(logits, [chance(row, top_p=0.5) for row in range(6)])
    assert len(set(found)) > 1


def test_points_are_spread_and_differ_by_seed_step_and_round() -> None:
    points = [chance(seed, step).point(round) for seed in range(20) for step in range(20) for round in range(5)]
    assert len(set(points)) == len(points)
    assert all(0.0 <= point < 1.0 for point in points)
    assert abs(sum(points) / len(points) - 0.5) < 0.03


@pytest.mark.parametrize("logits", [[math.nan] * 600, [math.inf, 1.0], [-math.inf] * 3, [1.0, -math.inf]])
def test_numbers_that_are_not_finite_break_nothing(logits: list[float]) -> None:
    """Their row gets an error elsewhere; here it only must not stop the others."""
    other = random_logits(1, len(logits))
    both = torch.cat([torch.tensor([logits]), other])
    for top_p in (1.0, 0.5):
        _, second = drawn(both, [chance(1, top_p=top_p), chance(2, top_p=top_p)])
        assert second == drawn(other, [chance(2, top_p=top_p)])[0]
