"""Image files below a folder, local or in a bucket: their names and nothing else. Opens no image; knows no Parquet.

Names are held as Arrow text, some 60 bytes each, and S3 is asked for a page at a time: fsspec's own `find` keeps a
dictionary per file.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from star_batch.errors import InputError
from star_batch.pipeline.storage import Location, failing_as, scheme_of

logger = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
"""How names of images end, in lower or upper case."""

_NAMES_PER_CHUNK = 65_536
_KEYS_PER_PAGE = 1000
_NUM_SHOWN = 5


def list_images(folders: Iterable[Location], root: str) -> pa.ChunkedArray:
    """Names of the images below the folders, relative to `root`, each once and in order.

    Parts that begin with a dot are hidden. What is no image by its name is counted aloud and left alone.

    Raises:
        InputError: a folder cannot be listed, or there is no image.
    """
    places, others = list(folders), Counter[str]()
    names = (name for place in places for name in _images(place, root, others))
    chunks = [pa.array(chunk, pa.large_string()) for chunk in iter(lambda: list(islice(names, _NAMES_PER_CHUNK)), [])]
    shown = ", ".join(place.shown for place in places)
    if others:
        kinds = ", ".join(f"{suffix} {count:,}" for suffix, count in others.most_common(_NUM_SHOWN))
        logger.info("%s: left alone, as no images by their names: %s", shown, kinds)
    if not chunks:
        raise InputError(f"{shown}: no images there ({', '.join(SUFFIXES)})")
    found = pc.unique(pa.chunked_array(chunks))
    return pa.chunked_array([found.take(pc.sort_indices(found))])


def _images(folder: Location, root: str, others: "Counter[str]") -> Iterator[str]:
    with failing_as(InputError, "list the images", folder):
        for path in _files(folder):
            # A name that is not UTF-8 comes out as text that names no file, and so becomes an error row.
            name = os.fsencode(os.path.relpath(path, root)).decode("utf-8", "backslashreplace")
            if any(part.startswith(".") for part in name.split("/")):
                continue
            if name.lower().endswith(SUFFIXES):
                yield name
            else:
                others[os.path.splitext(name)[1].lower() or "without a suffix"] += 1


def _files(folder: Location) -> Iterator[str]:
    """Paths of all files below, as the file system says them, in any order."""
    if folder.is_local:
        for parent, _, names in os.walk(folder.path, onerror=_raise):
            yield from (os.path.join(parent, name) for name in names)
    elif scheme_of(folder.url) in ("s3", "s3a"):
        yield from _keys(folder)
    else:
        yield from folder.patiently(lambda: folder.fs.find(folder.path))


def _keys(folder: Location) -> Iterator[str]:
    bucket, prefix, _ = folder.fs.split_path(folder.path)
    where = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else "", "MaxKeys": _KEYS_PER_PAGE}
    more: dict[str, Any] = {}
    while True:
        page = folder.patiently(lambda: folder.fs.call_s3("list_objects_v2", **where, **more))  # noqa: B023
        yield from (f"{bucket}/{found['Key']}" for found in page.get("Contents", ()))
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _raise(error: OSError) -> NoReturn:
    raise error
