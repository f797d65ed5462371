"""What decoding a large JPEG costs, whole and smaller, and by how much the pictures differ. Made images, no model."""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPImageProcessorPil, LlavaNextImageProcessorPil, Qwen2VLImageProcessorPil

from star_batch import images
from star_batch.models.image_processor import ImageProcessor
from star_batch.records import Picture

_ROUNDS = 5
_QUALITY = 90
_SIDE = 336
_FALL = 1.5  # amplitude over frequency to this power: photographs have between 1 and 2

_PROCESSORS: dict[str, Callable[[], object]] = {
    "LLaVA-1.5": lambda: CLIPImageProcessorPil(
        size={"shortest_edge": _SIDE}, crop_size={"height": _SIDE, "width": _SIDE}
    ),
    "LLaVA-NeXT": lambda: LlavaNextImageProcessorPil(
        size={"shortest_edge": _SIDE}, crop_size={"height": _SIDE, "width": _SIDE}
    ),
    "Qwen, 1 M pixels": lambda: Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 1_003_520}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one image, encoded bytes to picture: `exact` and `fast` in seconds, the fastest of some.

    `divided_by`: the sides; `most`, `mean`: how far pixels of both pictures are from each other, of 255 levels.
    """

    processor: str
    exact: float
    fast: float
    divided_by: int
    most: int
    mean: float


def measure_decoding(width: int, height: int, seed: int = 0) -> tuple[int, list[Cost]]:
    """Bytes of the JPEG, and what it costs every kind of image processor."""
    data = _jpeg(width, height, seed)
    return len(data), [_cost(name, ImageProcessor(make()), data) for name, make in _PROCESSORS.items()]


def _cost(name: str, processor: ImageProcessor, data: bytes) -> Cost:
    def exact() -> Picture:
        return processor.picture(images.decode(data))

    def fast() -> Picture:
        return processor.picture(*images.decode_smaller(data, processor.shrink))

    (exact_seconds, whole), (fast_seconds, smaller) = _fastest(exact), _fastest(fast)
    apart = np.abs(whole.views.astype(int) - smaller.views)
    height, width = whole.size
    return Cost(
        processor=name,
        exact=exact_seconds,
        fast=fast_seconds,
        divided_by=processor.shrink((width, height)),
        most=int(apart.max()),
        mean=float(apart.mean()),
    )


def _fastest(work: Callable[[], Picture]) -> tuple[float, Picture]:
    seconds = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        picture = work()
        seconds.append(time.perf_counter() - start)
    return min(seconds), picture


def _jpeg(width: int, height: int, seed: int) -> bytes:
    """Coloured clouds whose detail falls off as a photograph's does."""
    generator = np.random.default_rng(seed)
    channels = [_clouds(width, height, generator) for _ in range(3)]
    file = io.BytesIO()
    Image.fromarray(np.stack(channels, axis=-1)).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _clouds(width: int, height: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    spectrum = np.fft.rfft2(generator.standard_normal((height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    spectrum /= np.maximum(frequency, 1 / max(width, height)) ** _FALL
    clouds = np.fft.irfft2(spectrum, s=(height, width))
    levels: NDArray[np.uint8] = np.clip(128 + 48 * (clouds - clouds.mean()) / clouds.std(), 0, 255).astype(np.uint8)
    return levels
