"""What file systems raise: whether it will pass, and how to say it in one line. Knows no file.

The errors of Google's clients, which are not there everywhere, are known by where they are defined.
"""

import contextlib
import errno
from collections.abc import Iterator, Mapping
from http.client import IncompleteRead
from typing import Any

from aiohttp import ClientError as AiohttpError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
    NoCredentialsError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError

from star_batch.storage.redaction import redacted
from star_batch.wording import printable

STORAGE_ERRORS = (OSError, BotoCoreError, ClientError, AiohttpError, IncompleteRead)
"""What a file system raises, if it is asked through a `Location`."""

_TRANSIENT = (
    ConnectionError,
    TimeoutError,
    HTTPClientError,
    BotoConnectionError,
    ResponseParserError,
    CredentialRetrievalError,
    MetadataRetrievalError,
    AiohttpError,
    IncompleteRead,
)
_TRANSIENT_ERRNO = frozenset(
    {
        *(errno.EBUSY, errno.EAGAIN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.ESTALE),
        # How s3fs spells 500, 503 and their like.
        *(errno.EIO, getattr(errno, "EREMOTEIO", errno.EIO)),
    }
)
_NOT_IMPLEMENTED = 501
# 409 is what a conditional write gets that meets another.
_TRANSIENT_STATUS = frozenset({408, 409, 429, *range(500, 600)} - {_NOT_IMPLEMENTED})
_TRANSIENT_CODES = frozenset({"SlowDown", "RequestTimeout", "InternalError", "BadDigest", "IncompleteBody"})
# Of gcsfs, google.auth and requests, by their own names or those of what they are derived from.
_TRANSIENT_NAMES = frozenset(
    {"TransportError", "ChecksumError", "ConnectionError", "Timeout", "ChunkedEncodingError", "ContentDecodingError"}
)
_GOOGLE = frozenset({"gcsfs", "google", "requests"})
# gcsfs makes a plain ValueError of a request that the server does not take.
_REFUSALS = ("Bad Request: ", "Bucket is requester pays")
_DENIED = frozenset({401, 403})


class RemoteError(OSError):
    """An error of a file system's client that is no OSError by itself; the error is the cause."""


@contextlib.contextmanager
def typed() -> Iterator[None]:
    """Whatever a file system raises is one of `STORAGE_ERRORS` outside of the block."""
    try:
        yield
    except STORAGE_ERRORS:
        raise
    except Exception as error:
        if not (_is_googles(error) or (isinstance(error, ValueError) and str(error).startswith(_REFUSALS))):
            raise
        raise RemoteError(str(error)) from error


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help."""
    # Judged by what the server said: s3fs calls every code that it does not know an I/O error.
    for said in (error, error.__cause__):
        if isinstance(said, ClientError):
            return _status(said) in _TRANSIENT_STATUS or code_of(said) in _TRANSIENT_CODES
        if said is not None and _is_googles(said):
            return _is_googles_hiccup(said)
    return isinstance(error, _TRANSIENT) or (isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO)


def is_unknown_to_server(error: BaseException) -> bool:
    """Whether the server said that it has not implemented what it was asked for."""
    return _NOT_IMPLEMENTED in (_status(error), _status(error.__cause__))


def _is_googles(error: BaseException) -> bool:
    return any(kind.__module__.partition(".")[0] in _GOOGLE for kind in type(error).__mro__)


def _is_googles_hiccup(error: BaseException) -> bool:
    names = {kind.__name__ for kind in (*type(error).__mro__, *type(error.__cause__).__mro__) if _is_googles_kind(kind)}
    return bool(names & _TRANSIENT_NAMES or getattr(error, "retryable", False)) or _status(error) in _TRANSIENT_STATUS


def _is_googles_kind(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in _GOOGLE


def _status(error: BaseException | None) -> int | None:
    """HTTP's number for it."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "code", None) if error is not None and _is_googles(error) else None
    return int(status) if isinstance(status, int) or (isinstance(status, str) and status.isdigit()) else None


def code_of(error: BaseException | None) -> str | None:
    """S3's own word for an error."""
    return error.response.get("Error", {}).get("Code") if isinstance(error, ClientError) else None


def explain(error: BaseException, options: Mapping[str, Any] | None = None) -> str:
    """One line about what a file system raised, without secrets."""
    match error:
        case FileNotFoundError():
            return "not found"
        case PermissionError():
            return "access denied"
        case NoCredentialsError():
            return "no credentials were found"
        case OSError() if error.strerror:
            return redacted(error.strerror, options)
    said = error.__cause__ if isinstance(error, RemoteError) and error.__cause__ is not None else error
    if type(said).__name__ == "DefaultCredentialsError":
        return "no credentials were found"
    if _status(said) in _DENIED or str(said).startswith("Forbidden: "):
        return "access denied"
    lines = str(said).strip().splitlines()
    return printable(redacted(lines[0], options)) if lines else type(said).__name__
