"""Vision encoders of transformers (CLIP, SigLIP), run only as far as the features need. Knows no projector and no text.

The attention of the last block is taken beside the fused kernel: one row per head, never `[H, N, N]` for a batch.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from star_batch.models.attention import full_attention
from star_batch.models.base import ImageFeatures
from star_batch.models.preprocessor import Normalisation

ATTENTION = "star_batch_vision"


class AttentionProbe:
    """Takes the attention `[B, H, 1, N]` of the block whose attention module carries it.

    An attribute of the module and not an argument: SigLIP does not hand arguments on.
    """

    def __init__(self, num_leading: int) -> None:
        self._num_leading = num_leading
        self._attention: Tensor | None = None

    def look(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """From queries and keys `[B, H, S, d]`, where the first `num_leading` (0 or 1) tokens are CLS."""
        if self._num_leading:
            row = _softmax(query[:, :, :1] * scaling, key)
        else:
            row = torch.stack([_received(q * scaling, k) for q, k in zip(query, key, strict=True)])
        self._attention = row[..., self._num_leading :]

    def take(self) -> Tensor:
        """What the last look saw, once."""
        assert self._attention is not None, "the probed block has not run"
        attention, self._attention = self._attention, None
        return attention


def _softmax(query: Tensor, key: Tensor) -> Tensor:
    return (query.float() @ key.float().mT).softmax(dim=-1)


def _received(query: Tensor, key: Tensor) -> Tensor:
    """Mean over queries; one image at a time, so that `[H, N, N]` lives for one image only."""
    return _softmax(query, key).mean(dim=-2, keepdim=True)


def _vision_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    if (probe := getattr(module, "probe", None)) is not None:
        probe.look(query, key, scaling)
    return full_attention(query, key, value, scaling).transpose(1, 2), None


AttentionInterface.register(ATTENTION, _vision_attention)


class VisionEncoder:
    """A tower's blocks up to the feature layer; the rest is released."""

    def __init__(self, tower: Any, feature_layer: int, drop_cls: bool, normalisation: Normalisation) -> None:
        self._tower = tower
        self._num_leading = int(drop_cls)
        layers = tower.encoder.layers
        num_blocks = feature_layer % (len(layers) + 1)
        tower.encoder.layers = layers[:num_blocks]
        self._probe = AttentionProbe(self._num_leading)
        tower.encoder.layers[-1].self_attn.probe = self._probe
        self._scale = normalisation.scale
        weight: Tensor = next(tower.parameters())
        self._mean = torch.tensor(normalisation.mean, device=weight.device).view(3, 1, 1)
        self._std = torch.tensor(normalisation.std, device=weight.device).view(3, 1, 1)
        self._dtype = weight.dtype

    def __call__(self, pixels: Tensor) -> ImageFeatures:
        """Features and attention of uint8 pixels `[B, height, width, 3]`."""
        hidden = self._tower.embeddings(self._normalised(pixels))
        if hasattr(self._tower, "pre_layrnorm"):  # transformers' spelling; CLIP has it, SigLIP has not
            hidden = self._tower.pre_layrnorm(hidden)
        for block in self._tower.encoder.layers:
            hidden = block(hidden, None)
        return ImageFeatures(hidden[:, self._num_leading :], self._probe.take())

    def _normalised(self, pixels: Tensor) -> Tensor:
        scaled = pixels.permute(0, 3, 1, 2).float() * self._scale
        return ((scaled - self._mean) / self._std).to(self._dtype)
