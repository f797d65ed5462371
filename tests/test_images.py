"""Every kind of picture comes out as a person sees it."""

import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile, features

from star_batch.images import decode
from tests.pictures import (
    BLACK,
    BLUE,
    GREEN,
    RED,
    SAMPLES,
    WHITE,
    blocks,
    corners,
    encode,
    grey16,
    near,
    pixel,
    pixels,
    tiff_grey,
)


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("GIF", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {"compression": "raw"}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}),
    ],
)
def test_lossless_formats_give_the_very_pixels(format: str, options: dict[str, Any]) -> None:
    assert np.array_equal(pixels(encode(corners(), format, **options)), np.asarray(corners()))


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF"])
def test_lossy_formats_give_nearly_the_pixels(format: str) -> None:
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    encoded = encode(blocks(), format, quality=98)
    assert np.abs(pixels(encoded).astype(int) - np.asarray(blocks()).astype(int)).mean() < 8


def test_grey_and_one_bit() -> None:
    grey = Image.fromarray(np.array([[0, 77, 255]], dtype=np.uint8))
    assert pixels(encode(grey, "PNG"))[0].tolist() == [[0] * 3, [77] * 3, [255] * 3]
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    assert pixels(encode(bits, "PNG"))[0].tolist() == [[0] * 3, [255] * 3]


def test_alpha_is_seen_over_white() -> None:
    image = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    assert pixels(encode(image, "PNG"))[0].tolist() == [list(RED), list(WHITE), [127] * 3]


def test_grey_with_alpha_is_seen_over_white() -> None:
    image = Image.new("LA", (2, 1), (10, 255))
    image.putpixel((1, 0), (10, 0))
    assert pixels(encode(image, "PNG"))[0].tolist() == [[10] * 3, list(WHITE)]


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
def test_a_transparent_palette_entry_is_white(transparency: int | bytes) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *BLACK, *BLUE])
    image.putdata([0, 1, 2])
    encoded = encode(image, "PNG", transparency=transparency)
    assert pixels(encoded)[0].tolist() == [list(RED), list(WHITE), list(BLUE)]


def test_a_transparent_colour_is_white() -> None:
    assert pixel(encode(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG", transparency=(9, 8, 7))) == WHITE
    assert pixel(encode(Image.new("L", (1, 1), 9), "PNG", transparency=9)) == WHITE
    assert pixel(encode(grey16([300]), "PNG", transparency=300)) == WHITE


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(format: str) -> None:
    encoded = encode(grey16([0, 256, 32768, 65535]), format)
    assert pixels(encoded)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_sixteen_bit_grey_of_the_other_byte_order() -> None:
    image = Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 32768, 65535))
    assert pixels(encode(image, "TIFF"))[0, :, 0].tolist() == [128, 255]
    assert pixels(image)[0, :, 0].tolist() == [128, 255]


def test_sixteen_bit_tiff_whose_zero_is_white() -> None:
    """Film scans and X-rays; Pillow inverts 8 bits by itself, but not 16."""
    strip = struct.pack("<2H", 0, 65535)
    assert pixels(tiff_grey(16, 0, strip, 2))[0, :, 0].tolist() == [255, 0]
    assert pixels(tiff_grey(8, 0, b"\x00\xff", 2))[0, :, 0].tolist() == [255, 0]


def test_twelve_bit_tiff_reaches_white() -> None:
    assert pixels(tiff_grey(12, 1, bytes([0x80, 0x0F, 0xFF]), 2))[0, :, 0].tolist() == [128, 255]


