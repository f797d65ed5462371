"""Selections: sorted, unique, exactly as many as asked for, and the ones that the methods mean."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from star_batch.pruning import cdpruner, divprune, fastv, scores, star, star_pro, visionzip, vispruner
from star_batch.pruning.controls import select_random, select_stride

GOLDEN = Path(__file__).parent / "golden" / "vispruner.json"


def golden_inputs(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    r = np.random.RandomState(seed)
    attention = r.rand(4, 576) ** 3
    attention /= attention.sum(-1, keepdims=True)
    base = r.randn(40, 32)
    features = base[r.randint(0, 40, 576)] + 0.3 * r.randn(576, 32)
    return torch.from_numpy(attention), torch.from_numpy(features)


def random_inputs(num_tokens: int, seed: int, heads: int = 3, queries: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    attention = torch.randn(heads, queries, num_tokens, generator=generator).softmax(-1)
    return attention, torch.randn(num_tokens, 8, generator=generator)


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text()), ids=lambda c: f"{c['seed']}-{c['num_keep']}")
def test_vispruner_equals_the_published_selection(case: dict[str, object]) -> None:
    attention, features = golden_inputs(int(str(case["seed"])))
    kept = vispruner.select(attention, features, case["num_keep"], case["important_ratio"])  # type: ignore[arg-type]
    assert kept.tolist() == case["kept"]


def test_vispruner_runs_on_an_odd_remainder() -> None:
    """The published code raises here: 547 candidates do not split into equal halves."""
    attention, features = golden_inputs(0)
    kept = vispruner.select(attention, features, 58)
    assert kept.unique().numel() == 58


def test_vispruner_of_an_image_does_not_depend_on_its_batch() -> None:
    images = [golden_inputs(seed) for seed in range(3)]
    attention = torch.stack([a.unsqueeze(1) for a, _ in images])
    features = torch.stack([f for _, f in images])
    together = vispruner.select(attention, features, 64)
    alone = [vispruner.select(a, f, 64) for a, f in images]
    assert together.tolist() == [kept.tolist() for kept in alone]


def test_vispruner_prefers_a_stranger_to_a_duplicate() -> None:
    features = torch.eye(4)[[0, 0, 0, 1, 2]]
    attention = torch.full((1, 1, 5), 0.2)
    assert {3, 4} <= set(vispruner.select(attention, features, 3, important_ratio=0.0).tolist())


@settings(max_examples=60, deadline=None)
@given(num_tokens=st.integers(1, 90), data=st.data(), ratio=st.floats(0.0, 1.0), seed=st.integers(0, 99))
def test_every_selection_is_sorted_unique_in_range_and_exact(
    num_tokens: int, data: st.DataObject, ratio: float, seed: int
) -> None:
    num_keep = data.draw(st.integers(1, num_tokens))
    attention, features = random_inputs(num_tokens, seed)
    selected = [
        star.select_early(attention, num_keep),
        star.select_late(attention, num_keep),
        star.select_early(scores.self_attention(features), num_keep),
        vispruner.select(attention, features, num_keep, ratio),
        select_random(num_tokens, num_keep, seed),
        select_stride(num_tokens, num_keep),
    ]
    for kept in selected:
        assert kept.dtype == torch.int64
        assert kept.shape == (num_keep,)
        assert (kept.diff() > 0).all()
        assert 0 <= kept[0] <= kept[-1] < num_tokens


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999))
def test_the_order_of_heads_changes_nothing(seed: int) -> None:
    attention, features = random_inputs(50, seed, heads=4)
    shuffled = attention[[2, 0, 3, 1]]
    assert star.select_early(attention, 9).equal(star.select_early(shuffled, 9))
    assert vispruner.select(attention, features, 9).equal(vispruner.select(shuffled, features, 9))


def test_scores_are_not_constant() -> None:
    """The formulas read literally score every token alike; the attention received does not."""
    attention, features = random_inputs(50, seed=0)
    assert scores.received(attention).std() > 1e-3
    assert scores.received(scores.self_attention(features)).std() > 1e-3
    assert attention.mean(dim=-1).std() < 1e-6


def test_star_keeps_the_tokens_that_receive_most() -> None:
    attention = torch.tensor([[[0.1, 0.5, 0.1, 0.3]], [[0.1, 0.2, 0.1, 0.6]]])
    assert star.select_early(attention, 2).tolist() == [1, 3]
    assert star.select_late(attention, 1).tolist() == [3]


def test_random_repeats_for_a_seed_and_differs_between_seeds() -> None:
    assert select_random(100, 10, seed=7).equal(select_random(100, 10, seed=7))
    assert not select_random(100, 10, seed=7).equal(select_random(100, 10, seed=8))


def test_stride_is_even_and_centred() -> None:
    assert select_stride(12, 4).tolist() == [1, 4, 7, 10]


def test_scores_are_float64_whatever_comes_in() -> None:
    attention, features = random_inputs(10, seed=0)
    assert scores.received(attention.bfloat16()).dtype == torch.float64
    assert scores.self_attention(features.bfloat16()).dtype == torch.float64
    assert scores.cosines(features.bfloat16()).dtype == torch.float64


ALL_EARLY = {
    "pivots": lambda attention, features, keep: star_pro.select_pivots(features, keep),
    "dominant": lambda attention, features, keep: visionzip.select_dominant(attention, keep),
    "diverse": lambda attention, features, keep: divprune.select_diverse(features, keep),
    "relevant": lambda attention, features, keep: cdpruner.select_relevant(features, attention.mean((0, 1)), keep),
}


@pytest.mark.parametrize("name", ALL_EARLY)
@given(num_tokens=st.integers(1, 40), data=st.data(), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_the_other_early_selections_keep_as_many_as_asked_for_sorted(
    name: str, num_tokens: int, data: st.DataObject, seed: int
) -> None:
    num_keep = data.draw(st.integers(1, num_tokens))
    images = [random_inputs(num_tokens, seed + n) for n in range(2)]
    alone = [ALL_EARLY[name](attention, features, num_keep) for attention, features in images]
    for kept in alone:
        assert kept.dtype == torch.int64
        assert kept.tolist() == sorted(set(kept.tolist()))
        assert len(kept) == num_keep
    if name != "relevant":
        attention, features = (torch.stack(parts) for parts in zip(*images, strict=True))
        assert ALL_EARLY[name](attention, features, num_keep).tolist() == [kept.tolist() for kept in alone]


@pytest.mark.parametrize("seed", range(5))
def test_pivots_are_those_of_a_column_pivoted_qr(seed: int) -> None:
    """The loop of STAR-Pro's public code, written down from its description: take the longest residual, deflate."""
    features = torch.randn(30, 12, generator=torch.Generator().manual_seed(seed)).double()
    residual, taken = features.clone(), []
    for _ in range(12):
        taken.append(int(residual.norm(dim=1).argmax()))
        direction = residual[taken[-1]] / residual[taken[-1]].norm()
        residual = residual - residual @ direction[:, None] * direction
    assert star_pro.select_pivots(features, 12).tolist() == sorted(taken)


