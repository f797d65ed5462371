"""What is no picture, is broken, too large or of another format is an `ImageError`, and nothing else."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from star_batch.errors import (
    ImageError,
    ImageFetchFailed,
    ImageFormatRefused,
    ImageMissing,
    ImageTooLarge,
    ImageUnreadable,
)
from star_batch.images import decode
from tests.pictures import SAMPLES, corners, encode, png_header, tiff_grey


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


@pytest.mark.parametrize("failure", [MemoryError(), KeyError(274), AssertionError()])
def test_any_exception_of_a_decoder_is_an_unreadable_image(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise failure

    load: Callable[..., None] = fail
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(ImageUnreadable) as caught:
        decode(SAMPLES["png"])
    assert str(caught.value)
