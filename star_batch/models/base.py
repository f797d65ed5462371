"""What the engine asks of a model: the protocol that every family's adapter meets. Knows no pruning.

Legend: `B` images, `N` visual tokens of an image, `D` encoder width, `W` decoder width, `T` tokens,
`H` heads, `Q` queries, `V` vocabulary.
"""

from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

Rotary: TypeAlias = tuple[Tensor, Tensor]
"""Cosines and sines `[1, T, head_dim]` of the positions of packed tokens."""


class ImageFeatures(NamedTuple):
    """A micro-batch as the vision encoder left it.

    `features [B, N, D]` before the projector; `attention [B, H, Q, N]` of the block that put them out,
    in float32: the CLS row, softmaxed over all keys with the CLS column dropped, or, for an encoder
    without CLS, the mean over all queries.
    """

    features: Tensor
    attention: Tensor


class VisionLanguageModel(Protocol):
    """A thin layer over a transformers model; its layers are the library's own modules, called one by one."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    dtype: torch.dtype
    device: torch.device

    def num_visual(self, shape: tuple[int, ...]) -> int:
        """Visual tokens of one image whose pixels are of shape `(height, width, 3)`."""

    def encode(self, pixels: Tensor) -> ImageFeatures:
        """Features and attention of uint8 pixels `[B, height, width, 3]` on the model's device."""

    def project(self, features: Tensor) -> Tensor:
        """Encoder features `[..., D]` as decoder embeddings `[..., W]`."""

    def embed(self, token_ids: Tensor) -> Tensor:
        """Embeddings `[T, W]` of text tokens `[T]`."""

    def rotary(self, positions: Tensor) -> Rotary:
        """Rotary tables of positions `[T]`."""

    def attend(self, index: int, hidden: Tensor, rotary: Rotary, **attention: Any) -> Tensor:
        """The attention half of a decoder layer over packed hidden states `[T, W]`.

        `attention` reaches the attention function.
        """

    def feed_forward(self, index: int, hidden: Tensor) -> Tensor:
        """The other half, row by row: what nobody reads further can be left out between the two."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits `[B, V]` in float32 of the last layer's hidden states `[B, W]`."""
