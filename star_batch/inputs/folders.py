"""Files below folders, local or in a bucket: each once, links followed, and whatever is left out is counted.

Names are streamed, and S3 is asked for a page at a time: fsspec's own `find` keeps a dictionary per file.
Opens no file; knows neither images nor Parquet. Knows how an output of this package looks, as the answers in one
are nobody's input unless they are named.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from star_batch.commit.layout import ANSWERS, COMMITS, EPOCHS, RUN
from star_batch.storage.location import Location
from star_batch.storage.urls import scheme_of
from star_batch.wording import printable

OWN_ANSWERS = "answers of a job"
TWICE = "reached a second time"
NO_FILE = "neither files nor folders, or links to nothing"

_MARKS = frozenset({RUN, COMMITS, EPOCHS})
_KEYS_PER_PAGE = 1000
_KINDS_SHOWN = 8
_LONGEST_KIND = 40
_COMPRESSED = (".gz", ".gzip", ".zst", ".bz2", ".xz")


@dataclass(slots=True)
class _Ahead:
    """What is still to be walked: folders and links to folders, with their real paths; and links to files."""

    folders: deque[tuple[str, str]]
    links: deque[tuple[str, str]] = field(default_factory=deque)
    files: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Walk:
    """The files below some folders whose names are accepted; a real folder is walked once, however it is reached.

    `hidden`: how names begin that are passed over, below the folder that is walked. `own`: the job's own output.
    `left_out` counts what is not among the files, by kind.
    """

    accepts: Callable[[str], bool]
    hidden: tuple[str, ...]
    own: Location | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    _seen: set[str] = field(default_factory=set)
    _linked: set[str] = field(default_factory=set)

    def files(self, folder: Location, *, is_named: bool = True) -> Iterator[str]:
        """Paths as the file system says them, in any order. In an output that `is_named` itself, answers are files."""
        return self._local(folder.path, is_named) if folder.is_local else self._stored(folder, is_named)

    def told(self) -> str:
        """What was left out, in words."""
        kinds = ", ".join(f"{printable(kind)} {count:,}" for kind, count in self.left_out.most_common(_KINDS_SHOWN))
        more = len(self.left_out) - _KINDS_SHOWN
        return f"{kinds} and {more:,} more kinds" if more > 0 else kinds

    def _local(self, top: str, is_named: bool) -> Iterator[str]:
        first = os.path.realpath(top)
        ahead = _Ahead(deque([(top, first)]))
        # Links come last: what can be reached without one has its name without one.
        while ahead.folders or ahead.links:
            path, real = (ahead.folders or ahead.links).popleft()
            if self._is_new(real):
                yield from self._inside(path, real, ahead, may_answer=is_named and real == first)
        yield from (file for file in sorted(ahead.files) if self._is_another(file))

    def _is_new(self, folder: str) -> bool:
        if folder in self._seen or folder == self._own_answers():
            self.left_out[TWICE if folder in self._seen else OWN_ANSWERS] += 1
            return False
        self._seen.add(folder)
        return True

    def _own_answers(self) -> str | None:
        own = self.own
        return os.path.realpath(own.at(ANSWERS).path) if own is not None and own.is_local else None

    def _inside(self, path: str, real: str, ahead: _Ahead, *, may_answer: bool) -> Iterator[str]:
        with os.scandir(path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        has_answers = not may_answer and any(entry.name in _MARKS for entry in entries)
        for entry in entries:
            if entry.name.startswith(self.hidden):
                self.left_out["hidden"] += 1
            elif has_answers and entry.name == ANSWERS:
                self.left_out[OWN_ANSWERS] += 1
            elif entry.is_dir(follow_symlinks=False):
                ahead.folders.append((entry.path, os.path.join(real, entry.name)))
            elif entry.is_symlink():
                self._follow(entry, ahead)
            elif not entry.is_file():
                self.left_out[NO_FILE] += 1
            elif self.takes(entry.name):
                yield entry.path

    def _follow(self, link: "os.DirEntry[str]", ahead: _Ahead) -> None:
        try:
            is_folder, is_file = link.is_dir(), link.is_file()
        except OSError:  # one that leads to itself
            is_folder = is_file = False
        if is_folder:
            ahead.links.append((link.path, os.path.realpath(link.path)))
        elif not is_file:
            self.left_out[NO_FILE] += 1
        elif self.takes(link.name):
            ahead.files.append(link.path)

    def _is_another(self, link: str) -> bool:
        """Whether what a link leads to is not read under another name."""
        real = os.path.realpath(link)
        folder, name = os.path.split(real)
        is_listed = folder in self._seen and self.accepts(name) and not name.startswith(self.hidden)
        if is_listed or real in self._linked:
            self.left_out[TWICE] += 1
            return False
        self._linked.add(real)
        return True

    def takes(self, name: str) -> bool:
        """Whether a file of that name is wanted; counts it if not."""
        if self.accepts(name):
            return True
        self.left_out[_kind(name)] += 1
        return False

    def _stored(self, folder: Location, is_named: bool) -> Iterator[str]:
        top = f"{folder.path.rstrip('/')}/"
        answers = {f"{self.own.at(ANSWERS).path}/"} if self.own is not None and not self.own.is_local else set[str]()
        for path in _objects(folder):
            names = path.removeprefix(top).split("/")
            marked = next((place for place, name in enumerate(names) if name in _MARKS), None)
            if marked is not None and (marked or not is_named):
                # Stores list names in the order of their bytes: marks come before answers.
                answers.add(top + "".join(f"{name}/" for name in [*names[:marked], ANSWERS]))
            if any(name.startswith(self.hidden) for name in names):
                self.left_out["hidden"] += 1
            elif any(path.startswith(other) for other in answers):
                self.left_out[OWN_ANSWERS] += 1
            elif self.takes(names[-1]):
                yield path


def _kind(name: str) -> str:
    """How a name ends; of something compressed, also what it was before."""
    stem, suffix = os.path.splitext(name.lower())
    kind = os.path.splitext(stem)[1] + suffix if suffix in _COMPRESSED else suffix
    return kind if 1 < len(kind) <= _LONGEST_KIND else "without a suffix"


def _objects(folder: Location) -> Iterator[str]:
    found = _keys(folder) if scheme_of(folder.url) in ("s3", "s3a") else _found(folder)
    # A name that ends so stands for a folder.
    return (path for path in found if not path.endswith("/"))


def _found(folder: Location) -> Iterator[str]:
    yield from map(str, folder.patiently(lambda: folder.fs.find(folder.path)))


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
