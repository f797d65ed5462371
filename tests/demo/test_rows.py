"""Rows are deterministic, hold their pictures, and say which of them are broken."""

import hashlib
import io
from collections import Counter

from PIL import Image, UnidentifiedImageError

from star_batch.demo.drawing import render
from star_batch.demo.rows import BAD_KINDS, make_rows
from star_batch.demo.scenes import make_scene, scene_seed
from tests.demo.test_questions import ask_all


def test_the_rows_of_a_seed_stay_what_they_are() -> None:
    texts = [(row["id"], row["question"], row["answer"], row["kind"]) for row in make_rows(100, 2026, 4)]
    assert (
        hashlib.sha256(repr(texts).encode()).hexdigest()
        == "cacd89c4a0355305b4b343d83969c4a083da6d9281c07fb98ce02af1f83e2ba7"
    )


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
