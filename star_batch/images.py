"""Encoded images to RGB as a person sees them, or an `ImageError` that says why not.

Takes bytes that nobody has looked at. Knows no model's size, no network and no object storage: a path
is a local file. Colour profiles are not applied, as in the libraries that the checkpoints were trained with.
"""

import ctypes
import functools
import io
import logging
import os
import re
import warnings
from collections.abc import Callable
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError, _imaging

from star_batch.errors import (
    ImageError,
    ImageFetchFailed,
    ImageFormatRefused,
    ImageMissing,
    ImageTooLarge,
    ImageUnreadable,
)
from star_batch.formats import other_format, unlike_an_image
from star_batch.regular import read_regular

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What is decoded. Each has its decoder inside Pillow; nothing is handed to another program."""

DEFAULT_MAX_PIXELS = 100_000_000

DEFAULT_MAX_BYTES = 268_435_456
"""Of a file."""

_WHITE = (255, 255, 255)
_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_UPRIGHT[number] for number in (5, 6, 7, 8)}
_AS_IT_LIES = 1


def decode(
    source: bytes | str | PathLike[str] | Image.Image | None,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    quote: bool = True,
) -> Image.Image:
    """The image in RGB, upright, transparency over white, the first frame of an animation.

    `source` is encoded bytes, a local path or a PIL image (left as it is). 16-bit grey is scaled from
    its full range; 32-bit and float grey, which have no fixed white, from their darkest to their
    brightest pixel. `max_pixels` is compared with the header before a pixel is decoded; Pillow's own
    limit (`2 * Image.MAX_IMAGE_PIXELS`) holds besides. Of what is no image the error says how it begins, unless it may
    not `quote` it.

    Safe to call from several threads. Pillow's settings are left as they are; its warnings and
    libtiff's messages on stderr are switched off for the process, as the error says what matters.

    Raises:
        ImageMissing: nothing there, or no bytes.
        ImageFetchFailed: the path cannot be read.
        ImageFormatRefused: an image of a format outside `FORMATS`.
        ImageTooLarge: more than `max_pixels`, or a file of more than `DEFAULT_MAX_BYTES`.
        ImageUnreadable: truncated, broken, or no image at all.
    """
    _hush()
    if isinstance(source, Image.Image):
        return _render(_check(source, max_pixels))
    with _open(_read(source), quote) as image:
        return _render(_check(image, max_pixels))


def decode_smaller(
    data: bytes, shrink: Callable[[tuple[int, int]], int], *, max_pixels: int = DEFAULT_MAX_PIXELS, quote: bool = True
) -> tuple[Image.Image, tuple[int, int]]:
    """As `decode`, but a JPEG at a part of its sides; and the (width, height) that it really has.

    `shrink` is asked by how much both sides of an upright image of that size may be divided: 1, 2, 4 or 8. JPEG's own
    transform does it, for a part of the time. Images of other formats are decoded whole.

    Raises:
        ImageError: as `decode`.
    """
    _hush()
    with _open(_read(data), quote) as image:
        size = _upright_size(_check(image, max_pixels))
        return _render(image, shrink(size) if image.format in ("JPEG", "MPO") else 1), size


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turn = _UPRIGHT.get(_orientation(image))
    return (image.height, image.width) if turn in _SIDEWAYS else image.size


def _read(source: bytes | str | PathLike[str] | None) -> bytes:
    if source is None or (isinstance(source, bytes | str) and not source):
        raise ImageMissing("no image")
    if isinstance(source, bytes):
        return source
    if isinstance(source, str | PathLike):
        return _read_file(os.fspath(source))
    raise ImageUnreadable(f"expected encoded bytes, a path or an image, not {type(source).__name__}")


def _read_file(path: str) -> bytes:
    try:
        data = read_regular(path, DEFAULT_MAX_BYTES)
    except ImageError as error:
        raise type(error)(f"{_short(path)}: {error}") from None
    except OSError as error:
        raise ImageFetchFailed(f"{_short(path)}: {error.strerror or type(error).__name__}") from None
    except ValueError:
        raise ImageFetchFailed(f"{_short(path)}: not a path") from None
    if not data:
        raise ImageMissing(f"{_short(path)}: empty file")
    return data


def _open(data: bytes, quote: bool) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise _unidentified(data, quote) from None
    except Image.DecompressionBombError:
        raise ImageTooLarge("more pixels than Pillow opens") from None
    except Exception as error:  # see _unreadable
        raise _unreadable(error) from None


def _check(image: Image.Image, max_pixels: int) -> Image.Image:
    # A PIL image may still be an unread file: an EPS would start Ghostscript. MPO is a JPEG with annexes.
    if image.format is not None and image.format not in (*FORMATS, "MPO"):
        raise ImageFormatRefused(f"{image.format} images are not accepted")
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLarge(f"{width} x {height} pixels; the limit is {max_pixels:,}")
    if width * height == 0:
        raise ImageUnreadable(f"{width} x {height} pixels")
    return image


def _render(image: Image.Image, factor: int = 1) -> Image.Image:
    try:
        if factor > 1:
            image.draft(None, (image.width // factor, image.height // factor))
        image.load()
        return _turn(_to_rgb(image), _orientation(image))
    except Exception as error:  # see _unreadable
        raise _unreadable(error) from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP_GREY:
        return _deep_grey_to_rgb(image)
    if image.mode in ("I", "F"):
        return _grey(_stretch(np.asarray(image)))
    if image.has_transparency_data:
        return _over_white(image.convert("RGBA"))
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    page = Image.new("RGB", image.size, _WHITE)
    page.paste(image, mask=image.getchannel("A"))
    return page


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    """Grey of 9 to 16 bits. Pillow reads TIFF's 12 bits and white-is-zero as they stand in the file."""
    levels = np.asarray(image)
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    bits = max(8, *tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,)))
    grey = (levels >> (bits - 8)).astype(np.uint8)
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
        grey = 255 - grey
    if "transparency" in image.info:
        grey[levels == image.info["transparency"]] = 255
    return _grey(grey)


