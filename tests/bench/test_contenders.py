"""Everybody answers the same question, and only that."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from star_batch.bench.contenders import Generate, Ours
from star_batch.bench.subject import Subject
from star_batch.bench.workload import make_workload, picture_of
from star_batch.options import EngineOptions
from star_batch.pruning import Pruning, make_plan
from star_batch.records import Record
from tests.bench.conftest import OPTIONS


@pytest.fixture(scope="module")
def records(subject: Subject) -> tuple[Record, ...]:
    return make_workload(OPTIONS, subject.preprocessor).records


def ours(subject: Subject, pruning: Pruning) -> Ours:
    adapter = subject.adapter()
    plan = make_plan(pruning, adapter.num_layers, subject.num_visual)
    return Ours(subject, adapter, pruning, plan, EngineOptions(max_rows=4))


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("is_forced", [True, False])
def test_generate_and_our_engine_without_pruning_say_the_same(
    subject: Subject, records: Sequence[Record], batch: int, is_forced: bool
) -> None:
    with Generate(subject, batch).opened(is_forced=is_forced) as answer:
        theirs = answer(records, 6)
    with ours(subject, Pruning()).opened(is_forced=is_forced) as answer:
        mine = answer(records, 6)
    assert mine.outputs == theirs.outputs
    assert mine.texts == theirs.texts


@pytest.mark.parametrize("pruning", [Pruning(), Pruning(method="star", keep=8), Pruning(method="random", keep=0.5)])
def test_forced_answers_go_on_past_every_stop_token(
    subject: Subject, records: Sequence[Record], pruning: Pruning
) -> None:
    everything_stops = Subject(
        name=subject.name,
        model=subject.model,
        preprocessor=subject.preprocessor,
        stop_ids=frozenset(range(128)),
        num_visual=subject.num_visual,
    )
    for contender in (Generate(everything_stops, 4), ours(everything_stops, pruning)):
        with contender.opened(is_forced=True) as answer:
            assert {len(ids) for ids in answer(records, 3).outputs} == {3}
        with contender.opened(is_forced=False) as answer:
            assert {len(ids) for ids in answer(records, 3).outputs} == {0}


def test_our_form_of_the_model_takes_no_memory_and_leaves_the_other_whole(subject: Subject) -> None:
    tower = subject.model.model.vision_tower
    depth = len(tower.encoder.layers)
    adapter = subject.adapter()
    embeddings = subject.model.get_input_embeddings()
    assert adapter.embed(torch.tensor([5])).equal(embeddings(torch.tensor([5])))
    embeddings.weight[5] += 1
    assert adapter.embed(torch.tensor([5])).equal(embeddings(torch.tensor([5])))
    embeddings.weight[5] -= 1
    assert len(tower.encoder.layers) == depth
    assert subject.config.text_config._attn_implementation == "sdpa"


def test_padding_and_occupancy_of_fixed_batches(subject: Subject, records: Sequence[Record]) -> None:
    with Generate(subject, 4).opened(is_forced=True) as answer:
        done = answer(records, 3)  # batches of four and of two
    lengths = [subject.preprocessor.prompt(r.prompt).num_tokens + subject.num_visual for r in records]
    padded = 4 * max(lengths[:4]) + 2 * max(lengths[4:])
    assert done.padding == pytest.approx(1 - sum(lengths) / padded)
    assert done.occupancy == 6 / 8
    assert done.rows_per_step == 3.0
    assert done.layer_tokens == subject.num_visual


def test_random_requests_are_the_same_for_the_same_seed(subject: Subject) -> None:
    first, again = (make_workload(OPTIONS, subject.preprocessor).records for _ in range(2))
    other = make_workload(replace(OPTIONS, seed=1), subject.preprocessor).records
    assert [r.prompt for r in first] == [r.prompt for r in again]
    assert all((picture_of(a).views == picture_of(b).views).all() for a, b in zip(first, again, strict=True))
    assert [r.prompt for r in first] != [r.prompt for r in other]
    assert all(8 <= len(str(r.prompt).split()) <= 48 for r in first)
