"""Tokens that rows have in common before their first image: run once, and no answer knows of it."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from star_batch import Engine, EngineOptions, Pruning, Record
from star_batch.engine.prefix import Prefix, Prefixes
from star_batch.metrics import EngineStats
from star_batch.models import Preprocessor
from star_batch.models.checkpoint import Checkpoint
from tests.engine.reference import Library
from tests.engine.test_late_stage import Reference, captured
from tests.tiny import NUM_VISUAL, random_records

SYSTEM = " ".join(f"w{number}" for number in range(20))
BEGINNING = 21  # with the user's mark


def asked(records: list[Record], system: str = SYSTEM) -> list[Record]:
    """The same questions after a system prompt."""
    return [replace(r, prompt=f"{system} USER: <image> {r.prompt} ASSISTANT:", raw=True) for r in records]


def answers(
    model: str, records: list[Record], pruning: Pruning, options: EngineOptions | None = None
) -> tuple[list[tuple[int, ...]], EngineStats]:
    with Engine.from_pretrained(model, pruning=pruning, dtype="float32", options=options) as engine:
        found = engine.answer(records, max_new_tokens=10)
        return [answer.token_ids for answer in found], engine.stats()


PRUNINGS = [
    Pruning(),
    Pruning(method="star", keep=16),
    Pruning(method="star", keep=16, positions="compact"),
    Pruning(method="vispruner", keep=15),
]


@pytest.mark.parametrize("pruning", PRUNINGS, ids=str)
def test_an_answer_does_not_know_whether_its_beginning_was_shared(tiny: str, pruning: Pruning) -> None:
    records = asked(random_records(12))
    together, shared = answers(tiny, records, pruning)
    alone, unshared = answers(tiny, records, pruning, EngineOptions(max_rows=1))
    assert together == alone
    assert (shared.shared_tokens, unshared.shared_tokens) == (12 * BEGINNING, 0)


def test_a_system_prompt_of_a_record_is_the_templates_text_and_is_shared(tiny: str) -> None:
    records = [replace(record, system=SYSTEM) for record in random_records(6)]
    found, stats = answers(tiny, records, Pruning(method="star", keep=16))
    written, _ = answers(tiny, asked(random_records(6), f"USER: {SYSTEM}"), Pruning(method="star", keep=16))
    assert found == written
    assert stats.shared_tokens == 6 * (BEGINNING + 1)


def test_none_equals_the_librarys_generate(tiny: str) -> None:
    library = Library(tiny)
    preprocessor = Preprocessor.from_checkpoint(Checkpoint(name=tiny))
    records = asked(random_records(6))
    found, stats = answers(tiny, records, Pruning())
    assert stats.shared_tokens == 6 * BEGINNING
    for record, token_ids in zip(records, found, strict=True):
        first, last = preprocessor.prompt(record.prompt, raw=True).texts
        ids = torch.tensor([[*first, *[library.model.config.image_token_id] * NUM_VISUAL, *last]])
        pixels = library.inputs(replace(record, prompt="w1"))["pixel_values"]
        with torch.inference_mode():
            out = library.model.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=10, do_sample=False)
        assert tuple(out[0, ids.shape[1] :].tolist()) == token_ids


@pytest.mark.parametrize("positions", ["original", "compact"])
def test_the_late_stage_weighs_the_prefix_too(tiny: str, positions: str) -> None:
    """Its softmax goes over every key that a text row sees: without the prefix's, other tokens would be kept."""
    pruning = Pruning(method="star", early_keep=30, late_keep=7, late_layer=3, positions=positions)
    reference = Reference(tiny, layer=3, num_late=7, is_compact=positions == "compact")
    with Engine.from_pretrained(tiny, pruning=pruning, dtype="float32") as engine:
        for sequence, image in captured(engine, asked(random_records(6))):
            assert reference.generate(sequence, image, 10) == tuple(sequence.output)
        assert engine.stats().shared_tokens == 6 * BEGINNING


def test_rows_of_two_system_prompts_share_what_both_begin_with(tiny: str) -> None:
    other = SYSTEM.replace("w15", "w99")
    mixed = [*asked(random_records(6)), *asked(random_records(6, seed=1), other)]
    together, stats = answers(tiny, mixed, Pruning(method="star", keep=16))
    alone, _ = answers(tiny, mixed, Pruning(method="star", keep=16), EngineOptions(max_rows=1))
    assert together == alone
    assert stats.shared_tokens == 12 * 15


class Counting(Prefixes):
    """Notes what is run, and runs nothing."""

    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self.run: list[tuple[int, ...]] = []

    def _run(self, token_ids: tuple[int, ...]) -> Prefix:
        self.run.append(token_ids)
        keys = torch.tensor(token_ids).view(1, -1, 1)
        return Prefix(token_ids, (keys,), (keys,))


def test_what_is_known_is_not_run_again() -> None:
    prefixes, system = Counting(), tuple(range(40))
    for number in range(100):
        shared = prefixes.shared_by([(*system, number), (*system, number + 1), system])
        assert shared is not None
        assert shared.token_ids == system
    assert prefixes.run == [system]
    assert prefixes.shared_by([(*system, 7)]) is not None, "a lone row takes what is there"


def test_a_lone_row_and_a_short_beginning_are_left_alone() -> None:
    prefixes = Counting()
    assert prefixes.shared_by([tuple(range(40))]) is None
    assert prefixes.shared_by([tuple(range(7)), tuple(range(7))]) is None
    assert prefixes.run == []


texts = st.lists(st.integers(0, 1), max_size=30).map(tuple)


@given(batches=st.lists(st.lists(texts, min_size=1, max_size=5), max_size=8))
def test_a_prefix_is_always_what_every_row_begins_with(batches: list[list[tuple[int, ...]]]) -> None:
    prefixes = Counting()
    for batch in batches:
        shared = prefixes.shared_by(batch)
        if shared is not None:
            assert all(text[: shared.length] == shared.token_ids for text in batch)
            assert shared.keys[0].flatten().tolist() == list(shared.token_ids)
