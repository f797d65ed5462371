"""Images to pictures, by the checkpoint's own image processor. Knows no words and no model; runs on CPU only.

Normalising is left to the device: pixels stay uint8 until then.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from star_batch.errors import ImageTooLarge, ImageUnreadable
from star_batch.models.checkpoint import first_line
from star_batch.models.shrinking import can_shrink, shrink
from star_batch.records import Picture

_MAX_ASPECT = 100
_TYPICAL_SIZE = (640, 480)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """How uint8 pixels become the encoder's input: `(pixels * scale - mean) / std`, per channel."""

    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class ImageProcessor:
    """Resizes, crops or tiles images as a checkpoint wants them; `images` is the library's image processor."""

    def __init__(self, images: Any) -> None:
        self._images = images

    @property
    def normalisation(self) -> Normalisation:
        images = self._images
        mean = images.image_mean if images.do_normalize else (0.0, 0.0, 0.0)
        std = images.image_std if images.do_normalize else (1.0, 1.0, 1.0)
        return Normalisation(scale=images.rescale_factor if images.do_rescale else 1.0, mean=mean, std=std)

    @cached_property
    def typical(self) -> Picture:
        """A photograph of common size as this checkpoint sees it, for sizing what depends on pictures."""
        return self.picture(Image.new("RGB", _TYPICAL_SIZE))

    @property
    def can_shrink(self) -> bool:
        """Whether large images may be decoded smaller; see `shrink`."""
        return can_shrink(self._images)

    def shrink(self, size: tuple[int, int]) -> int:
        """By how much both sides of an upright image of `size` (width, height) may be divided before `picture`.

        A size that is refused there is left as it is.
        """
        return shrink(self._images, size) if max(size) <= _MAX_ASPECT * min(size) else 1

    def picture(self, image: Image.Image, size: tuple[int, int] | None = None) -> Picture:
        """An upright RGB image, resized, cropped or tiled as the checkpoint wants it.

        `size`: (width, height) before it was decoded smaller; its own if it was not.

        Raises:
            ImageTooLarge: so long and thin that resizing its short side would make it huge.
            ImageUnreadable: the image processor fails on it.
        """
        if max(image.size) > _MAX_ASPECT * min(image.size):
            raise ImageTooLarge(f"{image.width} x {image.height} pixels: a side is over {_MAX_ASPECT} times the other")
        try:
            found = self._images(image, do_rescale=False, do_normalize=False)
            views = np.ascontiguousarray(self._views(found), dtype=np.uint8)
        except Exception as error:
            raise ImageUnreadable(f"the checkpoint's image processor cannot take it: {first_line(error)}") from error
        width, height = size or image.size
        return Picture(views, (height, width))

    def _views(self, found: Any) -> NDArray[Any]:
        """The image processor's output as `[V, height, width, 3]`, whichever form it has."""
        pixels = found["pixel_values"]
        if "image_grid_thw" in found:
            return _unpatched(np.asarray(pixels), found["image_grid_thw"][0], self._images)
        views = np.asarray(pixels[0])
        return np.moveaxis(views if views.ndim == 4 else views[None], 1, -1)


def _unpatched(patches: NDArray[Any], grid: NDArray[np.int64], images: Any) -> NDArray[Any]:
    """Patches `[P, 3 * T * p * p]` of the Qwen family, in blocks that will be merged, as the image that they show."""
    _, rows, columns = (int(side) for side in grid)
    patch, merge = images.patch_size, images.merge_size
    blocks = patches.reshape(rows // merge, columns // merge, merge, merge, 3, -1, patch, patch)[..., 0, :, :]
    return blocks.transpose(0, 2, 5, 1, 3, 6, 4).reshape(1, rows * patch, columns * patch, 3)
