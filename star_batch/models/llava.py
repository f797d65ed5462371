"""LLaVA-1.5: a CLIP or SigLIP tower, an MLP projector, a text decoder with rotary positions.

Knows no pruning: it offers all visual tokens and projects whichever come back.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedConfig

from star_batch.errors import ImageUnreadable, ModelError
from star_batch.models.adapter import Adapter, require_one_of
from star_batch.models.base import ImageFeatures, ImageLayout
from star_batch.models.image_processor import Normalisation
from star_batch.models.vision import ATTENTION, VisionEncoder
from star_batch.records import Picture

TOWERS = ("clip_vision_model", "siglip_vision_model")
DECODERS = ("llama", "mistral", "qwen2", "qwen3")


class Llava(Adapter):
    """Adapter of `LlavaForConditionalGeneration`; meets `VisionLanguageModel`."""

    library = LlavaForConditionalGeneration
    vision_attention = ATTENTION

    def __init__(self, model: Any, normalisation: Normalisation) -> None:
        super().__init__(model, normalisation)
        config = model.config
        self._projector = model.model.multi_modal_projector
        self._encoder = VisionEncoder(
            model.model.vision_tower,
            feature_layer=config.vision_feature_layer,
            drop_cls=config.vision_feature_select_strategy == "default",
            normalisation=normalisation,
        )
        self._side: int = config.vision_config.image_size
        self._grid: int = self._side // config.vision_config.patch_size

    @classmethod
    def check(cls, config: PreTrainedConfig) -> None:
        super().check(config)
        require_one_of("vision tower", config.vision_config.model_type, TOWERS)
        require_one_of("text decoder", config.text_config.model_type, DECODERS)
        layer, num_layers = config.vision_feature_layer, config.vision_config.num_hidden_layers
        if not isinstance(layer, int) or layer % (num_layers + 1) == 0 or abs(layer) > num_layers:
            raise ModelError(f"vision_feature_layer={layer}: one of the tower's {num_layers} layers is supported")
        has_cls = config.vision_config.model_type == "clip_vision_model"
        if has_cls != (config.vision_feature_select_strategy == "default"):
            strategy = config.vision_feature_select_strategy
            raise ModelError(f"vision_feature_select_strategy={strategy!r} does not fit a tower with CLS={has_cls}")

    @staticmethod
    def num_visual_of(config: PreTrainedConfig) -> int:
        side: int = config.vision_config.image_size // config.vision_config.patch_size
        return side * side

    def vision_batch(self, most: int) -> int:
        return most

    def layout(self, picture: Picture) -> ImageLayout:
        require_views(picture, (1, self._side, self._side, 3))
        return in_a_row(self._grid**2)

    def encode(self, views: Tensor, sizes: Sequence[tuple[int, int]]) -> ImageFeatures:
        return ImageFeatures(*self._encoder(views.squeeze(1)))

    def project(self, features: Tensor) -> Tensor:
        projected: Tensor = self._projector(features)
        return projected


@lru_cache(maxsize=1024)
def in_a_row(num_visual: int) -> ImageLayout:
    """Tokens with positions like text."""
    return ImageLayout(torch.arange(num_visual).unsqueeze(0), num_visual)


def require_views(picture: Picture, shape: tuple[int, ...]) -> None:
    """Raises:
    ImageUnreadable: the picture's views have another shape or type.
    """
    found = picture.views
    if found.shape != shape or found.dtype != "uint8":
        raise ImageUnreadable(f"a picture of views {found.shape}, {found.dtype}: expected uint8 of shape {shape}")
