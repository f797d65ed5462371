"""Large JPEGs decoded smaller: the same shapes, the same way up, and colours that are nearly the same."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image
from transformers import (
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    LlavaImageProcessorPil,
    LlavaNextImageProcessorPil,
    Qwen2VLImageProcessorPil,
    SiglipImageProcessorPil,
)

from star_batch import images
from star_batch.bench.decoding import measure_decoding
from star_batch.config import JobConfig
from star_batch.errors import ConfigError, ImageError
from star_batch.models.image_processor import ImageProcessor
from star_batch.models.shrinking import FACTORS, can_shrink, shrink
from star_batch.pipeline import backend
from tests.pipeline.samples import job

_CROP = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
PROCESSORS: dict[str, Any] = {
    "clip": CLIPImageProcessorPil(**_CROP),
    "uncut": CLIPImageProcessorPil(size={"shortest_edge": 56}, do_center_crop=False),
    "llava": LlavaImageProcessorPil(**_CROP, do_pad=True),
    "siglip": SiglipImageProcessorPil(size={"height": 56, "width": 56}),
    "tiles": LlavaNextImageProcessorPil(**_CROP, image_grid_pinpoints=[[56, 112], [112, 56], [112, 112], [168, 56]]),
    "native": Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 20_000}),
}


def jpeg(width: int, height: int, **options: Any) -> bytes:
    """Smooth colours, so that no two places are alike."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * rows / height, 255 * columns / width, 128 + 0 * rows], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, options.pop("format", "JPEG"), **options)
    return file.getvalue()


@pytest.mark.parametrize("name", PROCESSORS)
@given(width=st.integers(30, 700), height=st.integers(30, 700))
def test_pictures_have_the_shape_that_whole_images_give(name: str, width: int, height: int) -> None:
    processor = ImageProcessor(PROCESSORS[name])
    data = jpeg(width, height)
    image, size = images.decode_smaller(data, processor.shrink)
    factor = processor.shrink(size)
    assert size == (width, height)
    assert image.size == (-(-width // factor), -(-height // factor))
    exact, fast = processor.picture(images.decode(data)), processor.picture(image, size)
    assert (fast.views.shape, fast.size) == (exact.views.shape, exact.size)
    # Shapes that agree could still show another part of the image; its corners differ by far more.
    assert np.abs(fast.views.astype(int) - exact.views).mean() < 8


@pytest.mark.parametrize("name", PROCESSORS)
def test_large_images_are_shrunk_and_small_ones_are_not(name: str) -> None:
    assert shrink(PROCESSORS[name], (4000, 3000)) == 8
    assert shrink(PROCESSORS[name], (80, 60)) == 1


@given(size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)))
def test_no_side_falls_below_twice_its_picture(size: tuple[int, int]) -> None:
    width, height = size
    factor = shrink(PROCESSORS["siglip"], size)
    assert factor in (1, *FACTORS)
    assert factor == 1 or min(width, height) // factor >= 2 * 56
    assert factor == 8 or min(width, height) // (2 * factor) < 2 * 56


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_that_lie_on_their_side_are_measured_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = jpeg(640, 320, exif=exif)
    exact = images.decode(data)
    asked = []

    def by_two(size: tuple[int, int]) -> int:
        asked.append(size)
        return 2

    image, size = images.decode_smaller(data, by_two)
    assert asked == [exact.size] == [size]
    assert image.size == (exact.width // 2, exact.height // 2)
    apart = np.abs(np.asarray(image, dtype=int) - np.asarray(exact.resize(image.size, Image.Resampling.BOX)))
    assert apart.max() <= 4


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_other_formats_are_decoded_whole(format: str) -> None:
    data = jpeg(640, 320, format=format)
    image, size = images.decode_smaller(data, lambda _: 8)
    assert image.size == size == (640, 320)
    assert image.tobytes() == images.decode(data).tobytes()


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_grey_print_and_progressive_images_too(mode: str, options: dict[str, Any]) -> None:
    file = io.BytesIO()
    Image.open(io.BytesIO(jpeg(640, 320))).convert(mode).save(file, "JPEG", **options)
    image, _ = images.decode_smaller(file.getvalue(), lambda _: 4)
    assert (image.mode, image.size) == ("RGB", (160, 80))
    apart = np.asarray(image, dtype=int) - images.decode(file.getvalue()).resize((160, 80), Image.Resampling.BOX)
    assert np.abs(apart).max() <= 6


def test_broken_images_are_error_rows_as_they_are_when_decoded_whole() -> None:
    whole = jpeg(640, 320)
    for data in (b"", b"no image", whole[:300], whole[: len(whole) // 2]):
        with pytest.raises(ImageError) as exact:
            images.decode(data)
        with pytest.raises(ImageError, match=r".") as fast:
            images.decode_smaller(data, lambda _: 2)
        assert (type(fast.value), str(fast.value)) == (type(exact.value), str(exact.value))
    with pytest.raises(ImageError, match=r"^640 x 320 pixels; the limit is 1,000$"):
        images.decode_smaller(whole, lambda _: 8, max_pixels=1000)


def test_an_image_processor_that_is_not_known_gets_whole_images() -> None:
    unknown = BlipImageProcessorPil()
    assert not can_shrink(unknown)
    assert shrink(unknown, (4000, 3000)) == 1
    assert can_shrink(PROCESSORS["clip"])
    assert not can_shrink(CLIPImageProcessorPil(do_resize=False))
    for size in ({"shortest_edge": 56, "longest_edge": 80}, {"max_height": 56, "max_width": 56}, {"longest_edge": 56}):
        assert not can_shrink(CLIPImageProcessorPil(size=size))
    # A checkpoint's own code may do anything, whatever it is called.
    theirs = type("CLIPImageProcessorPil", (CLIPImageProcessorPil,), {"__module__": "transformers_modules.theirs"})
    assert not can_shrink(theirs())


def test_a_job_that_could_not_shrink_is_refused_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: JobConfig = job(tmp_path / "in", tmp_path / "out", model={"name": "demo"}, input={"decode": "fast"})
    assert backend.identify(config)
    monkeypatch.setattr(ImageProcessor, "can_shrink", False)
    with pytest.raises(ConfigError, match=r"input\.decode: fast is not known to work with this checkpoint's"):
        backend.identify(config)


def test_the_benchmark_measures_what_a_job_does() -> None:
    num_bytes, costs = measure_decoding(1600, 1400)
    assert num_bytes > 10_000
    assert [cost.processor for cost in costs] == ["LLaVA-1.5", "LLaVA-NeXT", "Qwen, 1 M pixels"]
    assert [cost.divided_by for cost in costs] == [2, 1, 1]
    for cost in costs:
        assert (cost.most == 0) == (cost.divided_by == 1)
        assert cost.mean <= cost.most <= 3
