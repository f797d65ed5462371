"""LLaVA-1.5: a CLIP or SigLIP tower, an MLP projector, a text decoder with rotary positions.

Knows no pruning: it offers all visual tokens and projects whichever come back.
"""

from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedConfig

from star_batch.errors import ModelError
from star_batch.models.base import ImageFeatures, Rotary
from star_batch.models.checkpoint import Checkpoint, first_line, quiet_loading
from star_batch.models.packing import pack_linears
from star_batch.models.preprocessor import Normalisation
from star_batch.models.vision import ATTENTION, VisionEncoder

TOWERS = ("clip_vision_model", "siglip_vision_model")
DECODERS = ("llama", "mistral", "qwen2", "qwen3")
# These rescale their tables by the longest position in the batch: an answer would depend on its neighbours.
_BATCH_DEPENDENT_ROTARY = ("dynamic", "longrope")


class Llava:
    """Adapter of `LlavaForConditionalGeneration`; meets `VisionLanguageModel`."""

    def __init__(self, model: LlavaForConditionalGeneration, normalisation: Normalisation) -> None:
        config, text = model.config, model.config.text_config
        self._decoder = model.model.language_model
        self._projector = model.model.multi_modal_projector
        self._head = model.lm_head
        self._encoder = VisionEncoder(
            model.model.vision_tower,
            feature_layer=config.vision_feature_layer,
            drop_cls=config.vision_feature_select_strategy == "default",
            normalisation=normalisation,
        )
        self._patch: int = config.vision_config.patch_size
        self.num_layers: int = text.num_hidden_layers
        self.num_kv_heads: int = text.num_key_value_heads
        self.head_dim: int = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.context_length = context_length(text)
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        pack_linears(model)

    @staticmethod
    def check(config: PreTrainedConfig) -> None:
        """Refuses what this adapter would compute wrongly; reads no weights.

        Raises:
            ModelError: a tower, decoder or feature selection that is not supported.
        """
        _require_one_of("vision tower", config.vision_config.model_type, TOWERS)
        _require_one_of("text decoder", config.text_config.model_type, DECODERS)
        layer, num_layers = config.vision_feature_layer, config.vision_config.num_hidden_layers
        if not isinstance(layer, int) or layer % (num_layers + 1) == 0 or abs(layer) > num_layers:
            raise ModelError(f"vision_feature_layer={layer}: one of the tower's {num_layers} layers is supported")
        has_cls = config.vision_config.model_type == "clip_vision_model"
        if has_cls != (config.vision_feature_select_strategy == "default"):
            strategy = config.vision_feature_select_strategy
            raise ModelError(f"vision_feature_select_strategy={strategy!r} does not fit a tower with CLS={has_cls}")
        rotary = config.text_config.rope_parameters.get("rope_type", "default")
        if rotary in _BATCH_DEPENDENT_ROTARY:
            raise ModelError(f"rope_type={rotary!r} makes an answer depend on its batch and is not supported")

    @staticmethod
    def num_visual_of(config: PreTrainedConfig) -> int:
        """Visual tokens of an image, from the configuration alone."""
        side: int = config.vision_config.image_size // config.vision_config.patch_size
        return side * side

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        *,
        dtype: torch.dtype,
        device: torch.device,
        normalisation: Normalisation,
        attention: str,
    ) -> "Llava":
        """Reads the weights (safetensors). `attention` names the registered function of the decoder's layers.

        Raises:
            ModelError: the weights are missing or unreadable.
        """
        try:
            with quiet_loading():
                model, report = LlavaForConditionalGeneration.from_pretrained(
                    checkpoint.source,
                    dtype=dtype,
                    use_safetensors=True,
                    output_loading_info=True,
                    attn_implementation={"text_config": attention, "vision_config": ATTENTION},
                    **checkpoint.arguments,
                )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{checkpoint.name}: its weights cannot be read: {first_line(error)}") from error
        if missing := sorted(report["missing_keys"]):  # the library would go on with random numbers
            raise ModelError(f"{checkpoint.name}: {len(missing)} weights are missing, such as {missing[0]}")
        return cls(model.eval().requires_grad_(False).to(device), normalisation)

    def num_visual(self, shape: tuple[int, ...]) -> int:
        height, width, _ = shape
        return (height // self._patch) * (width // self._patch)

    def encode(self, pixels: Tensor) -> ImageFeatures:
        return self._encoder(pixels)

    def project(self, features: Tensor) -> Tensor:
        projected: Tensor = self._projector(features)
        return projected

    def embed(self, token_ids: Tensor) -> Tensor:
        embeddings: Tensor = self._decoder.embed_tokens(token_ids)
        return embeddings

    def rotary(self, positions: Tensor) -> Rotary:
        reference = torch.empty(0, dtype=self.dtype, device=self.device)
        cos, sin = self._decoder.rotary_emb(reference, positions.unsqueeze(0))
        return cos, sin

    def attend(self, index: int, hidden: Tensor, rotary: Rotary, **attention: Any) -> Tensor:
        layer = self._decoder.layers[index]
        normed = layer.input_layernorm(hidden.unsqueeze(0))
        out, _ = layer.self_attn(hidden_states=normed, position_embeddings=rotary, attention_mask=None, **attention)
        attended: Tensor = hidden + out.squeeze(0)
        return attended

    def feed_forward(self, index: int, hidden: Tensor) -> Tensor:
        layer = self._decoder.layers[index]
        fed: Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return fed

    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._head(self._decoder.norm(hidden))
        return logits.float()


def context_length(text: PreTrainedConfig) -> int:
    """Positions that the decoder was made for; within a sliding window, attention is full attention."""
    window = getattr(text, "sliding_window", None)
    longest: int = text.max_position_embeddings
    return longest if window is None else min(longest, window)


def _require_one_of(what: str, found: str, supported: tuple[str, ...]) -> None:
    if found not in supported:
        raise ModelError(f"the {what} {found!r} is not supported; supported are {', '.join(supported)}")
