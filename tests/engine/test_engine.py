"""The door: windows of many callers, what it counts, and what it refuses before weights are read."""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from star_batch import Answer, Decoding, Engine, EngineOptions, Pruning, Record
from star_batch.errors import ConfigError, ModelError
from tests.tiny import random_records, save_tiny


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
    assert engine.readings().kept_tokens == (6 * 24, 6 * 8)
    assert 0 < stats.decode_rows <= stats.decode_slots
    assert stats.padding_tokens < stats.padded_tokens
    for stage in ("vision", "select", "prefill", "decode"):
        assert getattr(stats, f"{stage}_seconds") > 0
    for answer in found[:6]:
        assert answer.times.total > 0
        assert min(answer.times.waiting, answer.times.vision, answer.times.prefill, answer.times.decode) >= 0


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


@pytest.mark.parametrize("wrong", [{"dtype": "fp16"}, {"pruning": "star"}])
def test_wrong_arguments_are_refused_in_words(tiny: str, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Engine.from_pretrained(tiny, **wrong)  # type: ignore[arg-type]
