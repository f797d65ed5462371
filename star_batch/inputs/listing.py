"""Image files below a folder, local or in a bucket: their names and nothing else. Opens no image; knows no Parquet.

Names are held as Arrow text, some 60 bytes each.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from star_batch.errors import InputError
from star_batch.inputs.folders import Walk
from star_batch.storage.location import Location, failing_as
from star_batch.wording import printable

logger = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
"""How names of images end, in lower or upper case."""

_HIDDEN = (".",)
_NAMES_PER_CHUNK = 65_536


def list_images(folders: Iterable[Location], root: str, own: Location | None = None) -> pa.ChunkedArray:
    """Names of the images below the folders, relative to `root`, each once and in order.

    Parts that begin with a dot are hidden. What is no image by its name is counted aloud and left alone.

    Args:
        own: the job's output, which may be below one of the folders.

    Raises:
        InputError: a folder cannot be listed, or there is no image.
    """
    places, walk = list(folders), Walk(is_image, _HIDDEN, own)
    names = (name for place in places for name in _names(walk, place, root))
    chunks = [pa.array(chunk, pa.large_string()) for chunk in iter(lambda: list(islice(names, _NAMES_PER_CHUNK)), [])]
    shown = ", ".join(printable(place.shown) for place in places)
    if not chunks:
        raise InputError(f"{shown}: no images there ({', '.join(SUFFIXES)}){_instead(walk)}")
    if walk.left_out:
        logger.info("%s: left out, as no images by their names or for another reason: %s", shown, walk.told())
    found = pc.unique(pa.chunked_array(chunks))
    return pa.chunked_array([found.take(pc.sort_indices(found))])


def is_image(name: str) -> bool:
    """By its name."""
    return name.lower().endswith(SUFFIXES)


def _names(walk: Walk, folder: Location, root: str) -> Iterator[str]:
    with failing_as(InputError, "list the images", folder):
        for path in walk.files(folder):
            yield as_text(os.path.relpath(path, root))


def as_text(name: str) -> str:
    """One that is not UTF-8 comes out as text that names no file; an image of such a name becomes an error row."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _instead(walk: Walk) -> str:
    if not walk.left_out:
        return ""
    hint = "; Parquet files are read without kind: images" if ".parquet" in walk.left_out else ""
    return f"; found instead: {walk.told()}{hint}"
