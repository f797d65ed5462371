"""Admission: a record that cannot be answered fails alone, in words, before it meets the model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from star_batch import Engine, EngineOptions, Record
from star_batch.records import Picture
from tests.tiny import random_image, save_tiny


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"image": None}, "image_missing"),
        ({"image": b""}, "image_missing"),
        ({"image": b"not an image"}, "image_unreadable"),
        ({"image": "/no/such/file.png"}, "image_fetch_failed"),
        ({"image": np.zeros((3, 3, 3), np.uint8)}, "image_unreadable"),
        ({"prompt": None}, "prompt_missing"),
        ({"prompt": "  "}, "prompt_missing"),
        ({"prompt": "w1 <image> <image> w2"}, "prompt_invalid"),
        ({"prompt": "w1 w2", "raw": True}, "prompt_invalid"),
        ({"prompt": "w1 " * 600}, "prompt_too_long"),
        ({"max_new_tokens": 0}, "value_invalid"),
        ({"max_new_tokens": 2, "min_new_tokens": 3}, "value_invalid"),
        ({"choices": ()}, "value_invalid"),
        ({"choices": ("w1", "")}, "value_invalid"),
        ({"choices": ("w1", None)}, "value_invalid"),
        ({"choices": "w1"}, "value_invalid"),
        ({"choices": ("w1", " w1")}, "value_invalid"),
        ({"choices": ("w1 " * 1500,)}, "prompt_too_long"),
        ({"stop": "w1"}, "value_invalid"),
        ({"stop": ("",)}, "value_invalid"),
        ({"min_new_tokens": None}, "value_invalid"),
        ({"min_new_tokens": 1.5}, "value_invalid"),
        ({"prompt": 5}, "prompt_invalid"),
        ({"prompt": "w1 \ud800"}, "prompt_invalid"),
        ({"prompt": "w" * 4_000_000}, "prompt_too_long"),
        ({"image": Image.new("RGB", (101, 1))}, "image_too_large"),
    ],
)
def test_a_bad_record_fails_alone(engine: Engine, fields: dict[str, object], kind: str) -> None:
    bad = Record(**{"id": "bad", "image": random_image(1), "prompt": "w1", **fields})  # type: ignore[arg-type]
    good = Record("good", random_image(1), "w1")
    found = engine.answer([good, bad, good], max_new_tokens=3)
    assert [answer.id for answer in found] == ["good", "bad", "good"]
    assert [answer.error_kind for answer in found] == [None, kind, None]
    assert found[1].error
    assert found[1].text is None


@pytest.mark.parametrize("id", [None, 7, "\ud800"])
def test_an_id_that_is_no_text_is_refused(engine: Engine, id: object) -> None:
    """Seeds come from the id, in the engine's thread: there an odd one would have ended the engine for everybody."""
    (found,) = engine.answer([Record(id, random_image(0), "w1")])  # type: ignore[arg-type]
    assert found.error_kind == "value_invalid"


def test_numbers_and_arrays_of_numpy_are_taken(engine: Engine) -> None:
    mirrored = Picture(np.asarray(random_image(0, (56, 56)))[None, :, ::-1], (56, 56))
    (found,) = engine.answer([Record("a", mirrored, "w1", max_new_tokens=np.int64(3))])  # type: ignore[arg-type]
    assert found.num_output == 3


@pytest.mark.parametrize("views", [np.zeros((1, 28, 56, 3), np.uint8), np.zeros((1, 56, 56, 3), np.float32)])
def test_a_picture_of_another_checkpoint_is_one_rows_error(engine: Engine, views: np.ndarray[Any, Any]) -> None:
    (found,) = engine.answer([Record("a", Picture(views, (56, 56)), "w1")])
    assert found.error_kind == "image_unreadable"
    assert "expected uint8 of shape (1, 56, 56, 3)" in str(found.error)


def test_a_row_larger_than_the_cache_is_refused_and_not_waited_for(tiny: str) -> None:
    options = EngineOptions(kv_memory_gib=0.0002)
    with Engine.from_pretrained(tiny, dtype="float32", options=options) as engine:
        long, short = Record("long", random_image(0), "w1 " * 200), Record("short", random_image(0), "w1")
        found = engine.answer([long, short], max_new_tokens=3)
    assert [answer.error_kind for answer in found] == ["row_too_large", None]


def test_raw_prompt_and_the_default_template(tmp_path: Path) -> None:
    model = save_tiny(tmp_path, template=False)
    with Engine.from_pretrained(model, dtype="float32") as engine:
        words = Record("words", random_image(0), "w1 w2")
        raw = Record("raw", random_image(0), "USER: <image>\nw1 w2 ASSISTANT:", raw=True)
        rendered, whole = engine.answer([words, raw], max_new_tokens=6)
    assert rendered.token_ids == whole.token_ids
