"""Every question has one right answer in its scene, and that is the one it is given."""

import hashlib
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_batch.demo.questions import KINDS, Question, choose_questions, questions
from star_batch.demo.scenes import CELLS, COLOURS, SHAPES, Scene, Thing, make_scene, scene_seed

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
def test_questions_are_a_function_of_the_scene_and_the_randomness(seed: int) -> None:
    assert questions(make_scene(seed), random.Random(3)) == questions(make_scene(seed), random.Random(3))


def test_the_questions_of_a_seed_stay_what_they_are() -> None:
    """Seeds are promised: a held-out question must not become one that was trained on."""
    asked = []
    for index in range(50):
        scene = make_scene(scene_seed("held-out", 2026, index))
        asked += questions(scene, random.Random(index)) + choose_questions(scene, random.Random(index), 3)
    assert (
        hashlib.sha256(repr(asked).encode()).hexdigest()
        == "134b6c08e346f636499fd7120df50f1b11c6b43375c738841ebfce437be9c168"
    )


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
        "is the red star left of the blue ring?": "yes",
        "is the blue ring left of the red cross?": "no",
        "is the red star above the red cross?": "yes",
        "is the red cross above the blue ring?": "no",
        "are the cross and the star the same colour?": "yes",
        "how many red objects are there?": "two",
        "how many blue things do you see?": "one",
        "how many green objects are there?": "zero",
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


def test_relations_are_true_as_often_as_not() -> None:
    asked = [q for seed in range(600) for q in choose_questions(make_scene(seed), random.Random(seed), 3)]
    answers = Counter(question.answer for question in asked if question.kind == "relation")
    assert set(answers) == {"yes", "no"}
    assert 0.4 < answers["yes"] / answers.total() < 0.6


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
