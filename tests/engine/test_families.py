"""What must hold for every family of models: the one contract, on tiny random models of the library's classes."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import Tensor

from star_batch import Answer, Engine, EngineOptions, Pruning, Record
from star_batch.engine import layout
from star_batch.engine.attention import ATTENTION
from star_batch.engine.sequence import Sequence as EngineSequence
from star_batch.models import Checkpoint, Preprocessor, family_of
from star_batch.pruning import make_plan
from tests.engine.reference import Library
from tests.families import FAMILIES, SIZES, varied_records
from tests.tiny import random_image

STAR = Pruning(method="star", keep=0.3)
VISPRUNER = Pruning(method="vispruner", keep=11)
PRUNINGS = [
    STAR,
    Pruning(method="star", keep=10, early_scores="features", late_layer=2),
    Pruning(method="star_pro", keep=6),
    Pruning(method="cdpruner", keep=9),
    VISPRUNER,
    Pruning(method="vispruner", keep_mass=0.5, keep_least=4, keep_most=40),
    Pruning(method="random", keep=0.2),
]


def name(pruning: Pruning) -> str:
    return f"{pruning.method}-{getattr(pruning, 'early_scores', 'encoder')}-{pruning.keep or pruning.keep_mass}"


class Loaded:
    """A tiny checkpoint of a family, read once: by us and by the library."""

    def __init__(self, checkpoint: str, dtype: torch.dtype = torch.float32) -> None:
        self.checkpoint = checkpoint
        found = Checkpoint(name=checkpoint)
        self.preprocessor = Preprocessor.from_checkpoint(found)
        self.adapter = family_of(found, found.config()).load(
            found,
            dtype=dtype,
            device=torch.device("cpu"),
            normalisation=self.preprocessor.normalisation,
            attention=ATTENTION,
        )

    @cached_property
    def library(self) -> Library:
        return Library(self.checkpoint)

    @property
    def image_mark(self) -> str:
        """An image's place in a raw prompt."""
        mark = self.preprocessor.image_token
        return f"<|vision_start|> {mark} <|vision_end|>" if "pad" in mark else mark

    def opened(self, pruning: Pruning | None = None, **options: Any) -> Engine:
        plan = make_plan(pruning or Pruning(), self.adapter.num_layers, 64, self.adapter.num_axes)
        chosen = EngineOptions(**{"vision_batch": 3} | options)
        return Engine(self.adapter, self.preprocessor, plan, stop_ids=frozenset({2}), options=chosen)

    def answers(self, records: Sequence[Record], pruning: Pruning | None = None, **options: Any) -> list[Answer]:
        with self.opened(pruning, **options) as engine:
            found = engine.answer(records, max_new_tokens=6)
        assert [answer.error for answer in found] == [None] * len(found)
        return found


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return Loaded(FAMILIES[request.param](tmp_path_factory.mktemp("model")))


def tokens(found: Iterable[Answer]) -> dict[str, tuple[int, ...]]:
    return {answer.id: answer.token_ids for answer in found}


def captured(model: Loaded, records: Sequence[Record], pruning: Pruning | None = None) -> list[tuple[Tensor, ...]]:
    """Of every record just before prefill: positions, embeddings and indices of what it sees, its next position."""
    caught: dict[str, tuple[Tensor, ...]] = {}
    with model.opened(pruning, max_rows=1) as engine:
        runner = engine._core._runner
        prefill = runner.prefill

        def spy(sequences: Sequence[EngineSequence]) -> Tensor:
            [sequence] = sequences
            positions = layout.original_positions(sequences, runner.model.num_axes)
            visual = torch.cat([image.survivors.visual for image in sequence.images])
            first, kept = 0, []
            for image in sequence.images:
                kept.append(first + image.survivors.kept)
                first += image.layout.num_visual
            caught[sequence.id] = (positions, visual, torch.cat(kept), torch.tensor(sequence.num_positions))
            return prefill(sequences)

        runner.prefill = spy  # type: ignore[method-assign]
        engine.answer(records, max_new_tokens=1)
    return [caught[record.id] for record in records]


def test_none_equals_the_librarys_generate(model: Loaded) -> None:
    """Every size and aspect ratio, one to three images, alone and together."""
    records = varied_records(6) + [Record(f"size{i}", random_image(i, size), "w5 w6") for i, size in enumerate(SIZES)]
    expected = {record.id: model.library.generate(record, 6) for record in records}
    assert len(set(expected.values())) > len(records) // 2, "the reference says the same to all and would prove little"
    assert tokens(model.answers(records)) == expected
    assert tokens(model.answers(records, max_rows=1)) == expected


