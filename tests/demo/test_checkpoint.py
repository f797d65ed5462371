"""The shipped checkpoint is what its card says, driven by the library: one question per prompt."""

import random
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoProcessor, BatchFeature, LlavaForConditionalGeneration, LlavaProcessor

from star_batch.demo.drawing import render
from star_batch.demo.evaluate import CHECKPOINT, accuracy_by_layer, answer_batch, encode_batch, keep_star, load
from star_batch.demo.questions import KINDS, Question, choose_questions
from star_batch.demo.scenes import NUM_PATCHES, Scene, make_scene, object_patches, scene_seed

NUM_QUESTIONS = 240
BATCH = 60
SEED = 1234  # the figures of the card come from another stream
Asked = tuple[Scene, Question]


@pytest.fixture(scope="module", autouse=True)
def offline() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")


@cache
def load_model() -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()


@cache
def load_processor() -> LlavaProcessor:
    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    assert isinstance(processor, LlavaProcessor)
    return processor


@cache
def held_out() -> tuple[Asked, ...]:
    scenes = [make_scene(scene_seed("held-out", SEED, index)) for index in range(NUM_QUESTIONS)]
    return tuple((scene, choose_questions(scene, random.Random(scene.seed), 1)[0]) for scene in scenes)


def batches() -> list[tuple[Asked, ...]]:
    """Held-out questions in batches; sorted by length of the answer, so that a batch ends together."""
    ordered = sorted(held_out(), key=lambda asked: len(asked[1].answer))
    return [tuple(ordered[first : first + BATCH]) for first in range(0, NUM_QUESTIONS, BATCH)]


def prepare(batch: tuple[Asked, ...], *, with_answers: bool = False) -> BatchFeature:
    processor = load_processor()
    prompts = [f"USER: <image>\n{question.text} ASSISTANT:" for _, question in batch]
    if with_answers:
        ends = [f" {question.answer}{processor.tokenizer.eos_token}" for _, question in batch]
        prompts = [prompt + end for prompt, end in zip(prompts, ends, strict=True)]
    pictures = [render(scene) for scene, _ in batch]
    return processor(images=pictures, text=prompts, return_tensors="pt", padding=True, padding_side="left")


@cache
@torch.no_grad()
def generated() -> tuple[bool, ...]:
    """Whether each question of the batches is answered exactly by the library's greedy `generate`."""
    return tuple(right for batch in batches() for right in generate(batch))


def generate(batch: tuple[Asked, ...]) -> list[bool]:
    inputs = prepare(batch)
    tokens = load_model().generate(**inputs)[:, inputs["input_ids"].shape[1] :]
    texts = load_processor().batch_decode(tokens, skip_special_tokens=True)
    return [text == question.answer for text, (_, question) in zip(texts, batch, strict=True)]


@torch.no_grad()
def answer_from_objects(batch: tuple[Asked, ...]) -> list[bool]:
    """Whether greedy decoding answers exactly when no token sees a background patch.

    It does if and only if every token of the reference is the likeliest one after those before it.
    """
    inputs = prepare(batch, with_answers=True)
    ids, is_token = inputs["input_ids"], inputs["attention_mask"].bool()
    visible = is_token.clone()
    visible[ids == load_model().config.image_token_index] = is_object(batch).flatten()
    mask = visible[:, None] & torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    mask |= torch.eye(ids.shape[1], dtype=torch.bool)  # padding sees itself, lest its softmax be empty
    logits = load_model()(
        input_ids=ids,
        pixel_values=inputs["pixel_values"],
        attention_mask=mask[:, None],
        position_ids=(is_token.cumsum(1) - 1).clamp(min=0),
    ).logits
    is_right = logits[:, :-1].argmax(-1) == ids[:, 1:]
    return [bool(row[-length:].all()) for row, length in zip(is_right, answer_lengths(batch), strict=True)]


def is_object(batch: tuple[Asked, ...]) -> Tensor:
    mask = torch.zeros(len(batch), NUM_PATCHES, dtype=torch.bool)
    for row, (scene, _) in zip(mask, batch, strict=True):
        row[object_patches(scene)] = True
    return mask


def answer_lengths(batch: tuple[Asked, ...]) -> list[int]:
    tokenizer = load_processor().tokenizer
    return [len(tokenizer.encode(question.answer, add_special_tokens=False)) + 1 for _, question in batch]


def share(outcomes: tuple[bool, ...] | list[bool]) -> float:
    return sum(outcomes) / len(outcomes)


def test_the_folder_is_small_and_complete() -> None:
    files = {file.name: file.stat().st_size for file in CHECKPOINT.iterdir()}
    assert {
        "README.md",
        "config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
    } <= set(files)
    assert sum(files.values()) <= 8_000_000
    assert all(Path(name).suffix in {".md", ".json", ".safetensors", ".jinja"} for name in files)


def test_the_shape_of_the_model() -> None:
    config = load_model().config
    assert config.vision_feature_layer == -2
    assert config.vision_feature_select_strategy == "default"
    assert config.text_config.num_hidden_layers >= 6
    assert config.text_config.num_key_value_heads < config.text_config.num_attention_heads
    assert config.image_seq_length == NUM_PATCHES >= 144
    assert load_model().get_input_embeddings().weight is load_model().lm_head.weight


def test_answers_decode_to_what_was_written() -> None:
    tokenizer = load_processor().tokenizer
    for _, question in held_out():
        ids = tokenizer.encode(question.answer, add_special_tokens=False)
        assert tokenizer.unk_token_id not in tokenizer.encode(question.text)
        assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == question.answer


def test_the_chat_template_is_the_one_it_was_trained_on() -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "what is at the top?"}]
    prompt = load_processor().apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    assert prompt == "USER: <image>\nwhat is at the top? ASSISTANT:"


def test_held_out_questions_are_answered() -> None:
    assert {question.kind for _, question in held_out()} == set(KINDS)
    assert share(generated()) >= 0.90


def test_the_text_takes_over_what_it_needs_as_in_large_models() -> None:
    """Half of the layers without the image, and the cut of STAR, cost little; no layer with it costs everything."""
    model = load(CHECKPOINT)
    held = [encode_batch(model, SEED, first) for first in (0, 100)]
    by_layer = accuracy_by_layer(model, held)
    star = [right for batch in held for right in answer_batch(model, batch, keep_star(18))]
    assert by_layer[0] < 0.45 < 0.8 < by_layer[3] <= by_layer[6]
    assert share(star) >= by_layer[6] - 0.06


def test_missing_background_is_borne() -> None:
    """Keeping the objects' tokens only, at their original positions, costs at most three points."""
    pruned = [right for batch in batches() for right in answer_from_objects(batch)]
    assert share(pruned) >= share(generated()) - 0.03


def test_cls_attention_looks_at_objects() -> None:
    """At the feature layer its share on objects is at least three times their share of the patches."""
    tower = LlavaForConditionalGeneration.from_pretrained(CHECKPOINT, attn_implementation="eager").model.vision_tower
    scenes = [scene for scene, _ in held_out()[:100]]
    pixels = load_processor().image_processor([render(scene) for scene in scenes], return_tensors="pt")
    with torch.no_grad():
        attention = tower(**pixels, output_attentions=True).attentions[-2]  # of the block that outputs layer -2
    row = attention[:, :, 0, 1:].mean(1)
    row = row / row.sum(1, keepdim=True)
    on_objects = sum(float(row[index, object_patches(scene)].sum()) for index, scene in enumerate(scenes))
    area = sum(len(object_patches(scene)) for scene in scenes) / NUM_PATCHES
    assert on_objects >= 3 * area
