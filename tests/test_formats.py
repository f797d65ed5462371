"""Files that are called images and are none say what they are."""

import gzip
import io
import random

import pytest
from PIL import Image

from star_batch import images
from star_batch.errors import ImageError, ImageUnreadable
from star_batch.formats import begins_as_image

PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title>"
DENIED = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>'
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0\nsize 12345\n"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (PAGE, "an HTML page: it begins '<!DOCTYPE html> <html><head><title>Sign in</title>'"),
        (b"\xef\xbb\xbf<HTML><BODY>404", "an HTML page: it begins '<HTML>"),
        (DENIED, 'XML: it begins \'<?xml version="1.0" encoding="UTF-8"?> <Error><Code>AccessDenied<'),
        (b"<Error><Code>NoSuchKey</Code></Error>", "XML: it begins '<Error><Code>NoSuchKey"),
        (POINTER, "a git-lfs pointer (git lfs pull brings the file): it begins 'version https"),
        (b"/annex/objects/SHA256E-s1--abc.jpg\n", "a git-annex pointer"),
        (b'{"error": {"code": 404, "message": "gone"}}', 'JSON: it begins \'{"error": {"code": 404'),
        (b"[1, 2]", "JSON"),
        (b"404: Not Found", "text: it begins '404: Not Found'"),
        (b"<?php echo 1;", "text: it begins '<?php echo 1;'"),
        ("nicht gefunden: \N{LATIN SMALL LETTER U WITH DIAERESIS}".encode() * 500, "text: it begins 'nicht"),
        ("Access denied".encode("utf-16"), "text: it begins"),
        (gzip.compress(b"image", mtime=0), "gzip-compressed data"),
        (b"PK\x03\x04" + bytes(30), "a ZIP archive"),
        (bytes(4096), "nothing but zeros"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(40), "a video"),
    ],
)
def test_what_it_is_and_how_it_begins(data: bytes, said: str) -> None:
    with pytest.raises(ImageUnreadable) as caught:
        images.decode(data)
    assert str(caught.value).startswith(f"not an image but {said}")
    assert len(str(caught.value)) <= 160


def test_what_nobody_knows_shows_its_first_bytes() -> None:
    with pytest.raises(ImageUnreadable, match="not an image, or its header is broken: it begins c3 28 00 01 80"):
        images.decode(b"\xc3\x28\x00\x01\x80 and more")


@pytest.mark.parametrize("data", [PAGE, DENIED, POINTER, b"password: hunter2", b"\xc3\x28\x00hunter2"])
def test_what_may_not_be_quoted_is_not(data: bytes) -> None:
    with pytest.raises(ImageUnreadable, match="not an image") as caught:
        images.decode(data, quote=False)
    assert "begins" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_whatever_it_is_the_error_is_short_and_printable() -> None:
    dice = random.Random(0)
    for _ in range(300):
        start = dice.choice([b"", b"<html>", b'{"', b"text ", b"\xff\xfe"])
        with pytest.raises(ImageError) as caught:
            images.decode(start + dice.randbytes(dice.randrange(1, 2000)))
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("format", images.FORMATS)
def test_every_format_that_is_decoded_begins_as_an_image(format: str) -> None:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, format)
    assert begins_as_image(out.getvalue()[:36])


@pytest.mark.parametrize("data", [b"", b"BM", b"BM is a path", b"GIF", b"RIFF....WAVE", b"II", b"text"])
def test_what_does_not(data: bytes) -> None:
    assert not begins_as_image(data)
