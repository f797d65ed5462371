"""Compare-and-swap on one small file: written only if it is still what was read. Knows nothing of its content.

S3: `If-Match` on the ETag that was read. Local: under a lock on a file beside it. Elsewhere it is a look and
then a write; Google Cloud Storage could do better with `ifGenerationMatch`, which gcsfs does not pass on.
Contents must never repeat (put a nonce in): after a lost reply, reading back tells whether the write counted.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from botocore.exceptions import ClientError

from star_batch.pipeline.locks import locked
from star_batch.pipeline.storage import Location, scheme_of

_S3 = ("s3", "s3a")
_CHANGED = ("PreconditionFailed", "412", "ConditionalRequestConflict", "NoSuchKey")


@dataclass(frozen=True, slots=True)
class Read:
    """A content and the tag under which the store knows it."""

    data: bytes
    tag: str


def read(file: Location) -> Read | None:
    """None if there is no such file."""
    try:
        while True:
            tag = _tag(file)
            data = file.read_bytes()
            # The two are separate requests: another write may come between them.
            if tag == _tag(file):
                return Read(data, tag or _digest(data))
    except FileNotFoundError:
        return None


def swap(file: Location, before: Read | None, data: bytes) -> bool:
    """Write `data` if the file is still as it was `before`; False if it has become another's."""
    try:
        if before is None:
            file.create(data)
        elif _is_s3(file):
            file.patiently(lambda: file.fs.pipe_file(file.path, data, IfMatch=before.tag))
        elif file.is_local:
            with locked(Path(file.path).with_suffix(".lock")):
                return _look_and_write(file, before, data)
        else:
            return _look_and_write(file, before, data)
    except FileExistsError:
        return file.read_bytes() == data
    except OSError as error:
        if not _has_changed(error):
            raise
        # A first try may have counted and its reply been lost.
        return file.read_bytes() == data
    return True


def _look_and_write(file: Location, before: Read, data: bytes) -> bool:
    there = read(file)
    if there != before:
        return there is not None and there.data == data
    file.write_bytes(data)
    return True


def _has_changed(error: OSError) -> bool:
    cause = error.__cause__
    return isinstance(cause, ClientError) and cause.response.get("Error", {}).get("Code") in _CHANGED


def _is_s3(file: Location) -> bool:
    return scheme_of(file.url) in _S3


def _tag(file: Location) -> str | None:
    if not _is_s3(file):
        return None
    return file.patiently(lambda: str(file.fs.info(file.path, refresh=True)["ETag"]))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
