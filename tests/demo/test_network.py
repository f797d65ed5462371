"""Packed pairs with tokens left out are computed as the library computes one prompt with a gap in it."""

import random

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from star_batch import Engine, Pruning, Record
from star_batch.demo.blueprint import build_model, build_processor, vocabulary
from star_batch.demo.drawing import encode_png, render
from star_batch.demo.dropping import BUDGETS, NUM_SAFE, draw_drop, draw_keep, draw_own
from star_batch.demo.evaluate import CHECKPOINT, answer_batch, encode_batch, keep_star, load
from star_batch.demo.losses import answer_loss, attention_loss, cell_word_table, patch_labels
from star_batch.demo.network import Drop, answer_logits, look
from star_batch.demo.packing import IGNORED, object_mask, pack, right_pairs, to_pixels
from star_batch.demo.questions import Question, choose_questions
from star_batch.demo.scenes import COLOURS, make_scene, object_patches

SCENES = [make_scene(seed) for seed in range(4)]
ASKED = [choose_questions(scene, random.Random(scene.seed), 5) for scene in SCENES]
ALL = torch.ones(len(SCENES), 144, dtype=torch.bool)


@pytest.fixture(scope="module")
def model() -> LlavaForConditionalGeneration:
    return build_model(seed=0).eval()


def alone(model: LlavaForConditionalGeneration, row: int, question: Question) -> torch.Tensor:
    """Logits at the answer of one prompt, by the library's own forward."""
    processor = build_processor()
    text = f"USER: <image>\n{question.text} ASSISTANT: {question.answer}"
    inputs = processor(images=render(SCENES[row]), text=text, return_tensors="pt")
    length = len(processor.tokenizer.encode(question.answer, add_special_tokens=False)) + 1
    logits: torch.Tensor = model(**inputs).logits[0, -length:]
    return logits


@torch.no_grad()
def test_packed_pairs_equal_prompts_of_their_own(model: LlavaForConditionalGeneration) -> None:
    packed = pack(SCENES, ASKED)
    logits = answer_logits(model, look(model, packed.pixels).features, packed, Drop(early=ALL))
    expected = [alone(model, row, pair) for row, pairs in enumerate(ASKED) for pair in pairs]
    torch.testing.assert_close(logits, torch.cat(expected), atol=2e-4, rtol=1e-3)


@torch.no_grad()
def test_what_is_left_out_is_not_seen(model: LlavaForConditionalGeneration) -> None:
    packed, keep = pack(SCENES, ASKED), object_mask(SCENES) >= 0
    features = look(model, packed.pixels).features
    spoilt = features.where(keep[:, :, None], 7.0)
    first, second = (answer_logits(model, each, packed, Drop(early=keep)) for each in (features, spoilt))
    torch.testing.assert_close(first, second)
    whole = answer_logits(model, features, packed, Drop(early=ALL))
    late = answer_logits(model, features, packed, Drop(early=ALL, late=keep, late_layer=0))
    assert not torch.allclose(first, whole, atol=1e-3)
    torch.testing.assert_close(first, late, atol=2e-4, rtol=1e-3)


@torch.no_grad()
def test_a_pair_alone_keeps_late_what_the_engine_keeps() -> None:
    """The cut that is trained is the cut that a job makes: the same answers are exactly right."""
    model = load(CHECKPOINT)
    batch = encode_batch(model, seed=5, first=0, count=60)
    for keep in (6, 18):
        expected = answer_batch(model, batch, keep_star(keep))
        records = [
            Record(id=str(number), image=encode_png(render(scene)), prompt=question.text)
            for number, (scene, question) in enumerate(zip(batch.scenes, batch.asked, strict=True))
        ]
        pruning = Pruning(method="star", keep=keep)
        with Engine.from_pretrained("demo", pruning=pruning, dtype="float32", device="cpu") as engine:
            answers = engine.answer(records, max_new_tokens=40)
        found = [answer.text == question.answer for answer, question in zip(answers, batch.asked, strict=True)]
        assert found == expected
        assert sum(found) / len(found) > 0.3


