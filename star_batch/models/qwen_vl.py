"""Qwen2-VL and Qwen2.5-VL: images at a resolution of their own, four patches to a token, three position axes.

Each image is encoded by itself. The tower's own forward runs the blocks, so windows, their permutation and its
undoing are the library's; only the merger is taken out, to be applied to the tokens that are kept. Knows no pruning.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids, get_vision_window_index

from star_batch.errors import ImageUnreadable
from star_batch.models.adapter import Adapter
from star_batch.models.base import ImageFeatures, ImageLayout, Rotary
from star_batch.models.image_processor import Normalisation
from star_batch.models.vision import ATTENTION, PACKED_ATTENTION, AttentionProbe, Normaliser
from star_batch.records import Picture

_TYPICAL_SIZE = (480, 640)


class Qwen2VL(Adapter):
    """Adapter of `Qwen2VLForConditionalGeneration`; meets `VisionLanguageModel`."""

    library: ClassVar[Any] = Qwen2VLForConditionalGeneration
    vision_attention = ATTENTION
    num_axes = 3

    def __init__(self, model: Any, normalisation: Normalisation) -> None:
        super().__init__(model, normalisation)
        self._config = model.config.vision_config
        self._patch: int = self._config.patch_size
        self._merge: int = self._config.spatial_merge_size
        self._tower = model.model.visual
        # Only now: the library would look for a kernel of that name if it were asked for while loading.
        self._config._attn_implementation = PACKED_ATTENTION
        self._merger = self._tower.merger
        self._tower.merger = _Blocks(self._merge**2)
        self._tower.patch_embed.proj = _PatchProduct(self._tower.patch_embed.proj)
        self._probe = AttentionProbe(num_leading=0)
        self._tower.blocks[-1].attn.probe = self._probe
        self._normalise = Normaliser(normalisation, self.dtype, self.device)

    @staticmethod
    def num_visual_of(config: PreTrainedConfig) -> int:
        side: int = config.vision_config.patch_size * config.vision_config.spatial_merge_size
        height, width = _TYPICAL_SIZE
        return round(height / side) * round(width / side)

    def vision_batch(self, most: int) -> int:
        return 1

    def layout(self, picture: Picture) -> ImageLayout:
        views, side = picture.views, self._patch * self._merge
        is_image = views.ndim == 4 and views.shape[::3] == (1, 3) and views.dtype == "uint8"
        if not is_image or views.shape[1] % side or views.shape[2] % side:
            raise ImageUnreadable(
                f"a picture of views {views.shape}, {views.dtype}: expected uint8, sides in {side} pixels"
            )
        return _on_a_grid(views.shape[1] // side, views.shape[2] // side)

    def encode(self, views: Tensor, sizes: Sequence[tuple[int, int]]) -> ImageFeatures:
        image = self._normalise(views[0])[0]
        grid = torch.tensor([[1, image.shape[1] // self._patch, image.shape[2] // self._patch]])
        out = self._tower(self._patches(image), grid_thw=grid, **self._tables(grid))
        return ImageFeatures(out.pooler_output.unsqueeze(0), self._received(grid).unsqueeze(0))

    def project(self, features: Tensor) -> Tensor:
        projected: Tensor = self._merger(features.unflatten(-1, (self._merge**2, -1)).flatten(0, -2))
        return projected

    def rotary(self, positions: Tensor) -> Rotary:
        return super().rotary(positions.expand(self.num_axes, -1).unsqueeze(1))

    def _patches(self, image: Tensor) -> Tensor:
        """An image `[3, height, width]` as `[P, 3 * T * p * p]`: patches that will be merged lie side by side."""
        patch, merge = self._patch, self._merge
        _, height, width = image.shape
        blocks = image.view(3, height // (patch * merge), merge, patch, width // (patch * merge), merge, patch)
        blocks = blocks.permute(1, 4, 2, 5, 0, 3, 6).unsqueeze(5)
        return blocks.expand(-1, -1, -1, -1, -1, self._config.temporal_patch_size, -1, -1).reshape(
            -1, 3 * self._config.temporal_patch_size * patch * patch
        )

    def _tables(self, grid: Tensor) -> dict[str, Tensor]:
        """What the tower would work out by itself, but on the device: lengths of segments stay on the host."""
        positions = get_vision_position_ids(grid, self._merge).to(self.device)
        return {"position_ids": positions, "cu_seqlens": get_vision_cu_seqlens(grid)}

    def _received(self, grid: Tensor) -> Tensor:
        """Attention `[H, 1, N]` that each merged token received: the sum over its patches."""
        received: Tensor = self._probe.take()[0].unflatten(-1, (-1, self._merge**2))
        return received.sum(dim=-1)


class Qwen2_5VL(Qwen2VL):
    """Adapter of `Qwen2_5_VLForConditionalGeneration`: most of its tower's blocks attend within windows."""

    library: ClassVar[Any] = Qwen2_5_VLForConditionalGeneration

    def _tables(self, grid: Tensor) -> dict[str, Tensor]:
        index, bounds = self._windows(grid)
        return super()._tables(grid) | {"window_index": index.to(self.device), "cu_window_seqlens": bounds}

    def _received(self, grid: Tensor) -> Tensor:
        """The tower sees its tokens window by window: put back into the order of the image."""
        index, _ = self._windows(grid)
        return super()._received(grid)[..., index.argsort().to(self.device)]

    def _windows(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        index, bounds = get_vision_window_index(grid, self._merge, self._config.window_size, self._patch)
        return index, bounds


class _Blocks(nn.Module):
    """In the merger's place: patches `[P, D]` that belong to one token laid side by side, `[N, merged * D]`."""

    def __init__(self, num_merged: int) -> None:
        super().__init__()
        self._num_merged = num_merged

    def forward(self, patches: Tensor) -> Tensor:
        return patches.view(-1, self._num_merged * patches.shape[-1])


class _PatchProduct(nn.Module):
    """A convolution that sees each pixel once, as the matrix product that it is.

    `[P, 3, T, p, p]` to `[P, D]`. Convolutions are slower on CPUs, and on GPUs cuDNN plans one per number of patches.
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self.weight = nn.Parameter(convolution.weight.detach().flatten(1), requires_grad=False)

    def forward(self, patches: Tensor) -> Tensor:
        return nn.functional.linear(patches.flatten(1), self.weight)


@lru_cache(maxsize=4096)
def _on_a_grid(rows: int, columns: int) -> ImageLayout:
    """Positions (time, row, column); the text after the image goes on after its longer side."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    positions = torch.stack([torch.zeros_like(row), row, column]).flatten(1)
    return ImageLayout(positions, max(rows, columns))
