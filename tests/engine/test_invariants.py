"""What must hold for any model: equal to the library unpruned, and never dependent on company."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from star_batch import Answer, Engine, EngineOptions, Pruning, Record
from star_batch.demo.rows import make_rows
from star_batch.engine import decode, pagewise, runner
from star_batch.images import decode as decode_image
from tests.engine.reference import generate
from tests.tiny import NUM_VISUAL, random_records, save_tiny

PRUNINGS = [
    Pruning(method="star", keep=16),
    Pruning(method="star", keep=16, early_scores="features", late_layer=2),
    Pruning(method="star", keep=16, positions="compact"),
    Pruning(method="vispruner", keep=15),
    Pruning(method="random", keep=16),
    Pruning(method="stride", keep=0.25),
    Pruning(method="star_pro", keep=16),
    Pruning(method="pyramiddrop", keep=0.6),
    Pruning(method="cdpruner", keep=15),
]
MANY_SIZES = [EngineOptions(max_rows=rows, vision_batch=4) for rows in (1, 2, 7, 64)]


def ids(pruning: Pruning) -> str:
    return f"{pruning.method}-{getattr(pruning, 'early_scores', 'encoder')}-{pruning.positions}"


def answers(
    model: str,
    records: Sequence[Record],
    pruning: Pruning | None = None,
    options: EngineOptions | None = None,
    max_new_tokens: int = 12,
) -> list[Answer]:
    with Engine.from_pretrained(
        model, pruning=pruning, dtype="float32", device="cpu", options=options or EngineOptions(vision_batch=4)
    ) as engine:
        return engine.answer(records, max_new_tokens=max_new_tokens)


def tokens(found: Sequence[Answer]) -> dict[str, tuple[int, ...]]:
    assert [answer.error for answer in found] == [None] * len(found)
    return {answer.id: answer.token_ids for answer in found}


@pytest.mark.parametrize("tower", ["clip", "siglip"])
@pytest.mark.parametrize("decoder", ["llama", "mistral", "qwen2", "qwen3"])
def test_none_equals_the_librarys_generate(tmp_path_factory: pytest.TempPathFactory, tower: str, decoder: str) -> None:
    model = save_tiny(tmp_path_factory.mktemp("model"), tower=tower, decoder=decoder)
    records = random_records(6)
    expected = generate(model, records, max_new_tokens=12)
    assert len(set(expected)) > 1, "the reference says the same to everything and would prove nothing"
    assert list(tokens(answers(model, records)).values()) == expected


def test_none_equals_generate_on_the_demo_model(demo: str) -> None:
    records = [Record(row["id"], decode_image(row["image"]), row["question"]) for row in make_rows(12, seed=3)]
    expected = generate(demo, records, max_new_tokens=32)
    assert list(tokens(answers(demo, records, max_new_tokens=32)).values()) == expected


@pytest.mark.parametrize("keep", [NUM_VISUAL, 1.0, 10_000])
@pytest.mark.parametrize("method", ["star", "vispruner", "random", "stride"])
def test_keeping_everything_equals_none(tiny: str, method: str, keep: int | float) -> None:
    records = random_records(5)
    pruning = Pruning(method=method, keep=keep)
    assert tokens(answers(tiny, records, pruning)) == tokens(answers(tiny, records))


def test_keeping_everything_equals_none_in_compact_positions_too(tiny: str) -> None:
    records = random_records(5)
    pruning = Pruning(method="star", keep=1.0, positions="compact")
    assert tokens(answers(tiny, records, pruning)) == tokens(answers(tiny, records))


@pytest.mark.parametrize("pruning", [Pruning(), *PRUNINGS], ids=ids)
def test_neither_batch_size_nor_order_changes_an_answer(tiny: str, pruning: Pruning) -> None:
    records = random_records(20)
    expected = tokens(answers(tiny, records, pruning, EngineOptions(max_rows=1, vision_batch=4)))
    assert len(set(expected.values())) > 10
    shuffled = random.Random(0).sample(records, len(records))
    for options in MANY_SIZES[1:]:
        assert tokens(answers(tiny, records, pruning, options)) == expected
    assert tokens(answers(tiny, shuffled, pruning)) == expected


@pytest.mark.parametrize("pruning", PRUNINGS, ids=ids)
def test_pruning_changes_something_and_counts_what_it_kept(tiny: str, pruning: Pruning) -> None:
    records = random_records(10)
    pruned, whole = answers(tiny, records, pruning), answers(tiny, records)
    assert tokens(pruned) != tokens(whole)
    for answer in pruned:
        assert answer.num_visual == NUM_VISUAL
        assert answer.num_kept is not None
        assert min(answer.num_kept) < NUM_VISUAL


@pytest.mark.parametrize("pruning", [Pruning(), *PRUNINGS], ids=ids)
def test_who_asks_is_told_what_was_kept_and_answers_stay_the_same(tiny: str, pruning: Pruning) -> None:
    asking = [replace(record, with_kept=number % 2 == 0) for number, record in enumerate(random_records(6))]
    found = answers(tiny, asking, pruning)
    assert tokens(found) == tokens(answers(tiny, random_records(6), pruning))
    assert [answer.kept is not None for answer in found] == [record.with_kept for record in asking]
    for kept, counts in ((answer.kept, answer.num_kept) for answer in found if answer.kept is not None):
        assert tuple(map(len, kept)) == counts
        assert all(sorted(set(group)) == list(group) and group[-1] < NUM_VISUAL for group in kept)
        assert all(set(later) <= set(earlier) for earlier, later in pairwise(kept))


def test_tight_memory_and_a_tight_token_budget_change_no_answer(tiny: str) -> None:
    """Pages for about two rows and prefills of one: rows wait for pages, and every page comes back."""
    records = random_records(12)
    tight = EngineOptions(max_rows=64, max_prefill_tokens=50, page_size=4, kv_memory_gib=0.0008, vision_batch=4)
    pruning = Pruning(method="star", keep=16)
    assert tokens(answers(tiny, records, pruning, tight)) == tokens(answers(tiny, records, pruning))


def test_both_ways_to_decode_say_the_same(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages in place, pages that lie far apart, rows gathered in one call."""
    records = random_records(20)
    small = EngineOptions(max_rows=6, page_size=4, kv_memory_gib=0.003, vision_batch=4)
    pruning = Pruning(method="star", keep=16)
    in_place = tokens(answers(tiny, records, pruning, small))
    monkeypatch.setattr(pagewise, "_LEAST_SHARE", 2.0)
    assert tokens(answers(tiny, records, pruning, small)) == in_place
    monkeypatch.setattr(runner, "choose_paged", lambda device: decode.GatheredAttention)
    assert tokens(answers(tiny, records, pruning, small)) == in_place
