"""The door: windows of many callers, rows that fail alone, and an engine that says when it is dead."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from star_batch import Decoding, Engine, EngineOptions, Pruning, Record
from star_batch.engine.sequence import Sequence
from star_batch.errors import ConfigError, ModelError
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
        ({"prompt": "w1 <image> w2"}, "prompt_invalid"),
        ({"prompt": "w1 w2", "raw": True}, "prompt_invalid"),
        ({"prompt": "w1 " * 600}, "prompt_too_long"),
        ({"max_new_tokens": 0}, "value_invalid"),
        ({"max_new_tokens": 2, "min_new_tokens": 3}, "value_invalid"),
        ({"choices": ()}, "value_invalid"),
        ({"choices": ("w1", "")}, "value_invalid"),
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
        runner = engine._core._runner
        sizes: list[int] = []
        for name in ("prefill", "decode"):
            monkeypatch.setattr(runner, name, _with_memory_for(3, getattr(runner, name), sizes))
        found = engine.answer(records, max_new_tokens=6)
    assert max(sizes) > 3
    assert [a.error_kind for a in found] == [None] * 4 + ["row_too_large"] + [None] * 4
    del expected[4], found[4]
    assert [a.token_ids for a in found] == [a.token_ids for a in expected]


def _with_memory_for(rows: int, run: Callable[[list[Sequence]], Tensor], sizes: list[int]) -> object:
    """A device on which `rows` rows fit, and the row r4 never."""

    def limited(sequences: list[Sequence]) -> Tensor:
        sizes.append(len(sequences))
        if len(sequences) > rows or any(s.id == "r4" for s in sequences):
            raise torch.OutOfMemoryError
        return run(sequences)

    return limited
