"""Vision encoders of transformers, run only as far as the features need. Knows no projector and no text.

The attention of the last block is taken beside the fused kernel: one row per head, never `[H, N, N]` for a batch.
"""

from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from star_batch.models.attention import full_attention
from star_batch.models.image_processor import Normalisation

ATTENTION = "star_batch_vision"
# The library hands whole packed images only to names that it takes for flash attention; to others, window by window.
PACKED_ATTENTION = "star_batch_vision_as_flash"

_QUERIES_AT_ONCE = 512


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

    def look_within(self, segments: list[slice], query: Tensor, key: Tensor, scaling: float) -> None:
        """From queries and keys `[1, H, S, d]` that attend within segments only."""
        rows = [_received(query[0, :, part] * scaling, key[0, :, part]) for part in segments]
        self._attention = torch.cat(rows, dim=-1).unsqueeze(0)

    def take(self) -> Tensor:
        """What the last look saw, once."""
        assert self._attention is not None, "the probed block has not run"
        attention, self._attention = self._attention, None
        return attention


def _softmax(query: Tensor, key: Tensor) -> Tensor:
    return (query.float() @ key.float().mT).softmax(dim=-1)


def _received(query: Tensor, key: Tensor) -> Tensor:
    """Mean over queries, `[H, 1, N]`; some rows of one image at a time, so that `[H, N, N]` never lives."""
    parts = [_softmax(rows, key).sum(dim=-2, keepdim=True) for rows in query.split(_QUERIES_AT_ONCE, dim=-2)]
    return torch.stack(parts).sum(dim=0) / query.shape[-2]


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


def _packed_vision_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    cu_seq_lens_q: Tensor,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within the segments of one image `[1, H, S, d]`; neighbours of equal length share a kernel call."""
    bounds = cu_seq_lens_q.tolist()
    if (probe := getattr(module, "probe", None)) is not None:
        probe.look_within([slice(*pair) for pair in pairwise(bounds)], query, key, scaling)
    parts = []
    for length, run in groupby(pairwise(bounds), key=lambda pair: pair[1] - pair[0]):
        (first, _end), *rest = run
        tokens = slice(first, first + length * (1 + len(rest)))
        q, k, v = (x[0, :, tokens].unflatten(1, (-1, length)).transpose(0, 1) for x in (query, key, value))
        parts.append(full_attention(q, k, v, scaling).transpose(1, 2).flatten(0, 1))
    return torch.cat(parts).unsqueeze(0), None


AttentionInterface.register(ATTENTION, _vision_attention)
AttentionInterface.register(PACKED_ATTENTION, _packed_vision_attention)


class Normaliser:
    """uint8 pixels `[B, height, width, 3]` to the encoder's input `[B, 3, height, width]`."""

    def __init__(self, normalisation: Normalisation, dtype: torch.dtype, device: torch.device) -> None:
        self._scale = normalisation.scale
        self._mean = torch.tensor(normalisation.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(normalisation.std, device=device).view(3, 1, 1)
        self._dtype = dtype

    def __call__(self, pixels: Tensor) -> Tensor:
        scaled = pixels.permute(0, 3, 1, 2).float() * self._scale
        return ((scaled - self._mean) / self._std).to(self._dtype)


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
        weight: Tensor = next(tower.parameters())
        self._normalise = Normaliser(normalisation, weight.dtype, weight.device)

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[B, N, D]` and attention `[B, H, 1, N]` of uint8 pixels `[B, height, width, 3]`."""
        hidden = self._tower.embeddings(self._normalise(pixels))
        if hasattr(self._tower, "pre_layrnorm"):  # transformers' spelling; CLIP has it, SigLIP has not
            hidden = self._tower.pre_layrnorm(hidden)
        for block in self._tower.encoder.layers:
            hidden = block(hidden, None)
        return hidden[:, self._num_leading :], self._probe.take()
