"""A place for libraries that keep files in HOME, where HOME cannot be written. Knows no library but by its variable.

Containers run as users without a home: `runAsUser` with `HOME=/`, or a root file system that is read-only. Only
what is kept anew each time goes elsewhere; credentials that lie in such a HOME are still read from there.
"""

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

logger = logging.getLogger(__name__)

_CACHES = {
    "MPLCONFIGDIR": ".config/matplotlib",
    "TRITON_CACHE_DIR": ".triton/cache",
    "HF_HOME": ".cache/huggingface",
}
"""Variable, and the folder below HOME that it stands for."""

_READ_ALONE = {"HF_HOME"}
"""Useful where it can only be read: weights that are there, a user's token."""


def caches_elsewhere(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that give each cache which HOME cannot hold a folder of this process and its children."""
    home = _home(environment)
    lost = [
        name
        for name, folder in _CACHES.items()
        if name not in environment and not _will_do(home / folder, is_read=name in _READ_ALONE)
    ]
    if not lost:
        return {}
    try:
        place = Path(tempfile.mkdtemp(prefix="star-batch-"))
    except OSError:
        return {}  # nothing can be written at all, and whoever needs to will say so
    atexit.register(_remove, place, os.getpid())
    logger.info(
        "HOME (%s) cannot be written: what it would keep is in %s and goes with this job; to keep it, set %s",
        *(home, place, ", ".join(lost)),
    )
    return {name: str(place / name.lower()) for name in lost}


def _home(environment: Mapping[str, str]) -> Path:
    home = environment.get("HOME") or os.path.expanduser("~")
    return Path("/" if home == "~" else home)  # of a user whom nobody has heard of


def _will_do(folder: Path, *, is_read: bool) -> bool:
    """Whether a folder is there, or can be made."""
    if is_read and os.access(folder, os.R_OK | os.X_OK):
        return True
    try:
        while not folder.exists() and folder.parent != folder:
            folder = folder.parent
        # By trying: what may be done to a folder depends on its file system, too. The file has no name.
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _remove(place: Path, owner: int) -> None:
    if os.getpid() == owner:  # not when a child that was forked ends
        shutil.rmtree(place, ignore_errors=True)
