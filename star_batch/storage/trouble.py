"""What file systems raise: whether it will pass, and how to say it in one line. Knows no file.

The errors of the stores' clients are known by where they are defined: not all clients are there everywhere, and to
import one only for its errors takes longer than to read a local output.
"""

import contextlib
import errno
from collections.abc import Iterator, Mapping
from http.client import IncompleteRead
from typing import Any

from star_batch.storage import hub
from star_batch.storage.redaction import redacted
from star_batch.wording import printable

STORAGE_ERRORS = (OSError, IncompleteRead)
"""What a file system raises, if it is asked through a `Location`."""

_TRANSIENT = (ConnectionError, TimeoutError, IncompleteRead)
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
_AMAZON = frozenset({"botocore", "aiobotocore", "aiohttp"})
_TRANSIENT_KINDS = frozenset(
    {
        ("botocore", "HTTPClientError"),
        ("botocore", "ConnectionError"),
        ("botocore", "ResponseParserError"),
        ("botocore", "CredentialRetrievalError"),
        ("botocore", "MetadataRetrievalError"),
        ("aiohttp", "ClientError"),
    }
)
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
        if not (_is_of(error, _GOOGLE | _AMAZON) or hub.is_hubs(error) or _is_plain_refusal(error)):
            raise
        raise RemoteError(str(error)) from error


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help."""
    # Judged by what the server said: s3fs calls every code that it does not know an I/O error.
    for said in (error, error.__cause__):
        if _is_refusal(said):
            return _status(said) in _TRANSIENT_STATUS or code_of(said) in _TRANSIENT_CODES
        if said is not None and hub.is_hubs(said):
            return hub.passes(said, _TRANSIENT_STATUS)
        if said is not None and _is_of(said, _GOOGLE):
            return _is_googles_hiccup(said)
    if _kinds(_said(error)) & _TRANSIENT_KINDS:
        return True
    return isinstance(error, _TRANSIENT) or (isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO)


def is_unknown_to_server(error: BaseException) -> bool:
    """Whether the server said that it has not implemented what it was asked for."""
    return _NOT_IMPLEMENTED in (_status(error), _status(error.__cause__))


def _kinds(error: BaseException | None) -> set[tuple[str, str]]:
    """Package and name of each class that it is an instance of."""
    return {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}


def _is_of(error: BaseException, packages: frozenset[str]) -> bool:
    return any(package in packages for package, _ in _kinds(error))


def _is_refusal(error: BaseException | None) -> bool:
    """Whether S3 has answered, and said no."""
    return ("botocore", "ClientError") in _kinds(error)


def _is_plain_refusal(error: BaseException) -> bool:
    return isinstance(error, ValueError) and str(error).startswith(_REFUSALS)


def _said(error: BaseException) -> BaseException:
    """What the client itself has raised."""
    return error.__cause__ if isinstance(error, RemoteError) and error.__cause__ is not None else error


def _is_googles_hiccup(error: BaseException) -> bool:
    kinds = _kinds(error) | _kinds(error.__cause__)
    names = {name for package, name in kinds if package in _GOOGLE}
    return bool(names & _TRANSIENT_NAMES or getattr(error, "retryable", False)) or _status(error) in _TRANSIENT_STATUS


def _status(error: BaseException | None) -> int | None:
    """HTTP's number for it."""
    if _is_refusal(error):
        status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "code", None) if error is not None and _is_of(error, _GOOGLE) else None
    return int(status) if isinstance(status, int) or (isinstance(status, str) and status.isdigit()) else None


def code_of(error: BaseException | None) -> str | None:
    """S3's own word for an error."""
    return _response(error).get("Error", {}).get("Code") if _is_refusal(error) else None


def _response(error: BaseException | None) -> Any:
    return getattr(error, "response", {})


def explain(error: BaseException, options: Mapping[str, Any] | None = None) -> str:
    """One line about what a file system raised, without secrets."""
    if (why := hub.told(error) or hub.told(error.__cause__)) is not None:
        return printable(redacted(why, options))
    match error:
        case FileNotFoundError():
            return "not found"
        case PermissionError():
            return "access denied"
        case OSError() if error.strerror:
            return redacted(error.strerror, options)
    said = _said(error)
    if type(said).__name__ in ("NoCredentialsError", "DefaultCredentialsError"):
        return "no credentials were found"
    if _status(said) in _DENIED or str(said).startswith("Forbidden: "):
        return "access denied"
    lines = str(said).strip().splitlines()
    return printable(redacted(lines[0], options)) if lines else type(said).__name__
