"""Bytes that are written as text: `data:` URIs and base64, as people have them rather than as standards want them.

Line breaks and spaces, missing padding, the letters `-_` for `+/`, and percent-encoding are all taken. Knows no image.
"""

import base64
import re
from urllib.parse import unquote_to_bytes

_URLSAFE = bytes.maketrans(b"-_", b"+/")
_SPACE = re.compile(rb"\s+")
_PIECE_BYTES = 2**16
_LONGEST_HEAD = 1024
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
        content = _unquoted(data.encode().translate(None, b"\t\r\n"))
    except UnicodeEncodeError:
        raise ValueError("the data URI holds characters that no URI has") from None
    is_base64 = "".join(head.split()).lower().endswith(";base64")
    return decode_base64(content) if is_base64 else content


def least_bytes(text: str) -> int:
    """What a `data:` URI or base64 holds at the least, told without decoding it; an eighth may be line breaks."""
    escaped = min(text.count("%"), len(text) // 3)
    return max(0, len(text) - 2 * escaped - _LONGEST_HEAD) * 2 // 3


def _unquoted(data: bytes) -> bytes:
    """In pieces, as each percent sign costs some objects until its piece is done."""
    pieces, start = [], 0
    while start < len(data):
        end = start + _PIECE_BYTES
        # Not between a percent sign and its digits.
        if (sign := data.rfind(b"%", end - 2, end)) >= 0:
            end = sign
        pieces.append(unquote_to_bytes(data[start:end]))
        start = end
    return b"".join(pieces)


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
