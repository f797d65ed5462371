"""One regular file of this machine into memory, and nothing else that a name may stand for. Knows no row and no image.

A pipe, a device or a socket may never end, and opening one may do something; so it is looked at before it is opened,
and again once it is open, as it may have been exchanged in between.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator

from star_batch.errors import ImageFetchFailed, ImageTooLarge

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MOST_AT_ONCE = 8 * 1024 * 1024
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_regular(path: str, max_bytes: int, check: Callable[[str], None] = lambda real: None) -> bytes:
    """The file's content; `check` may raise, and is given the real path of what is about to be opened and of what is.

    Raises:
        OSError, ValueError: it cannot be opened or read, or no file can have that name.
        ImageFetchFailed: it is no regular file.
        ImageTooLarge: it holds more than `max_bytes`.
    """
    check(os.path.realpath(path))
    _check_regular(os.stat(path))
    with _opened(path) as descriptor:
        found = os.fstat(descriptor)
        _check_regular(found)
        check(_real_path(descriptor, path))
        if found.st_size > max_bytes:
            raise ImageTooLarge(f"{found.st_size:,} bytes; the limit is {max_bytes:,}")
        return b"".join(_pieces(descriptor, found.st_size, max_bytes))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, _FLAGS)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _check_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise ImageFetchFailed(f"is {kind}, not a file")


def _real_path(descriptor: int, path: str) -> str:
    """Of what is open; where the system does not tell, of what has the name now."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return os.path.realpath(path)


def _pieces(descriptor: int, size: int, max_bytes: int) -> Iterator[bytes]:
    """Some file systems do not know a file's size, and a file may grow."""
    got = 0
    while piece := os.read(descriptor, min(max(size - got, 0) + 4096, _MOST_AT_ONCE)):
        got += len(piece)
        if got > max_bytes:
            raise ImageTooLarge(f"more than {max_bytes:,} bytes")
        yield piece
