"""What bytes are, by how they begin: an image, one of another format, or none but a page, a pointer, an archive.

Knows only beginnings; decodes nothing.
"""

import codecs
import re
from collections.abc import Callable
from typing import TypeAlias

from PIL import features

_IMAGE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]"
    rb"|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0|.{4}ftyp(?:avi[fs]|hei|hev|mif1|msf1)",
    re.DOTALL,
)
# What files of these formats are called: (offset, bytes, suffix).
_SUFFIXES = (
    (0, b"\xff\xd8\xff", "jpg"),
    (0, b"\x89PNG", "png"),
    (0, b"GIF8", "gif"),
    (8, b"WEBP", "webp"),
    (0, b"II", "tif"),
    (0, b"MM", "tif"),
    (0, b"BM", "bmp"),
    (4, b"ftypavi", "avif"),
    (4, b"ftyp", "heic"),
)
# How files of other formats begin, so that a refusal can name them: (offset, bytes, name).
_OTHER_FORMATS = (
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "EPS"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"8BPS", "PSD"),
    (0, b"\x00\x00\x01\x00", "ICO"),
    (0, b"\x00\x00\x02\x00", "CUR"),
    (0, b"icns", "ICNS"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (0, b"qoif", "QOI"),
    (0, b"DDS ", "DDS"),
    (0, b"gimp xcf", "XCF"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (40, b" EMF", "EMF"),
    (0, b"\x59\xa6\x6a\x95", "Sun raster"),
    (0, b"\x01\xda", "SGI"),
)
_PNM = re.compile(rb"P[1-7f][ \t\r\n]")
_XML_STARTS = (b"<?xml", b"<!--", b"<!DOCTYPE svg", b"<svg")

_HEAD = 1024
_QUOTED = 70
_Is: TypeAlias = Callable[[bytes], object]

# What stands in files that are called images and are none: how it begins after white space, in lower case.
_WRITTEN: tuple[tuple[_Is, str], ...] = (
    (re.compile(rb"<!doctype html|<html|<head|<body|<script").match, "an HTML page"),
    (re.compile(rb"<\?xml|<error|<[a-z][\w:.-]*[\s/>]").match, "XML"),
    (re.compile(rb"version https://git-lfs\.").match, "a git-lfs pointer (git lfs pull brings the file)"),
    (re.compile(rb"(\.\./)*(\.git|/)?/?annex/objects/").match, "a git-annex pointer (git annex get brings the file)"),
    (re.compile(rb"[{\[]\s*[\"{\[\d\]}-]").match, "JSON"),
)
_PACKED = (
    (0, b"\x1f\x8b", "gzip-compressed data"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed data"),
    (0, b"BZh", "bzip2-compressed data"),
    (0, b"\xfd7zXZ\x00", "xz-compressed data"),
    (257, b"ustar", "a tar archive"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (4, b"ftyp", "a video"),
    (0, b"\x1aE\xdf\xa3", "a video"),
)


def begins_as_image(data: bytes) -> bool:
    """Whether bytes begin as the files of some common format of images do."""
    return _IMAGE.match(data) is not None


def image_suffix(data: bytes) -> str:
    """How files of such bytes are usually called; `img` where nobody knows."""
    return next((suffix for offset, magic, suffix in _SUFFIXES if data.startswith(magic, offset)), "img")


def other_format(data: bytes) -> str | None:
    """The name of a format of images that is not decoded here."""
    for offset, magic, name in _OTHER_FORMATS:
        if data.startswith(magic, offset):
            return name
    if _PNM.match(data):
        return "PNM"
    if data.startswith(b"ftypavif", 4) and not features.check("avif"):
        return "AVIF"
    head = data[:_HEAD].lstrip()
    return "SVG" if head.startswith(_XML_STARTS) and b"<svg" in head else None


def unlike_an_image(data: bytes, *, quote: bool) -> str:
    """What bytes are that are no image, in a few words; with `quote`, how they begin."""
    head = data[:_HEAD].removeprefix(b"\xef\xbb\xbf")
    what, text = _packed(head), _text(head)
    if what is None and text is not None:
        what = _written(head)
    if what is None:
        return "not an image, or its header is broken" + (f": it begins {head[:8].hex(' ')}" if quote else "")
    return f"not an image but {what}" + (f": it begins {_begun(text)}" if quote and text is not None else "")


def _packed(head: bytes) -> str | None:
    if len(head) > 1 and not head.strip(b"\0"):
        return "nothing but zeros"
    return next((name for offset, magic, name in _PACKED if head.startswith(magic, offset)), None)


def _written(head: bytes) -> str:
    start = head.lstrip().lower()
    return next((name for matches, name in _WRITTEN if matches(start)), "text")


def _text(head: bytes) -> str | None:
    """The head as text, if it is some: a character at its end may be cut."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = head.decode("utf-16", "replace")
    else:
        try:
            text = codecs.getincrementaldecoder("utf-8")().decode(head)
        except UnicodeDecodeError:
            return None
    odd = sum(not (char.isprintable() or char.isspace()) for char in text)
    return text if text.strip() and odd * 20 <= len(text) else None


def _begun(text: str) -> str:
    return repr(" ".join(text.split())[:_QUOTED])
