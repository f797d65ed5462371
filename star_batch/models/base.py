"""What is asked of a family of models, and of a model: the protocols that every adapter meets. Knows no pruning.

Legend: `B` images of a micro-batch, `V` views of an image, `N` visual tokens of an image, `P` of them from the
encoder, `D` encoder width, `W` decoder width, `T` tokens, `H` heads, `Q` queries, `A` position axes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from star_batch.models.checkpoint import Checkpoint
from star_batch.models.image_processor import Normalisation
from star_batch.records import Picture

Rotary: TypeAlias = tuple[Tensor, Tensor]
"""Cosines and sines `[1, T, head_dim]` of the positions of packed tokens."""


class ImageLayout(NamedTuple):
    """What an image will be in the decoder, known from its size alone, before anything is computed.

    `positions [A, N]` int64 of its tokens, counted from where the image starts; the text after it goes on
    at that start + `extent`.
    """

    positions: Tensor
    extent: int

    @property
    def num_visual(self) -> int:
        return self.positions.shape[1]


class ImageFeatures(NamedTuple):
    """A micro-batch as the vision encoder left it, in the order in which the decoder will see it.

    `features [B, P, D]` before the projector; `attention [B, H, Q, P]` of the block that put them out, in
    float32: the CLS row, softmaxed over all keys with the CLS column dropped, or, for an encoder without CLS,
    the mean over all queries. Where a decoder sees more than the encoder's tokens, `places [P]` says which of
    the image's N tokens these are; the others are all the model's `separator`.
    """

    features: Tensor
    attention: Tensor
    places: Tensor | None = None


class VisionLanguageModel(Protocol):
    """A thin layer over a transformers model; its layers are the library's own modules, called one by one."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    num_axes: int
    context_length: int
    dtype: torch.dtype
    device: torch.device
    separator: Tensor | None
    """Embedding `[W]` of the visual tokens that no encoder put out, such as the end of a row of tiles."""

    def vision_batch(self, most: int) -> int:
        """Images of one micro-batch: `most` where all have one shape, else 1, so that each is encoded by itself."""

    def layout(self, picture: Picture) -> ImageLayout:
        """Where the tokens of a picture will be.

        Raises:
            ImageUnreadable: the picture is not one of this checkpoint's preprocessor.
        """

    def encode(self, views: Tensor, sizes: Sequence[tuple[int, int]]) -> ImageFeatures:
        """Features and attention of a micro-batch: uint8 `[B, V, height, width, 3]` on the model's device.

        `sizes` are those of the pictures, (height, width): the last images may be padding, and where all images
        have one shape they are not looked at.
        """

    def project(self, features: Tensor) -> Tensor:
        """Encoder features `[..., D]` as decoder embeddings `[..., W]`."""

    def embed(self, token_ids: Tensor) -> Tensor:
        """Embeddings `[T, W]` of text tokens `[T]`."""

    def rotary(self, positions: Tensor) -> Rotary:
        """Rotary tables of positions `[A, T]`, or `[1, T]` where they are the same on every axis."""

    def attend(self, index: int, hidden: Tensor, rotary: Rotary, **attention: Any) -> Tensor:
        """The attention half of a decoder layer over packed hidden states `[T, W]`.

        `attention` reaches the attention function.
        """

    def feed_forward(self, index: int, hidden: Tensor) -> Tensor:
        """The other half, row by row: what nobody reads further can be left out between the two."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits `[B, vocabulary]` in float32 of the last layer's hidden states `[B, W]`."""


class Family(Protocol):
    """How the checkpoints of one `model_type` become models; a class made of `Adapter` is one.

    What can be told is told by the configuration alone, before any weight is read.
    """

    @property
    def num_axes(self) -> int:
        """Position axes of the family's models."""

    def check(self, config: PreTrainedConfig) -> None:
        """Refuses what the adapter would compute wrongly.

        Raises:
            ModelError: a part or setting that is not supported.
        """

    def num_visual_of(self, config: PreTrainedConfig) -> int:
        """Visual tokens of an image; where images differ, of a typical one."""

    def num_views_of(self, config: PreTrainedConfig) -> int:
        """Times that the tower runs for such an image."""

    def check_weights(self, checkpoint: Checkpoint, config: PreTrainedConfig) -> None:
        """What a local checkpoint's files tell before any of them is read.

        Raises:
            ModelError: they are missing, broken, or too few for the configuration.
        """

    def load(
        self,
        checkpoint: Checkpoint,
        *,
        dtype: torch.dtype,
        device: torch.device,
        normalisation: Normalisation,
        attention: str,
    ) -> VisionLanguageModel:
        """A model with its weights. `attention` names the registered function of the decoder's layers.

        Raises:
            ModelError: the weights are missing, unreadable or not finite.
        """
