"""A scene is drawn where it says, in its colours, and always the same."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_batch.demo.drawing import RGB, render
from star_batch.demo.scenes import (
    COLOURS,
    GRID,
    IMAGE_SIZE,
    PATCH_SIZE,
    SHAPES,
    Colour,
    Scene,
    Shape,
    Thing,
    make_scene,
    object_patches,
    scene_seed,
)

SEEDS = st.integers(0, 2**40)


@given(SEEDS)
def test_a_picture_is_a_function_of_its_scene(seed: int) -> None:
    assert render(make_scene(seed)).tobytes() == render(make_scene(seed)).tobytes()


def test_the_pictures_of_a_seed_stay_what_they_are() -> None:
    pixels = b"".join(render(make_scene(scene_seed("held-out", 2026, index))).tobytes() for index in range(50))
    assert hashlib.sha256(pixels).hexdigest()[:32] == "e1e620d7a4f8555838c074eef02f2cc0"


@given(SEEDS)
def test_object_patches_are_those_that_the_drawing_touches(seed: int) -> None:
    scene = make_scene(seed)
    empty = Scene(seed=seed, background=scene.background, things=())
    is_drawn = (np.asarray(render(scene)) != np.asarray(render(empty))).any(2)
    is_touched = is_drawn.reshape(GRID, PATCH_SIZE, GRID, PATCH_SIZE).any((1, 3)).reshape(-1)
    patches = object_patches(scene)
    assert patches == sorted(set(patches))
    assert set(np.flatnonzero(is_touched)) <= set(patches)
    boxes = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=bool)
    for left, top, right, bottom in (thing.box for thing in scene.things):
        boxes[top:bottom, left:right] = True
    covered = boxes.reshape(GRID, PATCH_SIZE, GRID, PATCH_SIZE).any((1, 3)).reshape(-1)
    assert patches == list(np.flatnonzero(covered))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_a_thing_is_drawn_in_its_colour(shape: Shape, colour: Colour) -> None:
    thing = Thing(shape=shape, colour=colour, cell=4, box=(60, 60, 100, 100))
    picture = np.asarray(render(Scene(seed=0, background=(20, 20, 20), things=(thing,)))).astype(int)
    is_colour: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = (np.abs(picture - np.array(RGB[colour])) <= 6).all(2)
    assert 200 < is_colour.sum() == is_colour[60:100, 60:100].sum()
