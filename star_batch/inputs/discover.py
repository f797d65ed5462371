"""Which files of one kind an input's paths mean: files, folders and globs, local or in a store. Opens none of them.

Files are found by how their names end, and what else a folder holds is counted aloud. A path that is there is meant
as it is written, whatever marks of a glob are in it.
"""

import glob
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fsspec.utils import glob_translate

from star_batch.errors import InputError
from star_batch.inputs.folders import NO_FILE, TWICE, Walk
from star_batch.inputs.listing import as_text, is_image
from star_batch.storage.location import Location, failing_as
from star_batch.wording import printable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sought:
    """What is looked for: what it is called, and how names of such files end, in lower or upper case."""

    what: str
    suffixes: tuple[str, ...]

    def accepts(self, name: str) -> bool:
        return name.lower().endswith(self.suffixes)


PARQUET = Sought("Parquet files", (".parquet", ".pq", ".parq"))

ARROW = Sought("Arrow files", (".arrow", ".arrows", ".feather", ".ipc"))

_HIDDEN = ("_", ".")
_ANY_DEPTH = "**"


def find_files(
    places: Sequence[Location], own: Location | None = None, sought: Sought = PARQUET
) -> tuple[Location, dict[str, str]]:
    """The folder that names are relative to, and the files below it: name -> path.

    Args:
        own: the job's output, whose answers are left out where they are below a folder of the input.
        sought: what is looked for.

    Raises:
        InputError: a path leads to nothing, or to nothing of that kind by its name.
    """
    walk, folders, paths = Walk(sought.accepts, _HIDDEN, own), [], list[str]()
    for place in places:
        before = walk.left_out[TWICE]
        with failing_as(InputError, "read the input", place):
            folder, files = _expand(place, walk)
            found = list(files)
        # Another of the paths may have led to all that is there.
        if not found and (not paths or walk.left_out[TWICE] == before):
            raise InputError(f"{printable(place.shown)}: no {sought.what} there{_instead(walk, sought)}")
        folders.append(folder)
        paths += found
    root = os.path.commonpath(folders)
    named = {as_text(os.path.relpath(path, root)): path for path in _once(paths, is_local=places[0].is_local)}
    if walk.left_out:
        shown = ", ".join(printable(place.shown) for place in places)
        logger.info("%s: left out, as no %s by their names or for another reason: %s", shown, sought.what, walk.told())
    return places[0].at_path(root), named


def _expand(place: Location, walk: Walk) -> tuple[str, Iterable[str]]:
    """The folder that does not depend on what is found, and the files."""
    folder, pattern = _split(place)
    if pattern:
        return folder, _matching(place, folder, pattern, walk)
    if place.is_folder():
        return place.path, walk.files(place)
    place.patiently(lambda: place.fs.info(place.path))
    if place.is_local and not os.path.isfile(place.path):
        raise InputError(f"{printable(place.shown)}: is no file, nor leads to one")
    return os.path.dirname(place.path), [place.path]


def _split(place: Location) -> tuple[str, str]:
    """A folder that is there, and the pattern below it; no pattern where the whole path is there or has no marks."""
    parts = place.path.split("/")
    for number, part in enumerate(parts):
        here = "/".join(parts[: number + 1])
        if any(mark in part for mark in "*?[") and not place.patiently(lambda: place.fs.exists(here)):  # noqa: B023
            return "/".join(parts[:number]) or ("/" if place.is_local else ""), "/".join(parts[number:])
    return place.path, ""


def _matching(place: Location, folder: str, pattern: str, walk: Walk) -> Iterator[str]:
    """Of what matches, files as they are, and folders with all that is below."""
    for path, is_folder in _local(folder, pattern, walk) if place.is_local else _stored(place, folder, pattern):
        names = os.path.relpath(path, folder or None).split("/")
        if any(name.startswith(_HIDDEN) for name in names):
            walk.left_out["hidden"] += 1
        elif is_folder:
            yield from walk.files(place.at_path(path), is_named=False)
        elif place.is_local and not os.path.isfile(path):
            walk.left_out[NO_FILE] += 1
        elif walk.takes(names[-1]):
            yield path


def _local(folder: str, pattern: str, walk: Walk) -> Iterator[tuple[str, bool]]:
    head, deep, rest = pattern.partition(_ANY_DEPTH)
    tops = sorted(glob.glob(os.path.join(glob.escape(folder), head if deep else pattern), include_hidden=True))
    if not deep:
        yield from ((path, os.path.isdir(path)) for path in tops)
        return
    # Not `glob`, which goes in circles where links do.
    matches = re.compile(glob_translate(deep + rest)).match
    for top in filter(os.path.isdir, tops):
        below = walk.files(Location(top.rstrip("/") or "/"), is_named=False)
        yield from ((path, False) for path in below if matches(os.path.relpath(path, top)))


def _stored(place: Location, folder: str, pattern: str) -> list[tuple[str, bool]]:
    escaped = "".join(f"[{char}]" if char in "*?[" else char for char in folder)
    whole = f"{escaped}/{pattern}" if escaped else pattern
    found = place.patiently(lambda: place.fs.glob(whole, detail=True))
    matches = [(str(path), info["type"] == "directory") for path, info in sorted(found.items())]
    # At any depth, files that match are there themselves.
    return [match for match in matches if not (match[1] and _ANY_DEPTH in pattern)]


def _once(paths: Iterable[str], *, is_local: bool) -> list[str]:
    """Each file under one name: its own before that of a link."""
    if not is_local:
        return sorted(set(paths))
    real = {path: os.path.realpath(path) for path in paths}
    names: dict[str, str] = {}
    for path in sorted(real, key=lambda path: (real[path] != path, path)):
        names.setdefault(real[path], path)
    return sorted(names.values())


_HINTS = (
    ((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz"), "packed archives are not read: unpack them to .tar"),
    ((".tar",), "archives of samples are read with kind: webdataset (--kind webdataset)"),
    (
        (".jsonl", ".ndjson", *(f".jsonl{packed}" for packed in (".gz", ".zst", ".bz2", ".xz"))),
        "lines of JSON are read with kind: lines (--kind lines), "
        "OpenAI's batch requests with kind: openai (--kind openai)",
    ),
    ((".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst", ".tsv.zst"), "tables of text are read with kind: lines"),
    ((".json",), "LLaVA's conversations are read with kind: llava (--kind llava)"),
    (ARROW.suffixes, "Arrow files, as save_to_disk writes them, are read with kind: arrow (--kind arrow)"),
    (PARQUET.suffixes, "Parquet is read with kind: parquet, or without a kind"),
)
"""What can be done with files of other kinds."""


def _instead(walk: Walk, sought: Sought) -> str:
    """What was found, and what can be done with it."""
    suffixes = ", ".join(sought.suffixes)
    return f" ({suffixes}); found instead: {walk.told()}; {_hint(walk)}" if walk.left_out else f" ({suffixes})"


def _hint(walk: Walk) -> str:
    if any(is_image(kind) for kind in walk.left_out):
        return "images are read with kind: images (--kind images)"
    found = (hint for kinds, hint in _HINTS if not walk.left_out.keys().isdisjoint(kinds))
    return next(found, "a file that is named itself is read whatever its name ends with")
