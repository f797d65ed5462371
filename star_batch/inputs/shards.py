"""Samples of a tar archive as webdataset means them: members of one key that follow each other. Unpacks nothing.

A key is a member's path up to the first dot of its base name; what follows is its extension, in lower case. Members
without a key, folders and webdataset's own notes (`__name__`) are no part of a sample. Knows no row.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from star_batch.inputs.tar import Broken, Member, Window, read_members

_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_NOTE = re.compile(r"__[^/]*__($|/)")


@dataclass(frozen=True, slots=True)
class Sample:
    """Members of one key, each with its extension."""

    key: str
    members: list[tuple[str, Member]]

    @property
    def start(self) -> int:
        return self.members[0][1].start


@dataclass(slots=True)
class Survey:
    """What an archive holds by its headers: an id and the first byte of each sample, and where the last one ends.

    `broken`: why what follows cannot be found. `cut`: that the last sample is not all there. `is_marked`: the archive
    says where it ends.
    """

    ids: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    end: int = 0
    broken: str | None = None
    is_cut: bool = False
    is_marked: bool = True
    num_without_key: int = 0


def survey(window: Window, limit: int | None = None) -> Survey:
    """The first samples of an archive, all without a limit."""
    found, keys = Survey(), list[str]()
    try:
        for sample in read_samples(_noted(read_members(window), found, window.size)):
            if len(keys) == limit:
                found.end = sample.start
                break
            keys.append(sample.key)
            found.starts.append(sample.start)
    except Broken as error:
        found.broken = str(error)
    found.ids = _distinct(keys)
    return found


def read_samples(members: Iterable[Member]) -> Iterator[Sample]:
    """In order. One that the archive breaks in is there as far as it goes.

    Raises:
        Broken: as the members.
    """
    sample: Sample | None = None
    try:
        for member in members:
            key, extension = split_name(member)
            if key is None:
                continue
            if sample is not None and sample.key == key:
                sample.members.append((extension, member))
                continue
            if sample is not None:
                yield sample
            sample = Sample(key, [(extension, member)])
    except Broken:
        if sample is not None:
            yield sample
        raise
    if sample is not None:
        yield sample


def split_name(member: Member) -> tuple[str | None, str]:
    """The key, if the member is part of a sample, and its extension."""
    name = member.name
    if member.kind == "folder" or _NOTE.match(name) or not (found := _NAME.fullmatch(name)):
        return None, ""
    return found[1], found[2].lower()


def _noted(members: Iterable[Member], found: Survey, size: int) -> Iterator[Member]:
    for member in members:
        found.end, found.is_cut = min(member.end, size), member.data + member.size > size
        found.is_marked = member.end < size
        found.num_without_key += split_name(member)[0] is None and member.kind != "folder"
        yield member


def _distinct(keys: list[str]) -> list[str]:
    """A key that comes again has its number behind it."""
    if len(set(keys)) == len(keys):
        return keys
    taken, times, ids = set(keys), Counter[str](), list[str]()
    for key in keys:
        times[key] += 1
        name = key
        while times[key] > 1 and name in taken:
            name = f"{key}#{times[key]}"
            times[key] += name in taken
        taken.add(name)
        ids.append(name)
    return ids
