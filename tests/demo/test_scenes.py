"""The scenes are deterministic, and held-out scenes are never trained on."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from star_batch.demo.scenes import GRID, make_scene, object_patches, scene_seed

SEEDS = st.integers(0, 2**40)


@given(SEEDS)
def test_a_scene_is_a_function_of_its_seed(seed: int) -> None:
    assert make_scene(seed) == make_scene(seed)


def test_the_scenes_of_a_seed_stay_what_they_are() -> None:
    """The model was trained on them, and figures are told about them."""
    scenes = [make_scene(scene_seed(split, 2026, index)) for index in range(50) for split in ("train", "held-out")]
    assert (
        hashlib.sha256(repr(scenes).encode()).hexdigest()
        == "2ba38862dd2c917a9364634afe37fd9ca5864ef7eaf63956413a7fbe86d11541"
    )


@given(SEEDS)
def test_things_stay_in_their_cells_and_in_reading_order(seed: int) -> None:
    things = make_scene(seed).things
    assert 1 <= len(things) <= 4
    assert [thing.cell for thing in things] == sorted({thing.cell for thing in things})
    assert len({thing.name for thing in things}) == len(things)
    for thing in things:
        left, top, right, bottom = thing.box
        assert thing.cell == top // 56 * 3 + left // 56 == (bottom - 1) // 56 * 3 + (right - 1) // 56


def test_most_patches_are_background() -> None:
    shares = [len(object_patches(make_scene(seed))) / GRID**2 for seed in range(300)]
    assert 0.1 < sum(shares) / len(shares) < 0.25


@given(st.integers(0, 1000), st.integers(0, 2**31), st.integers(0, 1000), st.integers(0, 2**31))
def test_held_out_seeds_are_never_training_seeds(seed: int, index: int, other: int, place: int) -> None:
    assert scene_seed("train", seed, index) != scene_seed("held-out", other, place)
    is_same = scene_seed("train", seed, index) == scene_seed("train", other, place)
    assert is_same == ((seed, index) == (other, place))
