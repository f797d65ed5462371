"""The model that everybody is measured with: one set of weights, in the library's form and in ours.

Knows no engine's inside, no clock and no request.
"""

import copy
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from star_batch.bench.shapes import Shape, shape_named
from star_batch.engine.attention import ATTENTION
from star_batch.errors import ModelError
from star_batch.models import (
    Checkpoint,
    Preprocessor,
    VisionLanguageModel,
    choose_device,
    choose_dtype,
    family_of,
    generation_of,
)
from star_batch.models.checkpoint import opening, quiet_loading
from star_batch.models.llava import Llava
from star_batch.options import Dtype

_SENTENCE = """
    what is the colour of a small red cup near the two green cars on the left ? how many dogs and cats are there
    under this large blue tree , and where does one person see their house ? tell me which street we name right .
"""
WORDS = tuple(dict.fromkeys(_SENTENCE.split()))
"""Of these random prompts are made; in a shape's vocabulary each is a token."""

PAD, BOS, EOS, UNK, IMAGE = range(5)
_SPECIALS = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
TEMPLATE = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> "
    "{% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}ASSISTANT:"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """`model` is transformers' own, whole, with the attention that the library chooses."""

    name: str
    model: Any
    preprocessor: Preprocessor
    stop_ids: frozenset[int]
    num_visual: int

    @property
    def config(self) -> PreTrainedConfig:
        return self.model.config

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype
        return dtype

    def adapter(self) -> VisionLanguageModel:
        """Our form of it: modules of its own around the very same tensors, so it costs no memory."""
        shared = {id(tensor): tensor for tensor in chain(self.model.parameters(), self.model.buffers())}
        twin = copy.deepcopy(self.model, shared)
        twin.set_attn_implementation(Llava.attentions(ATTENTION))
        return Llava(twin, self.preprocessor.normalisation)


def make_subject(*, model: str | None, shape: str | None, dtype: Dtype, device: str, seed: int) -> Subject:
    """A checkpoint, or random weights in a named shape.

    Raises:
        ConfigError: no such shape.
        ModelError: the checkpoint cannot be loaded, or there is no such device.
    """
    if model is not None:
        return _from_checkpoint(Checkpoint(name=model), dtype, choose_device(device))
    return _from_shape(str(shape), dtype, choose_device(device), seed)


def _from_checkpoint(checkpoint: Checkpoint, dtype: Dtype, device: torch.device) -> Subject:
    config = checkpoint.config()
    family = family_of(checkpoint, config)
    if config.model_type != "llava":
        raise ModelError(f"{checkpoint.name}: is measured against generate for LLaVA-1.5 only")
    preprocessor = Preprocessor.from_checkpoint(checkpoint)
    with opening(checkpoint, "its weights cannot be read"), quiet_loading():
        model = AutoModelForImageTextToText.from_pretrained(
            checkpoint.source,
            dtype=choose_dtype(dtype, config, device),
            use_safetensors=True,
            **checkpoint.arguments,
        )
    return Subject(
        name=checkpoint.name,
        model=model.eval().requires_grad_(False).to(device),
        preprocessor=preprocessor,
        stop_ids=generation_of(checkpoint, config).stop_ids or preprocessor.stop_ids,
        num_visual=family.num_visual_of(config),
    )


def _from_shape(name: str, dtype: Dtype, device: torch.device, seed: int) -> Subject:
    shape = shape_named(name)
    config = shape_config(shape)
    # Random weights were saved in nothing; bfloat16 is what such models are run in.
    chosen = torch.bfloat16 if dtype == "auto" else choose_dtype(dtype, config, device)
    side = shape.tower.side // shape.tower.patch
    return Subject(
        name=name,
        model=random_model(config, chosen, device, seed),
        preprocessor=shape_preprocessor(shape),
        stop_ids=frozenset((EOS,)),
        num_visual=side * side,
    )


def shape_config(shape: Shape) -> LlavaConfig:
    """The library's configuration of a shape."""
    tower, decoder = shape.tower, shape.decoder
    vision = CLIPVisionConfig(
        hidden_size=tower.width,
        intermediate_size=tower.mlp,
        num_hidden_layers=tower.layers,
        num_attention_heads=tower.heads,
        image_size=tower.side,
        patch_size=tower.patch,
    )
    text = LlamaConfig(
        hidden_size=decoder.width,
        intermediate_size=decoder.mlp,
        num_hidden_layers=decoder.layers,
        num_attention_heads=decoder.heads,
        num_key_value_heads=decoder.kv_heads,
        vocab_size=decoder.vocabulary,
        max_position_embeddings=decoder.context,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


@torch.no_grad()
def random_model(config: PreTrainedConfig, dtype: torch.dtype, device: torch.device, seed: int) -> Any:
    """Made where it will run; weights as wide as keeps activations of one size, so that answers are decided."""
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    generator = torch.Generator(device).manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
    return model.eval().requires_grad_(False).to(device)


def shape_preprocessor(shape: Shape) -> Preprocessor:
    """Images at the shape's size, and a tokenizer whose tokens are words."""
    size = {"height": shape.tower.side, "width": shape.tower.side}
    images = CLIPImageProcessorPil(size=size, crop_size=size)
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=word_tokenizer(shape.decoder.vocabulary),
        patch_size=shape.tower.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    return Preprocessor.of_processor(processor, images)


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A word is a token, and every id of the vocabulary has a word."""
    named = (*_SPECIALS, "USER:", "ASSISTANT:", *WORDS)
    words = (*named, *(f"w{index}" for index in range(len(named), size)))
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