def test_a_mark_says_where_the_image_goes(model: Loaded) -> None:
    """As the raw text that has the family's own token there; another number of marks is that row's error."""
    place, image = model.image_mark, random_image(0)
    pairs = (
        ("<image>\nw3 w1", f"{place} w3 w1"),
        ("w3 w1\n<image>", f"w3 w1 {place}"),
        ("w3 <image> w1", f"w3 {place} w1"),
    )
    for marked, raw in pairs:
        records = [Record("a", image, marked), Record("b", image, f"USER: {raw} ASSISTANT:", raw=True)]
        ours, whole = model.answers(records)
        assert ours.token_ids == whole.token_ids
    with model.opened() as engine:
        [refused] = engine.answer([Record("c", image, "<image> w1 <image>")], max_new_tokens=6)
    assert refused.error_kind == "prompt_invalid"


def test_the_decoder_sees_the_librarys_image_features(model: Loaded) -> None:
    records = varied_records(6, seed=1)
    for record, (_, visual, *_) in zip(records, captured(model, records), strict=True):
        expected = torch.cat([image.flatten(0, -2) for image in model.library.image_features(record)])
        assert torch.allclose(visual, expected, atol=1e-4)


def test_keeping_everything_equals_none(model: Loaded) -> None:
    records = varied_records(4)
    whole = tokens(model.answers(records))
    methods = ("star", "vispruner", "random", "stride")
    for method in methods:
        for keep in (1.0, 100_000):
            assert tokens(model.answers(records, Pruning(method=method, keep=keep))) == whole
    assert tokens(model.answers(records, Pruning(method="vispruner", keep_mass=0.1, keep_least=1.0))) == whole


@pytest.mark.parametrize("pruning", PRUNINGS, ids=name)
def test_neither_batch_size_nor_order_changes_an_answer(model: Loaded, pruning: Pruning) -> None:
    records = varied_records(9)
    alone = {answer.id: answer for answer in model.answers(records, pruning, max_rows=1)}
    shuffled = random.Random(0).sample(records, len(records))
    together = {answer.id: answer for answer in model.answers(shuffled, pruning, max_rows=5)}
    assert tokens(together.values()) == tokens(alone.values())
    assert len(set(tokens(alone.values()).values())) > 4
    assert all(together[id].num_kept == answer.num_kept for id, answer in alone.items())


@pytest.mark.parametrize("pruning", PRUNINGS, ids=name)
def test_positions_are_the_librarys_at_the_kept_places(model: Loaded, pruning: Pruning) -> None:
    """mRoPE ids are gathered and never counted anew; the answer goes on where the unpruned prompt ends."""
    records, gone = varied_records(6, seed=2), 0
    for record, (positions, _, kept, after) in zip(records, captured(model, records, pruning), strict=True):
        whole = model.library.positions(record)
        assert after == whole.max() + 1
        is_image = model.library.inputs(record)["input_ids"][0] == model.library.model.config.image_token_id
        places = is_image.nonzero().squeeze(1)
        stays = ~is_image
        stays[places[kept]] = True
        assert positions.equal(whole[:, stays])
        gone += len(places) - len(kept)
    assert gone > 100


@pytest.mark.parametrize("keep", [7, 0.25])
def test_every_image_is_pruned_to_a_budget_of_its_own(model: Loaded, keep: int | float) -> None:
    images = [random_image(i, size) for i, size in enumerate(SIZES[:5])]
    alone = [Record(f"r{i}", image, "w1 w2") for i, image in enumerate(images)]
    whole = [answer.num_visual or 0 for answer in model.answers(alone)]
    pruning = Pruning(method="vispruner", keep=keep)
    expected = [round(keep * num) if isinstance(keep, float) else min(keep, num) for num in whole]
    assert [answer.num_kept for answer in model.answers(alone, pruning)] == [(num,) for num in expected]
    [together] = model.answers([Record("r", images, "w1 w2")], pruning)
    assert (together.num_visual, together.num_kept) == (sum(whole), (sum(expected),))


def test_a_budget_of_attention_follows_the_image(model: Loaded) -> None:
    """Between its bounds, and different for different images."""
    records = [Record(f"r{i}", random_image(i, size), "w1") for i, size in enumerate(SIZES)]
    whole = [answer.num_visual or 0 for answer in model.answers(records)]
    kept = {}
    for mass in (0.3, 0.6):
        pruning = Pruning(method="vispruner", keep_mass=mass, keep_least=2, keep_most=0.9)
        kept[mass] = [answer.num_kept[0] for answer in model.answers(records, pruning) if answer.num_kept]
        assert all(2 <= num <= round(0.9 * most) for num, most in zip(kept[mass], whole, strict=True))
        assert len(set(kept[mass])) > 2
    assert all(fewer <= more for fewer, more in zip(kept[0.3], kept[0.6], strict=True))
    assert sum(kept[0.3]) < sum(kept[0.6])


