"""Tiny random checkpoints of every family, of the library's real classes, and records of many sizes for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from star_batch.records import Record
from tests.tiny import PATCH, SIDE, TEMPLATE, WORDS, random_image, save_tiny, tokenizer

PINPOINTS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
SIZES = [(80, 64), (64, 80), (30, 30), (200, 60), (50, 170), (112, 112), (56, 56), (150, 149), (300, 20)]
_TILE_PATCH = 14
QWEN_WORDS = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
QWEN_TEMPLATE = TEMPLATE.replace("<image> ", "<|vision_start|> <|image_pad|> <|vision_end|> ")

_TEXT = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 6,
    "max_position_embeddings": 1024,
    "vocab_size": len(WORDS) + len(QWEN_WORDS),
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def save_llava_next(folder: Path, tower: str = "clip") -> str:
    """Tiles of 56 pixels, 4 x 4 patches each, in grids of up to 2 x 2 and 3 x 1."""
    has_cls = tower == "clip"
    strategy = "default" if has_cls else "full"
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = LlavaNextConfig(
        vision_config=AutoConfig.for_model(f"{tower}_vision_model", image_size=SIDE, patch_size=_TILE_PATCH, **vision),
        text_config=AutoConfig.for_model("llama", **_TEXT),
        image_token_index=4,
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-2,
        vision_feature_select_strategy=strategy,
    )
    size = {"height": SIDE, "width": SIDE}
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(size=size, crop_size=size, image_grid_pinpoints=PINPOINTS),
        tokenizer=tokenizer(),
        patch_size=_TILE_PATCH,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=int(has_cls),
        chat_template=TEMPLATE,
    )
    _save(LlavaNextForConditionalGeneration(config), folder)
    processor.save_pretrained(folder)
    return str(folder)


def save_qwen2_5_vl(folder: Path) -> str:
    """Patches of 7 pixels, windows of 2 x 2 merged tokens, full attention in the second and the last block."""
    vision = {"hidden_size": 32, "intermediate_size": 48, "depth": 4, "num_heads": 2, "out_hidden_size": 48}
    more = {"window_size": 28, "fullatt_block_indexes": [1, 3], "hidden_act": "silu"}
    config = _qwen_config(Qwen2_5_VLConfig, vision | more)
    return _save_qwen(Qwen2_5_VLForConditionalGeneration(config), folder)


def save_qwen2_vl(folder: Path) -> str:
    vision = {"embed_dim": 32, "depth": 3, "num_heads": 2, "mlp_ratio": 2, "hidden_size": 48}
    return _save_qwen(Qwen2VLForConditionalGeneration(_qwen_config(Qwen2VLConfig, vision)), folder)


def _qwen_config(kind: type[Any], vision: dict[str, Any]) -> Any:
    first = len(WORDS)
    return kind(
        vision_config=vision | {"patch_size": PATCH},
        text_config=_TEXT | {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2]}},
        image_token_id=first,
        video_token_id=first + 1,
        vision_start_token_id=first + 2,
        vision_end_token_id=first + 3,
    )


def _save_qwen(model: Any, folder: Path) -> str:
    """The parts of the processor one by one: the library's whole one cannot be made without torchvision."""
    _save(model, folder)
    words = tokenizer(more=QWEN_WORDS)
    words.chat_template = QWEN_TEMPLATE
    words.save_pretrained(folder)
    Qwen2VLImageProcessorPil(
        patch_size=PATCH, size={"shortest_edge": 14 * 14 * 4, "longest_edge": 14 * 14 * 40}
    ).save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def _save(model: Any, folder: Path) -> None:
    """Weights far from uniform, so that answers are decided and attention is peaked."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, 0.25, generator=generator)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)


FAMILIES: dict[str, Callable[[Path], str]] = {
    "llava": save_tiny,
    "llava_next": save_llava_next,
    "llava_next-siglip": lambda folder: save_llava_next(folder, tower="siglip"),
    "qwen2_vl": save_qwen2_vl,
    "qwen2_5_vl": save_qwen2_5_vl,
}


def varied_records(count: int, seed: int = 0, most_images: int = 3) -> list[Record]:
    """Records of one to `most_images` images of many sizes, with prompts of 1 to 12 words."""
    r = np.random.RandomState(seed)
    return [_record(f"r{i}", r, seed * 1000 + 10 * i, i % most_images + 1) for i in range(count)]


def _record(id: str, r: np.random.RandomState, seed: int, num_images: int) -> Record:
    images = [random_image(seed + i, SIZES[r.randint(len(SIZES))]) for i in range(num_images)]
    prompt = " ".join(f"w{w}" for w in r.randint(0, 120, r.randint(1, 13)))
    return Record(id, images, prompt)