def test_float_and_32_bit_grey_are_stretched() -> None:
    values = np.array([[0.0, 0.25, 1.0]], dtype=np.float32)
    assert pixels(encode(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == [0, 64, 255]
    whole = np.array([[-1000, 0, 1000]], dtype=np.int32)
    assert pixels(encode(Image.fromarray(whole), "TIFF"))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.filterwarnings("error")
def test_float_grey_without_range_or_with_nan() -> None:
    odd = np.array([[np.nan, np.inf, -np.inf, 5.0, 6.0]], dtype=np.float32)
    assert pixels(Image.fromarray(odd))[0, :, 0].tolist() == [0, 255, 0, 0, 255]
    assert pixel(Image.fromarray(np.full((1, 1), 7.0, dtype=np.float32))) == (7, 7, 7)
    assert pixel(Image.fromarray(np.full((1, 1), np.nan, dtype=np.float32))) == BLACK


def test_cmyk_is_not_inverted() -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    adobe = encode(ink, "JPEG", quality=100)
    assert b"Adobe" in adobe
    assert near(pixels(adobe), Image.new("RGB", (16, 16), RED), tolerance=4)
    assert pixel(encode(ink, "TIFF")) == RED


@pytest.mark.parametrize("mode", ["LAB", "YCbCr", "HSV", "RGBX"])
def test_other_colour_spaces(mode: str) -> None:
    expected = Image.new("RGB", (8, 8), (200, 60, 60))
    assert near(pixels(expected.convert(mode)), expected, tolerance=4)
    if mode == "LAB":
        assert near(pixels(encode(expected.convert(mode), "TIFF")), expected, tolerance=4)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if format == "WEBP" else {}
    encoded = encode(frames[0], format, save_all=True, append_images=frames[1:], duration=50, **options)
    assert pixel(encoded) == RED


def as_camera_stores(upright: Image.Image, orientation: int) -> Image.Image:
    """By the words of the EXIF standard: which side of the scene the stored row 0 and column 0 are."""
    scene = np.asarray(upright)
    stored = {
        1: scene,  # row 0 is the top, column 0 the left side
        2: scene[:, ::-1],  # top, right
        3: scene[::-1, ::-1],  # bottom, right
        4: scene[::-1],  # bottom, left
        5: scene.transpose(1, 0, 2),  # left, top
        6: scene[:, ::-1].transpose(1, 0, 2),  # right, top
        7: scene[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
        8: scene[::-1].transpose(1, 0, 2),  # left, bottom
    }
    return Image.fromarray(np.ascontiguousarray(stored[orientation]))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    stored = encode(as_camera_stores(corners(), orientation), format, exif=exif, **options)
    assert np.array_equal(pixels(stored), np.asarray(corners()))


@pytest.mark.parametrize("format", ["JPEG", "AVIF"])
def test_exif_orientation_of_lossy_formats(format: str) -> None:
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    stored = encode(as_camera_stores(blocks(), 6), format, exif=exif, quality=98)
    turned = decode(stored)
    assert turned.size == (96, 64)
    assert near(np.asarray(turned)[8:24:8, 8:24:8], Image.new("RGB", (2, 2), RED), tolerance=24)


def test_broken_exif_does_not_cost_the_picture() -> None:
    encoded = encode(blocks(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff broken")
    assert decode(encoded).size == (96, 64)


def test_a_pil_image_is_left_as_it_is() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert pixel(image) == WHITE
    assert (image.mode, image.getpixel((0, 0))) == ("RGBA", (255, 0, 0, 0))
    plain = corners()
    decode(plain).putpixel((0, 0), BLACK)
    assert plain.getpixel((0, 0)) == RED


def test_paths(tmp_path: Path) -> None:
    path = tmp_path / "picture without a suffix"
    path.write_bytes(encode(corners(), "PNG"))
    for source in (path, str(path)):
        assert np.array_equal(np.asarray(decode(source)), np.asarray(corners()))


def test_threads_see_the_same_pictures() -> None:
    names = sorted(SAMPLES) * 8
    expected = {name: decode(data).tobytes() for name, data in SAMPLES.items()}
    with ThreadPoolExecutor(8) as pool:
        decoded = pool.map(lambda name: decode(SAMPLES[name]).tobytes(), names)
        assert all(actual == expected[name] for name, actual in zip(names, decoded, strict=True))


def test_pillows_settings_stay() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    for data in SAMPLES.values():
        decode(data, max_pixels=50_000)
    after = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    assert after == before
