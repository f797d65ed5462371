"""Steps: rows that wait, pages that come back, and a batch that does not fit into the memory."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from star_batch import Engine, EngineOptions, Pruning, Record
from star_batch.engine.scheduler import Batch
from star_batch.engine.sequence import Sequence
from tests.tiny import random_image, random_records


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


def _with_memory_for(rows: int, run: Callable[[list[Sequence]], Tensor], sizes: list[int]) -> object:
    """A device on which `rows` rows fit, and the row r4 never."""

    def limited(sequences: list[Sequence]) -> Tensor:
        sizes.append(len(sequences))
        logits = run(sequences)  # out of memory at the very end: whatever has happened must be repeatable
        if len(sequences) > rows or any(s.id == "r4" for s in sequences):
            raise torch.OutOfMemoryError
        return logits

    return limited


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


def test_every_page_comes_back(tiny: str) -> None:
    options = EngineOptions(max_rows=5, page_size=4, kv_memory_gib=0.003)
    star = Pruning(method="star", keep=16)
    with Engine.from_pretrained(tiny, pruning=star, dtype="float32", options=options) as engine:
        engine.answer(random_records(20), max_new_tokens=6)
        scheduler = engine._core._scheduler
        assert scheduler.num_free_pages == scheduler.budget.num_pages
