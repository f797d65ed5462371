"""Images before prefill: encoded once, always in one shape, and in smaller parts where memory is short."""

import pytest
import torch
from PIL import Image
from torch import Tensor

from star_batch import Engine, EngineOptions, Pruning, Record
from star_batch.engine.sequence import SequenceImage
from star_batch.models import ImageFeatures
from tests.tiny import random_image, random_records


def test_rows_that_share_an_image_share_its_encoding(tiny: str) -> None:
    images = [random_image(seed) for seed in range(3)]
    records = [Record(f"r{i}", images[i % 3], f"w{i}") for i in range(24)]
    pruning = Pruning(method="star", keep=16)
    with Engine.from_pretrained(tiny, pruning=pruning, dtype="float32") as engine:
        together = engine.answer(records, max_new_tokens=6)
        assert engine.stats().vision_images == 3
    with Engine.from_pretrained(tiny, pruning=pruning, dtype="float32") as engine:
        alone = [engine.answer([record], max_new_tokens=6)[0] for record in records]
        assert engine.stats().vision_images == 24
    assert [a.token_ids for a in together] == [a.token_ids for a in alone]


def test_chance_is_drawn_per_row_even_on_the_same_image(tiny: str) -> None:
    records = [Record(f"r{i}", random_image(0), "w1") for i in range(6)]
    with Engine.from_pretrained(tiny, pruning=Pruning(method="random", keep=16), dtype="float32") as engine:
        answers = engine.answer(records, max_new_tokens=6)
    assert len({a.token_ids for a in answers}) > 1


def test_every_encoder_call_has_the_same_shape(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine.from_pretrained(tiny, dtype="float32", options=EngineOptions(vision_batch=4)) as engine:
        model, shapes = engine._core._runner.model, []
        encode = model.encode

        def watched(views: Tensor, sizes: list[tuple[int, int]]) -> ImageFeatures:
            shapes.append(tuple(views.shape))
            return encode(views, sizes)

        monkeypatch.setattr(model, "encode", watched)
        engine.answer(random_records(6), max_new_tokens=1)
    assert shapes == [(4, 1, 56, 56, 3)] * 2


def test_out_of_memory_while_encoding_halves_the_micro_batch(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    records = random_records(9)
    with Engine.from_pretrained(tiny, dtype="float32", options=EngineOptions(vision_batch=8)) as engine:
        expected = engine.answer(records, max_new_tokens=6)
        vision = engine._core._vision
        encode = vision.model.encode

        def with_memory_for_three(views: Tensor, sizes: list[tuple[int, int]]) -> ImageFeatures:
            if len(views) > 3:
                raise torch.OutOfMemoryError("no memory for that many images")
            return encode(views, sizes)

        monkeypatch.setattr(vision.model, "encode", with_memory_for_three)
        found = engine.answer(records, max_new_tokens=6)
        assert vision.batch_size == 2
    assert [a.token_ids for a in found] == [a.token_ids for a in expected]


def test_an_image_that_does_not_fit_alone_fails_its_rows_alone(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Image.new("RGB", (60, 60), "white")
    records = [Record(f"bad{i}", bad, "w1 w2", max_new_tokens=3) for i in range(2)] + random_records(3)
    with Engine.from_pretrained(tiny, dtype="float32", options=EngineOptions(vision_batch=4)) as engine:
        vision = engine._core._vision
        encode = vision.encode

        def without_memory(images: list[SequenceImage]) -> object:
            if any((image.source.views == 255).all() for image in images):
                raise torch.OutOfMemoryError("no memory for this image")
            return encode(images)

        monkeypatch.setattr(vision, "encode", without_memory)
        found = engine.answer(records, max_new_tokens=3)
        assert engine.stats().rows_failed == 2
    assert [a.error_kind for a in found] == ["row_too_large"] * 2 + [None] * 3


def test_an_image_for_which_others_have_left_no_memory_is_tried_again(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that waited held the memory, and the one that came last was called too large."""
    records = random_records(9)
    with Engine.from_pretrained(tiny, dtype="float32", options=EngineOptions(vision_batch=2, max_rows=8)) as engine:
        expected = engine.answer(records, max_new_tokens=6)
        core = engine._core
        encode = core._vision.encode

        def with_memory_for_four(images: list[SequenceImage]) -> object:
            if len(core._scheduler.waiting) + len(images) > 4:
                raise torch.OutOfMemoryError("others have it")
            return encode(images)

        monkeypatch.setattr(core._vision, "encode", with_memory_for_four)
        found = engine.answer(records, max_new_tokens=6)
    assert [a.token_ids for a in found] == [a.token_ids for a in expected]


def test_a_selection_that_reads_the_question_is_made_per_question(tiny: str) -> None:
    """Equal questions to one image share what was kept; others get their own, whoever came before."""
    records = [Record(f"r{i}", random_image(0), f"w{i % 3} w{7 + i % 3}", with_kept=True) for i in range(6)]
    with Engine.from_pretrained(tiny, pruning=Pruning(method="cdpruner", keep=12), dtype="float32") as engine:
        kept = [answer.kept for answer in engine.answer(records, max_new_tokens=1)]
        assert engine.stats().vision_images == 3
    assert kept[:3] == kept[3:]
    assert len(set(map(str, kept))) == 3