def _stretch(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Any numbers to 0..255; what is not finite becomes the darkest or, if +inf, the brightest."""
    with np.errstate(all="ignore"):
        levels = values.astype(np.float64)
        finite = levels[np.isfinite(levels)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
        levels = np.nan_to_num(levels, nan=low, posinf=high, neginf=low)
        if high > low:
            levels = (levels - low) / (high - low) * 255.0
        levels = np.nan_to_num(np.clip(np.round(levels), 0.0, 255.0))
    return np.asarray(levels, dtype=np.uint8)


def _grey(levels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(levels).convert("RGB")


def _orientation(image: Image.Image) -> int:
    """EXIF's word on which way is up. A picture whose EXIF is broken is shown as it lies, as viewers do."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a parser of hostile bytes, see _unreadable
        return _AS_IT_LIES
    return orientation if isinstance(orientation, int) else _AS_IT_LIES


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def _unidentified(data: bytes, quote: bool) -> ImageError:
    name = other_format(data)
    if name is not None:
        return ImageFormatRefused(f"{name} images are not accepted")
    return ImageUnreadable(unlike_an_image(data, quote=quote))


def _unreadable(error: Exception) -> ImageUnreadable:
    """Why `except Exception` stands around Pillow's calls: one bad picture is one error row.

    Damaged files (450,000, made from valid ones) met Pillow 13 with OSError, SyntaxError, ValueError and
    RuntimeError; its own bug reports add struct.error, IndexError, TypeError, OverflowError and others.
    """
    if isinstance(error, MemoryError):
        return ImageUnreadable("not enough memory to decode it")
    return ImageUnreadable(_short(error) or type(error).__name__)


def _short(value: object) -> str:
    """One printable line of at most 160 characters."""
    text = "".join(char if char.isprintable() else " " for char in str(value))
    return text if len(text) <= 160 else text[:157] + "..."


# As `warnings.filterwarnings` writes it.
_NO_WARNINGS: Any = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


def _hush() -> None:
    """Keep the decoders' mutter off the terminal."""
    # Looks first: with each change of the filters Python forgets which warnings it has shown.
    if _NO_WARNINGS not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    _hush_once()


@functools.cache
def _hush_once() -> None:
    # A logger without any handler prints errors on stderr.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    # libtiff, inside Pillow, prints with its default handler; a build may hide the function.
    silence = getattr(ctypes.CDLL(_imaging.__file__), "TIFFSetErrorHandler", None)
    if silence is not None:
        silence.argtypes = [ctypes.c_void_p]
        silence.restype = ctypes.c_void_p
        silence(None)
