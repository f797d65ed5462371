"""Every kind of picture comes out as a person sees it, and everything else as an `ImageError`."""

import contextlib
import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, features

from star_batch.errors import (
    ImageError,
    ImageFetchFailed,
    ImageFormatRefused,
    ImageMissing,
    ImageTooLarge,
    ImageUnreadable,
)
from star_batch.images import decode

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def corners(width: int = 6, height: int = 4) -> Image.Image:
    """White with a red, a green and a blue corner: no two orientations look the same."""
    image = Image.new("RGB", (width, height), WHITE)
    image.putpixel((0, 0), RED)
    image.putpixel((width - 1, 0), GREEN)
    image.putpixel((0, height - 1), BLUE)
    return image


def blocks() -> Image.Image:
    return corners(3, 2).resize((96, 64), Image.Resampling.NEAREST)


def pixels(source: bytes | Image.Image) -> NDArray[np.uint8]:
    image = decode(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def pixel(source: bytes | Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    return tuple(int(value) for value in pixels(source)[y, x])


def near(actual: NDArray[np.uint8], expected: Image.Image, tolerance: int) -> bool:
    difference = np.abs(actual.astype(int) - np.asarray(expected).astype(int))
    return actual.shape == np.asarray(expected).shape and difference.max() <= tolerance


def grey16(values: list[int]) -> Image.Image:
    return Image.fromarray(np.array([values], dtype=np.uint16))


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


def tiff_grey(bits: int, photometric: int, strip: bytes, width: int, samples: int = 1) -> bytes:
    tags = [(256, 4, width), (257, 4, 1), (258, 3, bits), (259, 3, 1), (262, 3, photometric)]
    tags += [(273, 4, 8), (277, 3, samples), (278, 4, 1), (279, 4, len(strip))]
    strip += b"\0" * (len(strip) % 2)
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    header = struct.pack("<2sHI", b"II", 42, 8 + len(strip))
    return header + strip + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


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


def test_an_unread_pil_image_of_a_refused_format() -> None:
    """Loading an EPS would start Ghostscript."""
    with (
        Image.open(io.BytesIO(encode(corners(), "EPS"))) as image,
        pytest.raises(ImageFormatRefused, match="EPS"),
    ):
        decode(image)


def test_a_closed_pil_image_is_unreadable() -> None:
    image = Image.open(io.BytesIO(encode(corners(), "PNG")))
    image.close()
    with pytest.raises(ImageUnreadable):
        decode(image)


def test_paths(tmp_path: Path) -> None:
    path = tmp_path / "picture without a suffix"
    path.write_bytes(encode(corners(), "PNG"))
    for source in (path, str(path)):
        assert np.array_equal(np.asarray(decode(source)), np.asarray(corners()))


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    names = ["absent.png", ".", "pipe", "nul\0.png", "n" * 5000]
    for name in names:
        with pytest.raises(ImageFetchFailed) as caught:
            decode(f"{tmp_path}/{name}")
        assert len(str(caught.value)) < 250
    with pytest.raises(ImageFetchFailed, match="No such file"):
        decode("s3://bucket/picture.png")


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    for source in (None, b"", "", tmp_path / "empty.png"):
        with pytest.raises(ImageMissing):
            decode(source)


@pytest.mark.parametrize("data", [b"\x00", b"hello world", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF1234WEBP"])
def test_no_image_at_all(data: bytes) -> None:
    with pytest.raises(ImageUnreadable, match="not an image"):
        decode(data)


def test_a_value_of_another_type_is_named() -> None:
    odd: Any = {"bytes": b"..."}
    with pytest.raises(ImageUnreadable, match="dict"):
        decode(odd)


@pytest.mark.parametrize("format", ["EPS", "ICO", "JPEG2000", "PPM", "PDF", "QOI", "DDS", "SGI", "ICNS"])
def test_other_formats_are_named(format: str) -> None:
    name = {"JPEG2000": "JPEG 2000", "PPM": "PNM"}.get(format, format)
    with pytest.raises(ImageFormatRefused, match=f"^{name} images"):
        decode(encode(Image.new("RGB", (32, 32)), format))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"8BPS\x00\x01" + bytes(40), "PSD"),
        (b"\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?>\n<!-- a <b> -->\n<svg/>", "SVG"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(40), "HEIC"),
    ],
)
def test_formats_that_pillow_cannot_write_are_named(data: bytes, name: str) -> None:
    with pytest.raises(ImageFormatRefused, match=name):
        decode(data)


def png_header(width: int, height: int) -> bytes:
    """A PNG that ends before its first pixel."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    ihdr = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + ihdr + struct.pack(">I", 1000) + b"IDAT"


@pytest.mark.filterwarnings("error")
def test_the_pixel_limit_is_checked_before_a_pixel_is_decoded() -> None:
    with pytest.raises(ImageTooLarge, match="10001 x 10000 pixels; the limit is 100,000,000"):
        decode(png_header(10_001, 10_000))
    with pytest.raises(ImageTooLarge, match="more pixels than Pillow"):
        decode(png_header(60_000, 60_000))
    with pytest.raises(ImageTooLarge):
        decode(encode(corners(), "PNG"), max_pixels=23)
    with pytest.raises(ImageTooLarge):
        decode(corners(), max_pixels=23)
    assert decode(corners(), max_pixels=24).size == (6, 4)


@pytest.mark.filterwarnings("error")
def test_between_pillows_warning_and_our_limit_there_is_no_warning() -> None:
    with pytest.raises(ImageUnreadable):
        decode(png_header(9_500, 10_000))


def test_an_image_without_pixels() -> None:
    with pytest.raises(ImageUnreadable, match="0 x 5"):
        decode(Image.new("RGB", (0, 5)))


def noise() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    return Image.fromarray(values)


def samples() -> dict[str, bytes]:
    """A valid file of every kind."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image, palette = noise(), noise().quantize(16)
    see_through = noise()
    see_through.putalpha(100)
    files = {
        "jpeg": encode(image, "JPEG", exif=exif),
        "jpeg progressive": encode(image, "JPEG", progressive=True),
        "jpeg cmyk": encode(image.convert("CMYK"), "JPEG"),
        "mpo": encode(image, "MPO", save_all=True, append_images=[image]),
        "png": encode(image, "PNG", exif=exif),
        "png palette": encode(palette, "PNG", transparency=3),
        "png 16": encode(grey16(list(range(0, 65536, 64))), "PNG"),
        "apng": encode(see_through, "PNG", save_all=True, append_images=[image]),
        "webp": encode(image, "WEBP", exif=exif),
        "webp lossless": encode(see_through, "WEBP", lossless=True),
        "gif": encode(palette, "GIF", save_all=True, append_images=[palette.rotate(90)], transparency=2),
        "bmp": encode(image, "BMP"),
        "tiff float": encode(image.convert("F"), "TIFF"),
        "tiff lab": encode(image.convert("LAB"), "TIFF"),
        "tiff g4": encode(image.convert("1"), "TIFF", compression="group4"),
    }
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        files[f"tiff {compression}"] = encode(image, "TIFF", compression=compression)
    if features.check("avif"):
        files["avif"] = encode(image, "AVIF", exif=exif)
    return files


SAMPLES = samples()


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_truncated_files_are_unreadable(name: str, share: float) -> None:
    whole = SAMPLES[name]
    if name in ("gif", "apng", "mpo"):
        # What follows the first frame may be missing.
        share *= 0.5
    if name == "tiff float" or name.startswith("png 16"):
        share = min(share, 0.5)
    with pytest.raises(ImageUnreadable) as caught:
        decode(whole[: int(len(whole) * share)])
    assert 0 < len(str(caught.value)) <= 160
    assert str(caught.value).isprintable()


def damage(data: bytes, edits: list[tuple[float, str, bytes]], end: float) -> bytes:
    broken = bytearray(data[: int(len(data) * end)])
    for place, verb, new in edits:
        # Squared: headers are where damage hurts most.
        at = int(place * place * len(broken))
        broken[at : at + (0 if verb == "insert" else len(new))] = b"" if verb == "delete" else new
    return bytes(broken)


@settings(max_examples=400, deadline=None)
@given(
    name=st.sampled_from(sorted(SAMPLES)),
    edits=st.lists(
        st.tuples(
            st.floats(0, 1),
            st.sampled_from(["replace", "insert", "delete"]),
            st.binary(min_size=1, max_size=4),
        ),
        max_size=6,
    ),
    end=st.sampled_from([1.0, 1.0, 0.99, 0.7, 0.3]),
)
def test_damaged_files_give_an_image_or_an_image_error(
    name: str, edits: list[tuple[float, str, bytes]], end: float
) -> None:
    with contextlib.suppress(ImageError):
        assert decode(damage(SAMPLES[name], edits, end), max_pixels=10_000_000).mode == "RGB"


@settings(max_examples=100, deadline=None)
@given(start=st.sampled_from([b"", *(data[:20] for data in SAMPLES.values())]), rest=st.binary(max_size=200))
def test_arbitrary_bytes_give_an_image_or_an_image_error(start: bytes, rest: bytes) -> None:
    with contextlib.suppress(ImageError):
        decode(start + rest, max_pixels=10_000_000)


def in_new_process(code: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, timeout=120, check=True)


def test_no_decoder_mutters_on_the_terminal(tmp_path: Path) -> None:
    """libtiff prints from C, Pillow warns and logs; a job of a million rows would drown in it."""
    for name, data in SAMPLES.items():
        middle = len(data) // 2
        (tmp_path / f"{name} holed").write_bytes(data[:middle] + b"\xff\x00" * 99 + data[middle + 198 :])
        (tmp_path / f"{name} cut").write_bytes(data[: middle // 2])
    (tmp_path / "large").write_bytes(png_header(9_500, 10_000))
    (tmp_path / "many samples").write_bytes(tiff_grey(8, 1, b"ab", 2, samples=200))
    done = in_new_process(
        """
import sys
from pathlib import Path
from star_batch import errors, images
failed = 0
for path in Path(sys.argv[1]).iterdir():
    try:
        images.decode(path)
    except errors.ImageError:
        failed += 1
sys.exit(0 if failed > 20 else "too few failures: %d" % failed)
""",
        str(tmp_path),
    )
    assert (done.stdout, done.stderr) == (b"", b"")


def test_pillows_settings_stay() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    for data in SAMPLES.values():
        decode(data, max_pixels=50_000)
    after = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    assert after == before


def test_threads_see_the_same_pictures() -> None:
    names = sorted(SAMPLES) * 8
    expected = {name: decode(data).tobytes() for name, data in SAMPLES.items()}
    with ThreadPoolExecutor(8) as pool:
        decoded = pool.map(lambda name: decode(SAMPLES[name]).tobytes(), names)
        assert all(actual == expected[name] for name, actual in zip(names, decoded, strict=True))


@pytest.mark.parametrize("failure", [MemoryError(), KeyError(274), AssertionError()])
def test_any_exception_of_a_decoder_is_an_unreadable_image(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise failure

    load: Callable[..., None] = fail
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(ImageUnreadable) as caught:
        decode(SAMPLES["png"])
    assert str(caught.value)
