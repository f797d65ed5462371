"""A folder of this machine for results, looked at before they are worked for. Knows no store and no result."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from star_batch.errors import OutputError

_STORE = re.compile(r"[a-z][a-z0-9+.-]+:/")  # as a path has it: of two slashes one is left


def make_ready(folder: Path, names: Iterable[str]) -> None:
    """Makes the folder, and looks whether files of these names may be written there.

    Raises:
        OutputError: it is no local folder or cannot be made, or one of the files cannot be written.
    """
    if _STORE.match(str(folder)):
        raise OutputError(f"{folder}: these results are written to a local folder only")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise OutputError(f"{folder}: is a file; give a folder") from None
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from None
    for place in (folder, *filter(Path.exists, (folder / name for name in names))):
        if not os.access(place, os.W_OK) or place.is_dir() != (place == folder):
            raise OutputError(f"{place}: cannot be written; choose another folder")
