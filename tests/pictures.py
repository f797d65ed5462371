"""Pictures and files of every kind, for tests."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, features

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


def tiff_grey(bits: int, photometric: int, strip: bytes, width: int, samples: int = 1) -> bytes:
    tags = [(256, 4, width), (257, 4, 1), (258, 3, bits), (259, 3, 1), (262, 3, photometric)]
    tags += [(273, 4, 8), (277, 3, samples), (278, 4, 1), (279, 4, len(strip))]
    strip += b"\0" * (len(strip) % 2)
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    header = struct.pack("<2sHI", b"II", 42, 8 + len(strip))
    return header + strip + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


def png_header(width: int, height: int) -> bytes:
    """A PNG that ends before its first pixel."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    ihdr = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + ihdr + struct.pack(">I", 1000) + b"IDAT"


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