@pytest.mark.parametrize("pruning", [STAR, VISPRUNER], ids=name)
def test_an_image_that_several_ask_about_is_encoded_once(model: Loaded, pruning: Pruning) -> None:
    """Also when it stands beside others in their prompts."""
    images = [random_image(i, size) for i, size in enumerate(SIZES[:3])]
    records = [Record(f"r{i}", [images[0], images[i % 3]], f"w{i} w9") for i in range(6)]
    with model.opened(pruning) as engine:
        found = tokens(engine.answer(records, max_new_tokens=4))
        assert engine.stats().vision_images == 3
        assert found == {record.id: engine.answer([record], max_new_tokens=4)[0].token_ids for record in records}


def test_layers_below_the_late_one_are_as_without_it(model: Loaded) -> None:
    """Everything kept early: the cache of the first layers must not know of the late cut."""
    records, caches = varied_records(3), []
    for late_keep in (1.0, 5):
        pruning = Pruning(method="star", early_keep=1.0, late_keep=late_keep, late_layer=3)
        with model.opened(pruning, kv_memory_gib=0.01) as engine:
            engine.answer(records, max_new_tokens=1)
            caches.append(engine._core._runner._cache)
    whole, cut = caches
    for layer in range(4):
        used = min(len(whole._keys[layer]), len(cut._keys[layer]))
        assert whole._keys[layer][:used].any()
        assert whole._keys[layer][:used].equal(cut._keys[layer][:used]) == (layer < 3)


def test_late_tokens_of_several_images_compete(model: Loaded) -> None:
    """As many go on as each image has a right to, but which is for the question to say."""
    [record] = [record for record in varied_records(3) if len(record.images) == 3]
    pruning = Pruning(method="star", early_keep=8, late_keep=3, late_layer=3)
    [answer] = model.answers([record], pruning)
    assert answer.num_kept == (24, 9)


def test_the_same_tokens_are_kept_in_any_company_in_bfloat16_too(model: Loaded) -> None:
    """VisPruner amplifies rounding: were a score to depend on the batch by one bit, other tokens would stay."""
    coarse = Loaded(model.checkpoint, torch.bfloat16)
    records = [replace(record, with_kept=True) for record in varied_records(7, seed=3)]
    alone = {answer.id: answer.kept for answer in coarse.answers(records, VISPRUNER, max_rows=1)}
    together = {answer.id: answer.kept for answer in coarse.answers(records[::-1], VISPRUNER)}
    assert together == alone
    assert all(kept is not None and list(kept[0]) == sorted(set(kept[0])) for kept in alone.values())


def test_kept_indices_count_through_all_images(model: Loaded) -> None:
    images = [random_image(i, size) for i, size in enumerate(SIZES[:2])]
    alone = [Record(f"r{i}", image, "w1", with_kept=True) for i, image in enumerate(images)]
    first, second = model.answers(alone, VISPRUNER)
    [both] = model.answers([Record("r", images, "w1", with_kept=True)], VISPRUNER)
    assert first.kept is not None
    assert second.kept is not None
    assert both.kept == ((*first.kept[0], *(place + (first.num_visual or 0) for place in second.kept[0])),)


def test_tight_memory_changes_no_answer(model: Loaded) -> None:
    """Rows of one image and of three wait for pages, and every page comes back."""
    records = varied_records(8)
    tight = {"max_prefill_tokens": 50, "page_size": 4, "kv_memory_gib": 0.004}
    with model.opened(STAR, **tight) as engine:
        found = tokens(engine.answer(records, max_new_tokens=6))
        scheduler = engine._core._scheduler
        assert scheduler.num_free_pages == scheduler.budget.num_pages
    assert found == tokens(model.answers(records, STAR))


@pytest.mark.parametrize("pruning", [Pruning(), Pruning(method="star", keep=0.3)], ids=name)
def test_what_rows_begin_with_is_run_once(model: Loaded, pruning: Pruning) -> None:
    """Positions of several axes, images of many sizes, one to three of them: all go on where the beginning ends."""
    system = " ".join(f"w{number}" for number in range(20))
    records = [
        replace(
            record, raw=True, prompt=" ".join([system, *[model.image_mark] * len(record.images), str(record.prompt)])
        )
        for record in varied_records(8)
    ]
    with model.opened(pruning) as engine:
        together = tokens(engine.answer(records, max_new_tokens=6))
        assert engine.stats().shared_tokens >= 8 * 20
    assert together == tokens(model.answers(records, pruning, max_rows=1))
