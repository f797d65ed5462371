"""Held-out scenes as rows: a picture, a question, the right answer; some are broken on purpose.

Knows no model, no tokenizer and no file.
"""

import random
from collections.abc import Iterator
from typing import Any, Literal, get_args

from star_batch.demo.drawing import encode_png, render
from star_batch.demo.questions import choose_questions
from star_batch.demo.scenes import make_scene, scene_seed

BadKind = Literal["no-bytes", "cut-bytes", "not-an-image", "no-question"]
BAD_KINDS: tuple[BadKind, ...] = get_args(BadKind)


def make_rows(num_rows: int, seed: int, num_bad: int = 0, *, questions_per_image: int = 1) -> Iterator[dict[str, Any]]:
    """Held-out rows `id, image (PNG bytes), question, answer, kind`.

    A bad row's id begins with its `BadKind`. The bad rows are part of `num_rows` and stand at places that
    depend on the arguments alone.
    """
    places = sorted(random.Random(seed).sample(range(num_rows), num_bad))
    bad: dict[int, BadKind] = {place: BAD_KINDS[order % len(BAD_KINDS)] for order, place in enumerate(places)}
    for index, row in zip(range(num_rows), _good_rows(seed, questions_per_image), strict=False):
        row["id"] = f"{bad.get(index, 'row')}-{seed}-{index:06d}"
        yield _spoil(row, bad[index]) if index in bad else row


def _good_rows(seed: int, questions_per_image: int) -> Iterator[dict[str, Any]]:
    index = 0
    while True:
        scene = make_scene(scene_seed("held-out", seed, index))
        rng = random.Random(scene.seed)
        image = encode_png(render(scene))
        for question in choose_questions(scene, rng, questions_per_image):
            yield {
                "id": "",
                "image": image,
                "question": question.text,
                "answer": question.answer,
                "kind": question.kind,
            }
        index += 1


def _spoil(row: dict[str, Any], kind: BadKind) -> dict[str, Any]:
    image: bytes = row["image"]
    match kind:
        case "no-bytes":
            return row | {"image": None}
        case "cut-bytes":
            return row | {"image": image[: len(image) // 2]}
        case "not-an-image":
            return row | {"image": b"this is not an image"}
        case "no-question":
            return row | {"question": ""}
