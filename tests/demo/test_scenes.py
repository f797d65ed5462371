"""The scenes are deterministic, their labels are exact and held-out scenes are never trained on."""

import io
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError

from star_batch.demo.scenes import (
    BAD_KINDS,
    CELLS,
    COLOURS,
    GRID,
    IMAGE_SIZE,
    KINDS,
    PATCH_SIZE,
    RGB,
    SHAPES,
    Colour,
    Question,
    Scene,
    Shape,
    Thing,
    choose_questions,
    make_rows,
    make_scene,
    object_patches,
    questions,
    render,
    scene_seed,
)

SEEDS = st.integers(0, 2**40)


def ask_all(scene: Scene, rounds: int = 12) -> set[Question]:
    return {question for turn in range(rounds) for question in questions(scene, random.Random(turn))}


@pytest.fixture
def scene() -> Scene:
    star = Thing(shape="star", colour="red", cell=0, box=(3, 5, 35, 37))
    ring = Thing(shape="ring", colour="blue", cell=5, box=(120, 60, 160, 100))
    cross = Thing(shape="cross", colour="red", cell=7, box=(58, 120, 90, 152))
    return Scene(seed=1, background=(30, 30, 30), things=(star, ring, cross))


@given(SEEDS)
def test_a_scene_is_a_function_of_its_seed(seed: int) -> None:
    assert make_scene(seed) == make_scene(seed)
    assert render(make_scene(seed)).tobytes() == render(make_scene(seed)).tobytes()
    assert questions(make_scene(seed), random.Random(3)) == questions(make_scene(seed), random.Random(3))


@given(SEEDS)
def test_things_stay_in_their_cells_and_in_reading_order(seed: int) -> None:
    things = make_scene(seed).things
    assert 1 <= len(things) <= 4
    assert [thing.cell for thing in things] == sorted({thing.cell for thing in things})
    assert len({thing.name for thing in things}) == len(things)
    for thing in things:
        left, top, right, bottom = thing.box
        assert thing.cell == top // 56 * 3 + left // 56 == (bottom - 1) // 56 * 3 + (right - 1) // 56


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


def test_most_patches_are_background() -> None:
    shares = [len(object_patches(make_scene(seed))) / GRID**2 for seed in range(300)]
    assert 0.1 < sum(shares) / len(shares) < 0.25


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_a_thing_is_drawn_in_its_colour(shape: Shape, colour: Colour) -> None:
    thing = Thing(shape=shape, colour=colour, cell=4, box=(60, 60, 100, 100))
    picture = np.asarray(render(Scene(seed=0, background=(20, 20, 20), things=(thing,)))).astype(int)
    is_colour: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = (np.abs(picture - np.array(RGB[colour])) <= 6).all(2)
    assert 200 < is_colour.sum() == is_colour[60:100, 60:100].sum()


def test_every_answer_is_the_one_the_scene_gives(scene: Scene) -> None:
    asked = {question.text: question.answer for question in ask_all(scene, 60)}
    expected = {
        "how many objects are there?": "three",
        "count the objects.": "there are three objects",
        "what colour is the star?": "red",
        "tell me the colour of the ring.": "the ring is blue",
        "what shape is the blue object?": "ring",
        "tell me the shape of the blue object.": "it is a ring",
        "where is the red star?": "at the top left",
        "in which place is the blue ring?": "right",
        "tell me where the red cross is.": "the red cross is at the bottom",
        "what is at the right?": "a blue ring",
        "name the object at the bottom.": "a red cross",
        "is there a red star?": "yes",
        "can you find a blue ring?": "yes, at the right",
        "do you see anything red?": "yes",
        "describe the picture.": "a red star at the top left, a blue ring at the right and a red cross at the bottom",
        "list the objects.": "a red star, a blue ring and a red cross",
    }
    assert {text: asked[text] for text in expected} == expected
    assert "what shape is the red object?" not in asked  # two of them are red
    assert asked["what is at the centre?"] == "nothing"


@given(SEEDS)
def test_no_text_has_two_answers_in_one_scene(seed: int) -> None:
    answers: dict[str, set[str]] = {}
    for question in ask_all(make_scene(seed)):
        answers.setdefault(question.text, set()).add(question.answer)
    assert all(len(found) == 1 for found in answers.values())


@given(SEEDS)
def test_what_is_denied_is_absent(seed: int) -> None:
    scene = make_scene(seed)
    looks = [{thing.colour, thing.shape, "anything"} for thing in scene.things]
    for question in ask_all(scene):
        if question.kind == "exists":
            words = question.text.replace(" in the picture", "").rstrip("?").split()
            asked = {word for word in words if word in (*COLOURS, *SHAPES, "anything")}
            assert question.answer.startswith("yes") == any(asked <= look for look in looks)


@given(SEEDS, st.integers(1, 12))
def test_chosen_questions_are_different(seed: int, num_questions: int) -> None:
    scene = make_scene(seed)
    chosen = choose_questions(scene, random.Random(seed), num_questions)
    assert len({question.text for question in chosen}) == len(chosen) <= num_questions


def test_answers_vary_in_kind_and_length() -> None:
    asked = [q for seed in range(400) for q in choose_questions(make_scene(seed), random.Random(seed), 1)]
    kinds = Counter(question.kind for question in asked)
    lengths = {len(question.answer.split()) for question in asked}
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) > 15
    assert min(lengths) == 1
    assert 20 <= max(lengths) <= 29
    assert {cell for cell in CELLS if any(cell in question.answer for question in asked)} == set(CELLS)


@given(st.integers(0, 1000), st.integers(0, 2**31), st.integers(0, 1000), st.integers(0, 2**31))
def test_held_out_seeds_are_never_training_seeds(seed: int, index: int, other: int, place: int) -> None:
    assert scene_seed("train", seed, index) != scene_seed("held-out", other, place)
    is_same = scene_seed("train", seed, index) == scene_seed("train", other, place)
    assert is_same == ((seed, index) == (other, place))


def test_rows_are_deterministic_and_hold_their_pictures() -> None:
    rows = list(make_rows(30, 5))
    assert rows == list(make_rows(30, 5))
    assert len({row["id"] for row in rows}) == 30
    assert len({row["image"] for row in rows}) == 30
    scene = make_scene(scene_seed("held-out", 5, 0))
    picture = Image.open(io.BytesIO(rows[0]["image"]))
    assert picture.tobytes() == render(scene).tobytes()
    answers = {question.text: question.answer for question in ask_all(scene, 40)}
    assert answers[rows[0]["question"]] == rows[0]["answer"]


def test_images_are_shared_only_when_asked() -> None:
    rows = list(make_rows(12, 5, questions_per_image=4))
    assert len({row["image"] for row in rows}) == 3
    assert len({(row["image"], row["question"]) for row in rows}) == 12


def test_bad_rows_are_planted_and_say_so() -> None:
    rows = list(make_rows(60, 9, num_bad=8))
    bad = [row for row in rows if not row["id"].startswith("row-")]
    assert len(rows) == 60
    assert Counter(row["id"].rsplit("-", 2)[0] for row in bad) == dict.fromkeys(BAD_KINDS, 2)
    assert all(is_broken(row) for row in bad)
    assert not any(is_broken(row) for row in rows if row not in bad)


def is_broken(row: dict[str, object]) -> bool:
    image = row["image"]
    if not row["question"] or not isinstance(image, bytes):
        return True
    try:
        Image.open(io.BytesIO(image)).load()
    except (OSError, UnidentifiedImageError):
        return True
    return False
