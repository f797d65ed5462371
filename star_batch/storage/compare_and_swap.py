"""Compare-and-swap on one small file: written only if it is still what was read. Knows nothing of its content.

S3: `If-Match` on the ETag that was read. Google Cloud Storage: `ifGenerationMatch` on the generation. Local: under a
lock on a file beside it. Elsewhere it is a look and then a write.
Contents must never repeat (put a nonce in): after a lost reply, reading back tells whether the write counted.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from star_batch.storage.location import Location
from star_batch.storage.locks import locked
from star_batch.storage.trouble import code_of
from star_batch.storage.urls import scheme_of

S3 = ("s3", "s3a")
GOOGLE = ("gs", "gcs")
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
                return Read(data, tag if tag is not None else _digest(data))
    except FileNotFoundError:
        return None


def compare_and_swap(file: Location, before: Read | None, data: bytes) -> bool:
    """Write `data` if the file is still as it was `before`; False if it has become another's, or is gone."""
    try:
        return _swap(file, before, data)
    except (FileExistsError, FileNotFoundError):
        pass
    except OSError as error:
        if code_of(error.__cause__) not in _CHANGED:
            raise
    # A first try may have counted and its reply been lost.
    there = read(file)
    return there is not None and there.data == data


def _swap(file: Location, before: Read | None, data: bytes) -> bool:
    scheme = scheme_of(file.url)
    if before is None:
        file.create(data)
    elif scheme in S3:
        file.patiently(lambda: file.fs.pipe_file(file.path, data, IfMatch=before.tag))
    elif scheme in GOOGLE:
        file.patiently(lambda: _upload_to_google(file, before.tag, data))
    elif file.is_local:
        with locked(Path(file.path).with_suffix(".lock")):
            return _look_and_write(file, before, data)
    else:
        return _look_and_write(file, before, data)
    return True


def _upload_to_google(file: Location, generation: str, data: bytes) -> None:
    """What gcsfs does for a small file, with the one condition that it does not pass on."""
    fs = file.fs
    bucket, key, _ = fs.split_path(file.path)
    where = fs.base.replace("/storage/v1/", "/upload/storage/v1/") + "b/{}/o"
    condition = {"uploadType": "media", "name": key, "ifGenerationMatch": generation}
    fs.call("POST", where, bucket, headers={"Content-Type": "application/octet-stream"}, data=data, **condition)


def _look_and_write(file: Location, before: Read, data: bytes) -> bool:
    there = read(file)
    if there != before:
        return there is not None and there.data == data
    file.write_bytes(data)
    return True


def _tag(file: Location) -> str | None:
    scheme = scheme_of(file.url)
    if scheme in S3:
        return file.patiently(lambda: str(file.fs.info(file.path, refresh=True)["ETag"]))
    if scheme in GOOGLE:
        return file.patiently(lambda: str(file.fs.info(file.path).get("generation", "")))
    return None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
