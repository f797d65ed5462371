"""The door: windows of many callers, rows that fail alone, and an engine that says when it is dead."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from star_batch import Answer, Decoding, Engine, EngineOptions, Pruning, Record
from star_batch.engine.scheduler import Batch
from star_batch.engine.sequence import Sequence, SequenceImage
from star_batch.errors import ConfigError, ModelError, StarBatchError
from star_batch.models import ImageFeatures
from star_batch.records import Picture
from tests.tiny import random_image, random_records, save_tiny


@pytest.fixture(scope="module")
def engine(tiny: str):  # type: ignore[no-untyped-def]
    with Engine.from_pretrained(tiny, dtype="float32", options=EngineOptions(vision_batch=4)) as made:
        yield made


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


def test_a_row_larger_than_the_cache_is_refused_and_not_waited_for(tiny: str) -> None:
    options = EngineOptions(kv_memory_gib=0.0002)
    with Engine.from_pretrained(tiny, dtype="float32", options=options) as engine:
        long, short = Record("long", random_image(0), "w1 " * 200), Record("short", random_image(0), "w1")
        found = engine.answer([long, short], max_new_tokens=3)
    assert [answer.error_kind for answer in found] == ["row_too_large", None]


def test_windows_of_several_callers_share_batches(tiny: str) -> None:
    records = random_records(32)
    with Engine.from_pretrained(tiny, dtype="float32") as engine:
        expected = engine.answer(records, max_new_tokens=6)
        before = engine.stats()
        with ThreadPoolExecutor(8) as callers:
            futures = callers.map(
                lambda i: engine.submit(records[i : i + 4], decoding=Decoding(max_new_tokens=6)), range(0, 32, 4)
            )
            found = [answer for future in list(futures) for answer in future.result()]
        used = engine.stats() - before
    assert [a.token_ids for a in found] == [a.token_ids for a in expected]
    assert used.rows_answered == 32
    assert used.prefill_rows / used.prefill_batches > 4


def test_stats_add_up(tiny: str) -> None:
    with Engine.from_pretrained(tiny, pruning=Pruning(method="star", keep=16), dtype="float32") as engine:
        found = engine.answer([*random_records(6), Record("bad", None, "w1")], max_new_tokens=5)
        stats = engine.stats()
    assert (stats.rows_answered, stats.rows_failed) == (6, 1)
    assert stats.output_tokens == sum(a.num_output or 0 for a in found)
    assert stats.layer_tokens / stats.row_layers == 16
    assert (stats.early_tokens, stats.late_tokens) == (6 * 24, 6 * 8)
    assert 0 < stats.decode_rows <= stats.decode_slots
    assert stats.padding_tokens < stats.padded_tokens
    for stage in ("vision", "select", "prefill", "decode"):
        assert getattr(stats, f"{stage}_seconds") > 0
    for answer in found[:6]:
        assert answer.times.total > 0
        assert min(answer.times.waiting, answer.times.vision, answer.times.prefill, answer.times.decode) >= 0


def test_whoever_waits_for_a_dead_engine_hears_why(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.from_pretrained(tiny, dtype="float32")

    def fail(*_: object) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(engine._core._runner, "prefill", fail)
    with pytest.raises(RuntimeError, match="device lost"):
        engine.answer(random_records(3))
    with pytest.raises(RuntimeError, match="device lost"):
        engine.submit(random_records(3)).result(timeout=10)


def test_raw_prompt_and_the_default_template(tmp_path: Path) -> None:
    model = save_tiny(tmp_path, template=False)
    with Engine.from_pretrained(model, dtype="float32") as engine:
        words = Record("words", random_image(0), "w1 w2")
        raw = Record("raw", random_image(0), "USER: <image>\nw1 w2 ASSISTANT:", raw=True)
        rendered, whole = engine.answer([words, raw], max_new_tokens=6)
    assert rendered.token_ids == whole.token_ids


def test_bfloat16_on_cpu(tiny: str) -> None:
    with Engine.from_pretrained(tiny, pruning=Pruning(method="star", keep=16), dtype="bfloat16") as engine:
        assert [a.error for a in engine.answer(random_records(4), max_new_tokens=4)] == [None] * 4


def test_a_wrong_plan_is_refused_before_the_weights_are_read(tmp_path: Path) -> None:
    model = save_tiny(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="late_layer=6: this model has 6 layers; choose 1 to 5"):
        Engine.from_pretrained(model, pruning=Pruning(method="star", keep=16, late_layer=6))
    with pytest.raises(ModelError, match="its weights cannot be read"):
        Engine.from_pretrained(model)


def test_max_new_tokens_and_decoding_are_not_both_given(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="not both"):
        engine.answer([], max_new_tokens=3, decoding=Decoding())


def test_no_records_no_answers(engine: Engine) -> None:
    assert engine.answer([]) == []


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


def test_out_of_memory_halves_the_batch_and_fails_a_lone_row_alone(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    records = random_records(9)
    with Engine.from_pretrained(tiny, dtype="float32") as engine:
        expected = engine.answer(records, max_new_tokens=6)
        runner, before = engine._core._runner, engine._core._scheduler.budget.max_prefill_tokens
        sizes: list[int] = []
        for name in ("prefill", "decode"):
            monkeypatch.setattr(runner, name, _with_memory_for(3, getattr(runner, name), sizes))
        found = engine.answer(records, max_new_tokens=6)
        scheduler = engine._core._scheduler
        assert scheduler.budget.max_prefill_tokens == before, "a lone row teaches nothing"
        assert scheduler.budget.max_rows == 2, "decoding eight rows did not fit, nor did four"
        scheduler.budget = replace(scheduler.budget, max_rows=8)
        engine.answer(records[:4], max_new_tokens=6)
        assert scheduler.budget.max_prefill_tokens == before // 2
    assert max(sizes) > 3
    assert [a.error_kind for a in found] == [None] * 4 + ["row_too_large"] + [None] * 4
    del expected[4], found[4]
    assert [a.token_ids for a in found] == [a.token_ids for a in expected]


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


def _with_memory_for(rows: int, run: Callable[[list[Sequence]], Tensor], sizes: list[int]) -> object:
    """A device on which `rows` rows fit, and the row r4 never."""

    def limited(sequences: list[Sequence]) -> Tensor:
        sizes.append(len(sequences))
        logits = run(sequences)  # out of memory at the very end: whatever has happened must be repeatable
        if len(sequences) > rows or any(s.id == "r4" for s in sequences):
            raise torch.OutOfMemoryError
        return logits

    return limited


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


def test_a_closed_engine_says_so(tiny: str) -> None:
    """A submission behind the end of the queue would have been waited for until the end of time."""
    engine = Engine.from_pretrained(tiny, dtype="float32")
    before = engine.submit(random_records(2), decoding=Decoding(max_new_tokens=2))
    engine.close()
    assert len(before.result(timeout=10)) == 2
    with pytest.raises(StarBatchError, match="the engine is closed"):
        engine.submit(random_records(2)).result(timeout=10)
    engine.close()


def test_a_callback_may_call_the_engine(tiny: str) -> None:
    """Futures are done outside of every lock: a callback that submits again used to wait for itself."""
    again: Future[list[Answer]] = Future()
    with Engine.from_pretrained(tiny, dtype="float32") as engine:
        bad = Record("bad", None, "w1")
        first = engine.submit([*random_records(2), bad], decoding=Decoding(max_new_tokens=2))
        first.add_done_callback(lambda _: again.set_result(engine.submit([bad]).result(timeout=10)))
        assert again.result(timeout=10)[0].error_kind == "image_missing"


def test_what_waits_in_the_inbox_of_a_dying_engine_fails_too(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.from_pretrained(tiny, dtype="float32")
    entered, go_on = threading.Event(), threading.Event()

    def die(*_: object) -> None:
        entered.set()
        go_on.wait(10)
        raise RuntimeError("device lost")

    monkeypatch.setattr(engine._core._runner, "prefill", die)
    running = engine.submit(random_records(1))
    entered.wait(10)
    waiting = engine.submit(random_records(1))
    go_on.set()
    for future in (running, waiting):
        with pytest.raises(RuntimeError, match="device lost"):
            future.result(timeout=10)


def test_images_are_taken_in_a_few_windows_ahead_and_not_all_at_once(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, first_done = 0, []

    def records() -> Iterator[Record]:
        nonlocal taken
        for one in random_records(200):
            taken += 1
            yield one

    with Engine.from_pretrained(tiny, dtype="float32", options=EngineOptions(max_rows=4)) as engine:
        submit = engine.submit

        def watched(window: list[Record], **options: Decoding) -> Future[list[Answer]]:
            future = submit(window, **options)
            future.add_done_callback(lambda _: first_done.append(taken))
            return future

        monkeypatch.setattr(engine, "submit", watched)
        assert len(engine.answer(records(), max_new_tokens=1)) == 200
    assert first_done[0] < 100


def test_many_rows_of_one_image_do_not_crowd_the_waiting_room(tiny: str) -> None:
    with Engine.from_pretrained(tiny, dtype="float32", options=EngineOptions(max_rows=4)) as engine:
        scheduler, longest = engine._core._scheduler, 0
        schedule = scheduler.schedule

        def watched() -> Batch | None:
            nonlocal longest
            longest = max(longest, len(scheduler.waiting))
            return schedule()

        scheduler.schedule = watched  # type: ignore[method-assign]
        engine.answer([Record(f"r{i}", random_image(0), "w1") for i in range(60)], max_new_tokens=2)
    assert longest <= 8


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


def test_stop_tokens_are_those_of_the_generation_settings(tmp_path: Path) -> None:
    """They may name others than the tokenizer; the library's `generate` follows them."""
    model = save_tiny(tmp_path)
    (free,) = _answer_one(model)
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [2, free.token_ids[3]]}))
    (stopped,) = _answer_one(model)
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(free.token_ids[3]) + 1]


def _answer_one(model: str) -> list[Answer]:
    with Engine.from_pretrained(model, dtype="float32") as engine:
        return engine.answer(random_records(1), max_new_tokens=8)


def test_every_page_comes_back(tiny: str) -> None:
    options = EngineOptions(max_rows=5, page_size=4, kv_memory_gib=0.003)
    star = Pruning(method="star", keep=16)
    with Engine.from_pretrained(tiny, pruning=star, dtype="float32", options=options) as engine:
        engine.answer(random_records(20), max_new_tokens=6)
        scheduler = engine._core._scheduler
        assert scheduler.num_free_pages == scheduler.budget.num_pages


@pytest.mark.parametrize("wrong", [{"dtype": "fp16"}, {"pruning": "star"}])
def test_wrong_arguments_are_refused_in_words(tiny: str, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Engine.from_pretrained(tiny, **wrong)  # type: ignore[arg-type]
