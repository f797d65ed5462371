"""Tiny random LLaVA checkpoints in transformers format: the fake that the engine's tests stand on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
)

from star_batch.records import Record

SIDE, PATCH = 56, 7
NUM_VISUAL = (SIDE // PATCH) ** 2
WORDS = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "USER:", "ASSISTANT:", *(f"w{i}" for i in range(120))]
TEMPLATE = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> "
    "{% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}ASSISTANT:"
)


def save_tiny(
    folder: Path, *, tower: str = "clip", decoder: str = "llama", layers: int = 6, template: bool = True
) -> str:
    """A random checkpoint: `tower` clip or siglip, `decoder` any text model of the LLaMA kind."""
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(_config(tower, decoder, layers))
    for parameter in model.parameters():  # far from uniform, so that answers are decided and attention is peaked
        if parameter.ndim > 1:
            parameter.data.normal_(0.0, 0.25)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    _processor(tower, template).save_pretrained(folder)
    return str(folder)


def _config(tower: str, decoder: str, layers: int) -> LlavaConfig:
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    text = {"hidden_size": 48, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": len(WORDS)}
    return LlavaConfig(
        vision_config=AutoConfig.for_model(f"{tower}_vision_model", image_size=SIDE, patch_size=PATCH, **vision),
        text_config=AutoConfig.for_model(decoder, num_hidden_layers=layers, max_position_embeddings=512, **text, **ids),
        image_token_index=4,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default" if tower == "clip" else "full",
    )


def tokenizer(more: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """A word is a token; `more` are special ones after the others."""
    words = [*WORDS, *more]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    extra = {"image_token": "<image>"} | {f"token_{i}": word for i, word in enumerate(more)}
    return PreTrainedTokenizerFast(tokenizer_object=core, extra_special_tokens=extra, **special)


def _processor(tower: str, template: bool) -> LlavaProcessor:
    size = {"height": SIDE, "width": SIDE}
    clip = CLIPImageProcessorPil(size=size, crop_size=size)
    return LlavaProcessor(
        image_processor=clip if tower == "clip" else SiglipImageProcessorPil(size=size),
        tokenizer=tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default" if tower == "clip" else "full",
        num_additional_image_tokens=int(tower == "clip"),
        chat_template=TEMPLATE if template else None,
    )


def random_image(seed: int, size: tuple[int, int] = (80, 64)) -> Image.Image:
    pixels = np.random.RandomState(seed).randint(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def random_records(count: int, seed: int = 0) -> list[Record]:
    """Records with images of their own and prompts of 1 to 12 words."""
    r = np.random.RandomState(seed)
    prompts = [" ".join(f"w{w}" for w in r.randint(0, 120, r.randint(1, 13))) for _ in range(count)]
    return [Record(f"r{i}", random_image(seed * 1000 + i), prompt) for i, prompt in enumerate(prompts)]