@torch.no_grad()
def test_a_late_share_lies_between_everything_and_nothing(model: LlavaForConditionalGeneration) -> None:
    """A cut to everything changes nothing; one to a tenth is neither that nor a cut to nothing."""
    packed = pack(SCENES, ASKED)
    features = look(model, packed.pixels).features
    drop = Drop(early=ALL, late_share=0.1, late_layer=3)
    cut, whole = answer_logits(model, features, packed, drop), answer_logits(model, features, packed, Drop(early=ALL))
    none = answer_logits(model, features, packed, Drop(early=ALL, late=~ALL, late_layer=3))
    everything = answer_logits(model, features, packed, Drop(early=ALL, late_share=1.0, late_layer=3))
    torch.testing.assert_close(everything, whole)
    assert not torch.allclose(cut, whole, atol=1e-3)
    assert not torch.allclose(cut, none, atol=1e-3)


@pytest.mark.parametrize("turn", range(12))
def test_late_cuts_are_drawn_over_layers_and_shares(turn: int) -> None:
    owners = object_mask(SCENES)
    drop = draw_own(owners, torch.rand(owners.shape), random.Random(turn))
    assert drop.late_share is not None
    assert (2 <= drop.late_layer <= 5, 0.0 <= drop.late_share < 1.0) == (True, True)
    assert len(set(drop.early.sum(1).tolist())) == 1 or bool((drop.early == (owners >= 0)).all())


@torch.no_grad()
def test_pixels_are_those_of_the_processor() -> None:
    pictures = [render(scene) for scene in SCENES]
    torch.testing.assert_close(
        to_pixels(SCENES), build_processor().image_processor(pictures, return_tensors="pt")["pixel_values"]
    )


def test_the_cls_row_sums_to_one(model: LlavaForConditionalGeneration) -> None:
    attention = look(model, to_pixels(SCENES)).attention
    torch.testing.assert_close(attention.sum(1), torch.ones(len(SCENES)))


@pytest.mark.parametrize("turn", range(20))
def test_every_thing_keeps_some_of_its_patches(turn: int) -> None:
    owners = object_mask(SCENES)
    drop = draw_drop(owners, random.Random(turn), share=0.9)
    for keep in (drop.early, drop.early if drop.late is None else drop.late):
        assert bool((keep <= drop.early).all())
        for row, scene in enumerate(SCENES):
            counts = [int((keep[row] & (owners[row] == thing)).sum()) for thing in range(len(scene.things))]
            assert min(counts) >= min(NUM_SAFE, BUDGETS[0] // 4)


def test_a_drawn_budget_is_met() -> None:
    owners = object_mask(SCENES)
    counts = {tuple(draw_keep(owners, random.Random(turn)).sum(1).tolist()) for turn in range(60)}
    assert {(budget,) * len(SCENES) for budget in BUDGETS} <= counts
    assert tuple(len(object_patches(scene)) for scene in SCENES) in counts


def test_a_long_answer_weighs_as_much_as_a_short_one() -> None:
    pairs = [Question(text="is it?", answer=answer, kind="exists") for answer in ("yes", "a red star at the top")]
    packed = pack(SCENES[:1], [pairs])
    logits = torch.zeros(int((packed.target != IGNORED).sum()), len(vocabulary()))
    logits[:2, packed.target[packed.target != IGNORED][:2]] = 30.0
    uniform = torch.log(torch.tensor(float(len(vocabulary()))))
    assert 0.5 * uniform < answer_loss(logits, packed) < 0.55 * uniform + 0.4


def test_a_pair_is_right_when_every_token_is() -> None:
    packed = pack(SCENES, ASKED)
    targets = packed.target[packed.target != IGNORED]
    logits = torch.nn.functional.one_hot(targets, len(vocabulary())).float()
    asked, right = right_pairs(logits, packed)
    assert torch.equal(asked, right)
    logits[0] = 0
    assert int(asked.sum() - right_pairs(logits, packed)[1].sum()) == 1


def test_labels_name_what_a_patch_shows() -> None:
    owners = object_mask(SCENES)
    labels = patch_labels(owners, SCENES, "colour")
    for row, scene in enumerate(SCENES):
        for number, thing in enumerate(scene.things):
            assert set(labels[row, owners[row] == number].tolist()) == {COLOURS.index(thing.colour)}
    assert set(labels[owners < 0].tolist()) == {len(COLOURS)}
    assert cell_word_table().sum(1).unique().tolist() == [1, 2]


def test_attention_loss_falls_when_attention_meets_the_things() -> None:
    owners = object_mask(SCENES)
    on_things = (owners >= 0).float() / (owners >= 0).sum(1, keepdim=True)
    assert attention_loss(on_things, owners) < attention_loss(torch.full_like(on_things, 1 / 144), owners)
