"""LLaVA-NeXT: an overview and tiles of the image, joined to one grid with the end of every row marked.

The grid is the library's own: padding is cut off and a newline token follows every row. Knows no pruning, but the
pitfall: the newlines come from no encoder, so they are offered to no selection.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaNextForConditionalGeneration, PreTrainedConfig
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

from star_batch.models.base import ImageFeatures, ImageLayout
from star_batch.models.image_processor import Normalisation
from star_batch.models.llava import Llava, in_a_row, require_views
from star_batch.records import Picture

_TYPICAL_SIZE = (480, 640)
_NEWLINE = -1


class LlavaNext(Llava):
    """Adapter of `LlavaNextForConditionalGeneration`; meets `VisionLanguageModel`."""

    library = LlavaNextForConditionalGeneration

    def __init__(self, model: Any, normalisation: Normalisation) -> None:
        super().__init__(model, normalisation)
        self._tiling = Tiling.of(model.config)
        self.separator = model.model.image_newline

    @staticmethod
    def num_visual_of(config: PreTrainedConfig) -> int:
        return len(Tiling.of(config).tokens(_TYPICAL_SIZE))

    @staticmethod
    def num_views_of(config: PreTrainedConfig) -> int:
        return Tiling.of(config).num_views(_TYPICAL_SIZE)

    def vision_batch(self, most: int) -> int:
        return 1

    def layout(self, picture: Picture) -> ImageLayout:
        require_views(picture, (self._tiling.num_views(picture.size), self._side, self._side, 3))
        return in_a_row(len(self._tiling.tokens(picture.size)))

    def encode(self, views: Tensor, sizes: Sequence[tuple[int, int]]) -> ImageFeatures:
        """One image; the attention of each of its views, a distribution of its own, counts equally."""
        features, attention = self._encoder(views[0])
        tokens = self._tiling.tokens(sizes[0])
        places = (tokens != _NEWLINE).nonzero().squeeze(1).to(self.device)
        order = tokens[tokens != _NEWLINE].to(self.device)
        joined = attention.permute(1, 2, 0, 3).flatten(2)  # [H, Q, V * tokens of a view]
        return ImageFeatures(
            features.flatten(0, 1)[order].unsqueeze(0),
            joined[..., order].unsqueeze(0) / len(features),
            places,
        )


class Tiling:
    """Which token of which view comes where in an image of some size."""

    def __init__(self, pinpoints: list[list[int]], side: int, grid: int) -> None:
        self._pinpoints, self._side, self._grid = pinpoints, side, grid
        self.tokens = lru_cache(maxsize=4096)(self._tokens)

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "Tiling":
        vision = config.vision_config
        return cls(config.image_grid_pinpoints, vision.image_size, vision.image_size // vision.patch_size)

    def num_views(self, size: tuple[int, int]) -> int:
        rows, columns = self._shape(size)
        return 1 + rows * columns

    def _shape(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tiles."""
        rows, columns = get_anyres_image_grid_shape(size, self._pinpoints, self._side)
        return rows, columns

    def _tokens(self, size: tuple[int, int]) -> Tensor:
        """Index `[N]` of each visual token among those of all views, one view after the other; -1 for a newline."""
        per_view = self._grid**2
        rows, columns = self._shape(size)
        tiles = per_view + torch.arange(rows * columns * per_view).view(rows, columns, self._grid, self._grid)
        image = tiles.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
        image = unpad_image(image.unsqueeze(0), size)[0]
        ended = torch.nn.functional.pad(image, (0, 1), value=_NEWLINE)
        return torch.cat([torch.arange(per_view), ended.flatten()])
