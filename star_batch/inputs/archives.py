"""Tar archives opened where they lie, local or in a store, and one sample of them as values. Plans nothing.

What is wrong with a sample is its own error; what is wrong with an archive names it.
"""

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from star_batch.errors import ImageMissing, ImageTooLarge, ImageUnreadable, InputError, RecordError, ValueInvalid
from star_batch.inputs.listing import SUFFIXES
from star_batch.inputs.shards import Sample
from star_batch.inputs.tar import Member, Window
from star_batch.inputs.untyped import Row, parse_json
from star_batch.storage.location import Location, failing_as
from star_batch.wording import printable, quoted

ANY_IMAGE = "image"
"""The image column's name that means the first image, of whatever kind."""

KEY, SHARD = "__key__", "__url__"
"""Columns that every sample has: webdataset's own words for its key and its archive."""

JSON = "json"

_LONGEST_TEXT = 16 * 2**20
_LEAST_REMOTE, _MOST_REMOTE = 2**16, 2**22


@contextlib.contextmanager
def opened(root: Location, path: str) -> Iterator[Window]:
    """An archive on the file system of `root`, under that system's own name for it.

    Raises:
        InputError: it cannot be read.
    """
    place = root.at_path(path)
    with failing_as(InputError, "read the archive", place):
        if not root.is_local:
            size = int(root.patiently(lambda: root.fs.size(path)))
            yield Window(_ranges(root, path), size, least=_LEAST_REMOTE, most=_MOST_REMOTE)
            return
        with open(os.fsencode(path), "rb", buffering=0) as file:
            descriptor = file.fileno()
            yield Window(lambda start, end: _pread(descriptor, start, end), os.fstat(descriptor).st_size)


def _ranges(root: Location, path: str) -> Callable[[int, int], bytes]:
    def read(start: int, end: int) -> bytes:
        return bytes(root.patiently(lambda: root.fs.cat_file(path, start=start, end=end)))

    return read


def _pread(descriptor: int, start: int, end: int) -> bytes:
    """The system reads at most some 2 GiB at once."""
    pieces, at = [], start
    while at < end and (piece := os.pread(descriptor, end - at, at)):
        pieces.append(piece)
        at += len(piece)
    return b"".join(pieces)


@dataclass(slots=True)
class SampleReader:
    """Samples of the archive called `shard`, as values of the columns that are asked for.

    `image_column`: extensions, one of which is the image's, with `;` between them; or `ANY_IMAGE`.
    """

    shard: str
    window: Window
    columns: Collection[str]
    image_column: str
    most_image_bytes: int

    def read(self, sample: Sample) -> Row:
        """The values, as far as they can be had, and what is wrong with the sample."""
        problems = self._problems(sample)
        values: dict[str, Any] = {KEY: sample.key, SHARD: self.shard}
        there = {extension: member for extension, member in reversed(sample.members) if member.kind == "file"}
        if self.image_column in self.columns:
            values[self.image_column] = self._tried(self._image, sample, problems)
        asked = [name for name in self.columns if name not in values]
        for name in asked:
            if name in there:
                values[name] = self._tried(self._text, there[name], problems)
        if JSON in there and (left := [name for name in asked if name not in values]):
            fields = self._tried(self._fields, there[JSON], problems) or {}
            values |= {name: fields.get(name) for name in left}
        return values, problems[0] if problems else None

    def names(self, sample: Sample) -> set[str]:
        """Of all columns that the sample has."""
        there = dict(sample.members)
        found = {KEY, SHARD, *there}
        if JSON in there and there[JSON].kind == "file":
            found |= (self._tried(self._fields, there[JSON], []) or {}).keys()
        return found

    def _problems(self, sample: Sample) -> list[RecordError]:
        """What can be told by headers: the first of it counts."""
        problems: list[RecordError] = []
        names = [extension for extension, _ in sample.members]
        if twice := next((name for name in names if names.count(name) > 1), None):
            problems.append(ValueInvalid(f"{self._of(sample)}: two members are called .{printable(twice)}"))
        last = sample.members[-1][1]
        there = self.window.size - last.data
        if there < last.size and last.kind in ("file", "sparse"):
            why = (
                f"the archive is cut within {printable(last.name)}: {max(0, there):,} of {last.size:,} bytes are there"
            )
            problems.insert(0, ImageUnreadable(f"{self._of(sample)}: {why}"))
        return problems

    def _tried(self, read: Callable[[Any], Any], what: Any, problems: list[RecordError]) -> Any:
        try:
            return read(what)
        except RecordError as error:
            problems.append(error)
            return None

    def _image(self, sample: Sample) -> bytes:
        found = self._choose(sample.members)
        if found is None:
            there = ", ".join(f".{extension}" for extension, _ in sample.members)
            raise ImageMissing(f"{self._of(sample)}: no image among {printable(there)}")
        if found.kind != "file":
            raise ImageUnreadable(f"{printable(found.name)}: is no plain file in the archive ({found.kind})")
        if not found.size:
            raise ImageMissing(f"{printable(found.name)}: empty")
        if found.size > self.most_image_bytes:
            limit = f"the limit is {self.most_image_bytes:,} (input.max_image_bytes)"
            raise ImageTooLarge(f"{printable(found.name)}: {found.size:,} bytes; {limit}")
        return self._bytes(found, ImageUnreadable)

    def _choose(self, members: list[tuple[str, Member]]) -> Member | None:
        if self.image_column != ANY_IMAGE:
            there = dict(reversed(members))
            return next((there[name] for name in extensions(self.image_column) if name in there), None)
        ranked = [
            (extension.count("."), SUFFIXES.index(suffix), number)
            for number, (extension, _) in enumerate(members)
            if (suffix := f".{extension.rpartition('.')[2]}") in SUFFIXES
        ]
        return members[min(ranked)[2]][1] if ranked else None

    def _text(self, member: Member) -> str:
        return self._small(member).decode("utf-8-sig", "backslashreplace")

    def _fields(self, member: Member) -> Mapping[str, Any]:
        try:
            fields = parse_json(self._small(member).removeprefix(b"\xef\xbb\xbf"))
        except ValueError as error:
            raise ValueInvalid(f"{printable(member.name)}: is broken JSON: {printable(error)}") from None
        if not isinstance(fields, dict):
            raise ValueInvalid(f"{printable(member.name)}: is no JSON object but {quoted(fields, 40)}")
        return fields

    def _small(self, member: Member) -> bytes:
        if member.size > _LONGEST_TEXT:
            raise ValueInvalid(
                f"{printable(member.name)}: {member.size:,} bytes of text; the limit is {_LONGEST_TEXT:,}"
            )
        return self._bytes(member, ValueInvalid)

    def _bytes(self, member: Member, error: type[RecordError]) -> bytes:
        if member.data + member.size > self.window.size:
            raise error(f"{printable(member.name)}: the archive is cut within it")
        data = self.window.at(member.data, member.size)
        if len(data) < member.size:
            raise InputError(f"{printable(self.shard)}: has become shorter while it was read")
        return data

    def _of(self, sample: Sample) -> str:
        return f"{printable(self.shard)}, sample {quoted(sample.key)}"


def extensions(image_column: str) -> list[str]:
    return [name.lower() for name in image_column.split(";")]
