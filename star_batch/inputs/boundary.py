"""Which files of this machine and which objects of stores rows may name. Opens nothing, decodes nothing.

Names and ids are relative to the input's root, which is what its paths have in common and may be `/`. What is open to
a row is something else: the folder of the file that the row came from, the folders given as `input.path`, and those of
`image_roots`. Of local files the real paths are compared, so that no symbolic link leads out.

Beyond that, without `image_roots`, an input on this machine may name whatever its user can read, here or in an object
store, and an input from elsewhere whatever is in an object store; with `image_roots`, nothing.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from star_batch.config import Input
from star_batch.storage.location import Location
from star_batch.storage.urls import scheme_of

STORES = ("s3", "gs")

# The system's own state is there, under names of files.
_NO_PLACES = ("/proc", "/sys", "/dev")
_BUT = ("/dev/shm",)  # files in memory


@dataclass(frozen=True, slots=True)
class Boundary:
    """What is open: `given` by the input's own paths, by the configuration's `roots` if it has some.

    `is_local` says whether the input is on this machine.
    """

    given: tuple[str, ...]
    roots: tuple[str, ...] | None
    is_local: bool

    @classmethod
    def of(cls, input: Input, *, is_local: bool) -> Self:
        """Paths are understood here, as other processes may run in another folder.

        Raises:
            ConfigError: one of `image_roots` is no place.
        """
        given = [Location.of(path).url for path in input.paths]
        # There may be thousands of files, below which nothing is.
        folders = [place for place in given if not is_local or os.path.isdir(place)]
        roots = input.image_roots
        return cls(tuple(folders), None if roots is None else tuple(Location.of(r).url for r in roots), is_local)

    def opened(self, folder: str | None) -> tuple[str, ...]:
        """The places open to rows of a file in that folder, as they really are now."""
        places = (*self.given, *(self.roots or ()), *([folder] if folder is not None else []))
        return tuple(dict.fromkeys(map(_real, places)))

    def why_not(self, place: str, opened: Iterable[str]) -> str | None:
        """Why rows may not name a place, an URL or a real path; None if they may."""
        if is_inside(place, opened):
            return None
        if self.roots is not None:
            return "is neither below the input's own folder nor below one of input.image_roots"
        if not _is_path(place):
            return None if scheme_of(place) in STORES else "is not a file system for images"
        if not self.is_local:
            return "an input from elsewhere may not name files of this machine; input.image_roots can allow some"
        is_state = is_inside(place, _NO_PLACES) and not is_inside(place, _BUT)
        return "is the system's own state and no place for images" if is_state else None


def is_inside(place: str, folders: Iterable[str]) -> bool:
    """Whether a place is below one of the folders."""
    return any(place.startswith(folder.rstrip("/") + "/") for folder in folders)


def _real(place: str) -> str:
    return os.path.realpath(place) if _is_path(place) else place


def _is_path(place: str) -> bool:
    return place.startswith("/")
