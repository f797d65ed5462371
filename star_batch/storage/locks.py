"""One process at a time, on local file systems and on network mounts whose locks work. Knows no content."""

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Nobody else is inside; the system lets go when the process dies, so no lock is ever stale.

    Holds between processes of one machine, and between machines on NFS with a lock service. Where a mount
    has no locks at all, this does nothing.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
