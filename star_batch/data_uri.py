"""Bytes that are written as text: `data:` URIs and base64, as people have them rather than as standards want them.

Line breaks and spaces, missing padding, the letters `-_` for `+/`, and percent-encoding are all taken. Knows no image.
"""

import base64
import re
from urllib.parse import unquote_to_bytes

_URLSAFE = bytes.maketrans(b"-_", b"+/")
_SPACE = re.compile(rb"\s+")
_LINE_BREAKS = str.maketrans("", "", "\t\r\n")
_ALPHABET = re.compile(rb"[A-Za-z0-9+/]*")


def is_data_uri(text: str) -> bool:
    """Whether a text begins as a `data:` URI does."""
    return text[:64].lstrip()[:5].lower() == "data:"


def decode_data_uri(text: str) -> bytes:
    """What a `data:` URI holds, whatever it says about its media type.

    Raises:
        ValueError: there is no comma, or what follows is not what the URI says it is.
    """
    head, comma, data = text.strip().partition(",")
    if not comma:
        raise ValueError("the data URI has no data")
    try:
        content = unquote_to_bytes(data.translate(_LINE_BREAKS))
    except UnicodeEncodeError:
        raise ValueError("the data URI holds characters that no URI has") from None
    is_base64 = "".join(head.split()).lower().endswith(";base64")
    return decode_base64(content) if is_base64 else content


def decode_base64(text: str | bytes) -> bytes:
    """What base64 says, strict about letters and lengths and about nothing else.

    Raises:
        ValueError: a letter that is none of base64, or a length that none can have.
    """
    letters = _SPACE.sub(b"", text.encode("utf-8", "replace") if isinstance(text, str) else text)
    letters = letters.translate(_URLSAFE).rstrip(b"=")
    if not _ALPHABET.fullmatch(letters) or len(letters) % 4 == 1:
        raise ValueError("the data is not valid base64")
    return base64.b64decode(letters + b"=" * (-len(letters) % 4))
