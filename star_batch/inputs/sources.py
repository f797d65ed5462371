"""Where rows' images come from: bytes in the row, a file, or the web. Decodes no image.

Bytes may also stand in the row as text, as a `data:` URI or as base64. Everything else names something, which the row
is not trusted to do: see `files` and `fetch`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Self, TypeAlias

import pyarrow as pa

from star_batch.config import Input
from star_batch.data_uri import decode_base64, decode_data_uri, is_data_uri, least_bytes
from star_batch.errors import ImageError, ImageFetchRefused, ImageMissing, ImageTooLarge, ImageUnreadable
from star_batch.formats import begins_as_image
from star_batch.inputs.fetch import SCHEMES, Fetched, fetch_all
from star_batch.inputs.files import Files, NamedFile
from star_batch.inputs.pieces import FOLDER_COLUMN
from star_batch.storage.location import Location
from star_batch.storage.redaction import redacted
from star_batch.storage.urls import scheme_of
from star_batch.wording import printable

# The smallest image of one pixel is longer, and so is no path on any system.
_SHORTEST_BASE64, _LONGEST_PATH = 48, 4096


class _Page(NamedTuple):
    url: str


_Wanted: TypeAlias = Fetched | NamedFile | _Page
"""What a row has: the image itself (or nothing that could become one), or what it names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What the image column holds, made into bytes."""

    input: Input
    files: Files
    only_names: bool = False

    @classmethod
    def of(cls, input: Input, root: Location, *, only_names: bool = False) -> Self:
        """`root`: what names are relative to; `only_names`: whatever stands there is the name of a file below it.

        Raises:
            ConfigError: one of `image_roots` is no place.
        """
        return cls(input=input, files=Files.of(input, root, only_below=only_names), only_names=only_names)

    def read_all(self, sources: Sequence[Any], folders: Sequence[str | None] | None = None) -> list[Fetched]:
        """The encoded image of each row, or why there is none. What several rows name is read once.

        Args:
            sources: What the image column holds.
            folders: Those of the files that the rows are from.
        """
        near = folders if folders is not None else [None] * len(sources)
        wanted = [self._wanted(source, folder) for source, folder in zip(sources, near, strict=True)]
        distinct = list(dict.fromkeys(wanted))
        files = [each for each in distinct if isinstance(each, NamedFile)]
        pages = [each for each in distinct if isinstance(each, _Page)]
        found: dict[_Wanted, Fetched] = {each: each for each in distinct if isinstance(each, Fetched)}
        found |= zip(files, self.files.read_all(files), strict=True)
        found |= zip(pages, self._fetch([page.url for page in pages]), strict=True)
        return [found[each] for each in wanted]

    def read_column(self, rows: pa.Table, column: str) -> list[list[Fetched]]:
        """The images of each row of a plan's table, which holds one or a list of them; see `read_all`."""
        several = [row if isinstance(row, list) else [row] for row in rows[column].to_pylist()]
        folders = _folders(rows)
        fetched = iter(
            self.read_all(
                [source for row in several for source in row],
                [folder for row, folder in zip(several, folders, strict=True) for _ in row],
            )
        )
        return [list(islice(fetched, len(row))) for row in several]

    def _wanted(self, source: Any, folder: str | None) -> _Wanted:
        try:
            value = _value(source)
            data = value if isinstance(value, bytes) else None
            if not self.only_names:
                data = _written(value, self.input.max_image_bytes) or data
            if data is not None:
                _check_size(len(data), self.input.max_image_bytes)
                return Fetched(data)
        except ImageError as error:
            return Fetched(None, error)
        assert isinstance(value, str)
        return _Page(value) if self._is_web(value) else NamedFile(value, folder)

    def _is_web(self, name: str) -> bool:
        return not self.only_names and "://" in name and scheme_of(name) in SCHEMES

    def _fetch(self, urls: Sequence[str]) -> list[Fetched]:
        policy = self.input.fetch
        if policy is None:
            reason = "images are not fetched from the web unless input.fetch names their hosts"
            return [Fetched(None, ImageFetchRefused(f"{_without_query(url)}: {reason}")) for url in urls]
        return fetch_all(urls, policy) if urls else []


def _folders(rows: pa.Table) -> list[str | None]:
    """Of the files that the rows are from; a folder's name may be no text."""
    if FOLDER_COLUMN not in rows.column_names:
        return [None] * rows.num_rows
    return [os.fsdecode(folder) for folder in rows[FOLDER_COLUMN].to_pylist()]


def _value(source: Any) -> bytes | str:
    """Bytes that are there already, or text; Hugging Face's datasets write a pair of both.

    Raises:
        ImageMissing: neither.
    """
    if isinstance(source, Mapping):
        source = source.get("bytes") or source.get("path")
    if not isinstance(source, bytes | str) or not source.strip():
        raise ImageMissing("no image")
    return source


def _check_size(num_bytes: int, most: int) -> None:
    if num_bytes > most:
        raise ImageTooLarge(f"{num_bytes:,} bytes; the limit is {most:,} (input.max_image_bytes)")


def _written(value: bytes | str, most: int) -> bytes | None:
    """The bytes that stand there as text.

    Raises:
        ImageTooLarge: certainly more than `most` bytes, without decoding them.
        ImageMissing: none.
        ImageUnreadable: as broken text.
    """
    head = value[:256].decode("latin-1") if isinstance(value, bytes) else value[:256]
    if not (is_data_uri(head) or _begins_as_base64(head)):
        return None
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    _check_size(least_bytes(text), most)
    try:
        data = decode_data_uri(text) if is_data_uri(head) else decode_base64(text)
    except ValueError as error:
        if len(text) <= _LONGEST_PATH and not is_data_uri(head):
            return None  # a path, by chance
        raise ImageUnreadable(f"{printable(text, 60)}: {error}") from None
    if not data:
        raise ImageMissing(f"{printable(text, 60)}: no image")
    return data


def _begins_as_base64(head: str) -> bool:
    letters = "".join(head.split())[:_SHORTEST_BASE64]
    try:
        return len(letters) == _SHORTEST_BASE64 and begins_as_image(decode_base64(letters))
    except ValueError:
        return False


def _without_query(url: str) -> str:
    return printable(redacted(url.partition("?")[0]))