def test_where_nothing_is_left_to_explain_the_earlier_tokens_come_first() -> None:
    features = torch.eye(3)[[2, 2, 1, 1, 0, 0]] * torch.tensor([1.0, 5, 1, 4, 1, 3])[:, None]
    assert star_pro.select_pivots(features, 3).tolist() == [1, 3, 5]
    assert star_pro.select_pivots(features, 5).tolist() == [0, 1, 2, 3, 5]
    assert star_pro.select_pivots(torch.zeros(4, 2), 2).tolist() == [0, 1]


def test_pivots_are_the_greedy_maximum_of_the_determinant() -> None:
    """CDPruner's objective, by trying every token: the determinant of the chosen block of the kernel."""
    attention, features = random_inputs(10, 4)
    relevance = attention.mean((0, 1)).double()
    scaled = (relevance - relevance.min() + 1e-6) / (relevance.max() - relevance.min() + 1e-6)
    kernel = scaled[:, None] * scores.cosines(features) * scaled
    chosen: list[int] = []
    for _ in range(4):
        gains = {i: float(torch.linalg.det(kernel[[*chosen, i]][:, [*chosen, i]])) for i in {*range(10)} - {*chosen}}
        chosen.append(max(gains, key=lambda token: gains[token]))
    assert cdpruner.select_relevant(features, relevance, 4).tolist() == sorted(chosen)


def test_divprune_takes_the_farthest_from_what_it_has() -> None:
    """By hand, on a circle: the nearest to 200 degrees is the farthest away; of it 10 is the opposite, then 100."""
    angles = torch.tensor([0.0, 10.0, 90.0, 100.0, 200.0]).deg2rad()
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert divprune.select_diverse(features, 1).tolist() == [4]
    assert divprune.select_diverse(features, 2).tolist() == [1, 4]
    assert divprune.select_diverse(features, 3).tolist() == [1, 3, 4]


def test_visionzip_keeps_the_dominant_and_every_so_many_of_the_rest() -> None:
    attention = torch.zeros(1, 1, 12)
    attention[0, 0, [3, 7]] = torch.tensor([0.6, 0.4])
    assert visionzip.select_dominant(attention, 4, dominant_ratio=0.5).tolist() == [2, 3, 7, 9]
    assert visionzip.select_dominant(attention, 2, dominant_ratio=1.0).tolist() == [3, 7]


def test_late_selections_look_at_their_own_rows() -> None:
    attention = torch.tensor([[[0.1, 0.6, 0.3], [0.4, 0.1, 0.1]], [[0.1, 0.1, 0.9], [0.3, 0.2, 0.1]]])
    assert fastv.select_by_last_row(attention, 1).tolist() == [0]  # .35 .15 .10
    assert star.select_late(attention, 1).tolist() == [2]  # means .225 .25 .35
    assert star.select_late_by_peak(attention, 2).tolist() == [1, 2]  # peaks .4 .6 .9
