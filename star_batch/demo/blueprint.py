"""The demo model before training: its configuration, its word-level tokenizer and its processor.

Everything is the library's own and is saved with `save_pretrained`. This module does not know how the model
is trained.
"""

import re
from collections.abc import Iterator

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from star_batch.demo.questions import NUMBERS
from star_batch.demo.scenes import CELLS, COLOURS, GRID, IMAGE_SIZE, NUM_PATCHES, PATCH_SIZE, SHAPES

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
PAD, BOS, EOS, UNK, IMAGE = range(len(SPECIALS))
SENTENCES = """
    user : assistant : there is one object . there are objects , and nothing yes no
    how many objects are there ? how many things do you see ? count the objects .
    what colour is the ? which colour does the have ? tell me the colour of the .
    what shape is the object ? which shape does the thing have ? tell me the shape of the object . it is a
    where is the ? in which place is the ? tell me where the is . at the
    what is at the ? what do you see at the ? name the object at the .
    is there a ? do you see a ? is there a in the picture ? do you see anything ? can you find a ?
    describe the picture . what does the picture show ? list the objects .
    is the left of the ? is the above the ? are the and the the same colour ?
"""
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% elif message['role'] == 'assistant' %}ASSISTANT: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ ' ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25


def vocabulary() -> dict[str, int]:
    """Every word of the questions and answers after the special tokens, in order of first appearance."""
    cells = _words(" ".join(CELLS))
    words = (*SPECIALS, *COLOURS, *SHAPES, *cells, *NUMBERS, *_words(SENTENCES))
    return {word: index for index, word in enumerate(dict.fromkeys(words))}


def _words(text: str) -> Iterator[str]:
    return (match.group() for match in re.finditer(r"\w+|[^\w\s]", text))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word is a token; decoding puts the spaces back so that an answer reads exactly as it was written."""
    core = Tokenizer(models.WordLevel(vocabulary(), unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # Only its clean-up is used: no space before a comma or a full stop.
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        extra_special_tokens={"image_token": "<image>"},
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=512,
    )


def build_processor() -> LlavaProcessor:
    """Picture and prompt in, `input_ids` with 144 image tokens and `pixel_values` out."""
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": IMAGE_SIZE},
            crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            image_mean=[PIXEL_MEAN] * 3,
            image_std=[PIXEL_STD] * 3,
        ),
        tokenizer=build_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_config() -> LlavaConfig:
    """1.8 million parameters: a CLIP tower of four layers (the last is never used) and a LLaMA of six."""
    return LlavaConfig(
        vision_config=_vision_config(),
        text_config=_text_config(),
        image_token_index=IMAGE,
        image_seq_length=NUM_PATCHES,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )


def _vision_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=128,
        hidden_act="quick_gelu",
    )


def _text_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.06,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )


def build_model(seed: int) -> LlavaForConditionalGeneration:
    """The model with weights drawn from `seed`."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(build_config())
    with torch.no_grad():
        model.model.vision_tower.embeddings.position_embedding.weight[1:] = _grid_waves(GRID, 128)
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=40, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS
    )
    return model


def _grid_waves(side: int, width: int) -> Tensor:
    """Sines and cosines of row and column, `[side * side, width]`: where learning of the positions begins.

    The library's own start is so small beside the patches that the tower learns shapes very late.
    """
    wave = torch.arange(side)[:, None] * torch.logspace(0.5, -1.5, width // 4)
    line = torch.cat([wave.sin(), wave.cos()], dim=1)
    grid = torch.cat([line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)], dim=2)
    return 0.5 * grid.reshape(side * side, width)
