"""Whether a store keeps the two promises that everything else leans on, tried once before a run begins.

A create must fail where there is a file, and a compare-and-swap where the file has changed. Some servers that
speak S3's or Google's language overlook the condition and say that all is well: two runs would write at once.
Leaves nothing behind. Knows no job.
"""

import contextlib
import fcntl
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from star_batch.errors import OutputError
from star_batch.storage.compare_and_swap import GOOGLE, S3, compare_and_swap, read
from star_batch.storage.location import Location, failing_as
from star_batch.storage.trouble import STORAGE_ERRORS, is_unknown_to_server
from star_batch.storage.urls import scheme_of

PROBES = "_probe"
_OLD_SECONDS = 3600.0
_CREATES = {**dict.fromkeys(S3, "If-None-Match"), **dict.fromkeys(GOOGLE, "ifGenerationMatch=0")}
_SWAPS = {**dict.fromkeys(S3, "If-Match"), **dict.fromkeys(GOOGLE, "ifGenerationMatch")}


def probe(output: Location) -> dict[str, str]:
    """By what this store keeps two runs apart, for the record.

    Raises:
        OutputError: it does not, or it cannot be written to.
    """
    folder = output.at(PROBES, f"{int(time.time())}-{uuid.uuid4().hex}")
    scheme = scheme_of(output.url)
    with failing_as(OutputError, "write the output", output):
        try:
            _require(output, _creates(folder.at("x")), _CREATES.get(scheme, "that a create must not replace a file"))
            _require(output, _swaps(folder.at("x")), _SWAPS.get(scheme, "that a file has changed since it was read"))
            found = _found(folder)
        finally:
            _tidy(output, folder)
    _require(output, found != {"create": "lock file", "swap": "no locks"}, "locks and has no hard links")
    return found


def _require(output: Location, is_honoured: bool, condition: str) -> None:
    if not is_honoured:
        raise OutputError(
            f"{output.shown}: the store ignores {condition}, so two runs could write at once: use a store that honours "
            "it, or a folder on a file system that all machines share (README, 'What it needs of the store')"
        )


def _creates(file: Location) -> bool:
    """Whether a second create is refused, and by more than words."""
    with contextlib.suppress(FileExistsError):  # our own, when the reply to a first try was lost
        if not _is_known(lambda: file.create(b"first")):
            return False
    try:
        file.create(b"second")
    except FileExistsError:
        return file.read_bytes() == b"first"
    return False


def _swaps(file: Location) -> bool:
    """Whether a write counts if nothing has changed, and only then."""
    before = read(file)
    if not _is_known(lambda: compare_and_swap(file, before, b"third")):
        return False
    return not compare_and_swap(file, before, b"fourth") and file.read_bytes() == b"third"


def _is_known(write: Callable[[], bool | None]) -> bool:
    """Whether the server takes the condition at all; some say that they have not implemented it."""
    try:
        return write() is not False
    except STORAGE_ERRORS as error:
        if not is_unknown_to_server(error):
            raise
        return False


def _found(folder: Location) -> dict[str, str]:
    if folder.is_local:
        return {"create": _link(Path(folder.path)), "swap": _lock(Path(folder.path))}
    scheme = scheme_of(folder.url)
    return {"create": _CREATES.get(scheme, "create"), "swap": _SWAPS.get(scheme, "look and write")}


def _link(folder: Path) -> str:
    try:
        os.link(folder / "x", folder / "linked")
    except OSError:
        return "lock file"
    return "hard link"


def _lock(folder: Path) -> str:
    """Whether a lock that is held keeps others out, as far as one machine can tell."""
    with (folder / "lock").open("ab") as held, (folder / "lock").open("ab") as wanted:
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            fcntl.flock(wanted, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "flock"
        except OSError:
            return "no locks"
    return "no locks"


def _tidy(output: Location, folder: Location) -> None:
    """Also after probes that were killed long ago."""
    probes = output.at(PROBES)
    for name in probes.files():
        started = name.partition("-")[0]
        is_ours = output.at(PROBES, name).url.startswith(f"{folder.url}/")
        if is_ours or (started.isdigit() and int(started) < time.time() - _OLD_SECONDS):
            probes.at(name).delete()
    if output.is_local:
        with contextlib.suppress(OSError):
            os.rmdir(folder.path)
            os.rmdir(probes.path)
