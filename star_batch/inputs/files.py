"""Files of this machine and objects of stores that rows name: found, and read within limits. Decodes nothing.

A relative name is looked for in two places, and what is found first counts. Where the input's root is a folder that was
given as `input.path`, it is that folder and then the one of the row's own file. Where files, a glob or folders of
different tops were given, nobody named the root, and it is the other way round.

Only regular files, so many bytes, so many seconds a try; what may be named at all is the boundary's.
"""

import functools
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias
from urllib.parse import unquote

from fsspec.exceptions import FSTimeoutError

from star_batch.config import Input
from star_batch.errors import (
    ConfigError,
    ImageError,
    ImageFetchFailed,
    ImageFetchRefused,
    ImageMissing,
    ImageTooLarge,
)
from star_batch.inputs.boundary import STORES, Boundary, is_inside
from star_batch.inputs.deadline import Again, Late, each_within
from star_batch.inputs.fetch import Fetched
from star_batch.regular import read_regular
from star_batch.storage.location import STORAGE_ERRORS, Location, explain
from star_batch.storage.redaction import redacted
from star_batch.storage.urls import scheme_of
from star_batch.wording import printable

_Place: TypeAlias = str | Location
"""A path of this machine, or an object."""

_FILE_URI = re.compile(r"file:(?://([^/]*))?(/.*)", re.IGNORECASE | re.DOTALL)
# What stores say to somebody who wants the beginning of an empty object.
_NO_RANGE = re.compile(r"(?i)invalid ?range|\b416\b|not satisfiable")


@dataclass(frozen=True, slots=True)
class NamedFile:
    """What a row names, and the folder of the file that the row is from."""

    name: str
    folder: str | None = None


class _NotThere(ImageFetchFailed):
    """It may be in another place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """`root` is what names are relative to; `only_below`: a name is nothing else but one below it."""

    input: Input
    root: Location
    boundary: Boundary
    only_below: bool = False

    @classmethod
    def of(cls, input: Input, root: Location, *, only_below: bool = False) -> Self:
        """Raises:
        ConfigError: one of `image_roots` is no place.
        """
        return cls(input=input, root=root, boundary=Boundary.of(input, is_local=root.is_local), only_below=only_below)

    def read_all(self, files: Sequence[NamedFile]) -> list[Fetched]:
        """What each holds, or why that cannot be had."""
        opened = functools.cache(self.boundary.opened)
        found = each_within(lambda file, again: self._fetched(file, opened, again), files, self.input.image_seconds)
        return [_unless_late(file, each) for file, each in zip(files, found, strict=True)]

    def _fetched(self, file: NamedFile, opened: Callable[[str | None], tuple[str, ...]], again: Again) -> Fetched:
        started = time.perf_counter()
        try:
            found = self._first(file, opened(file.folder), again)
        except ImageError as failure:
            found = Fetched(None, failure)
        return replace(found, seconds=time.perf_counter() - started)

    def _first(self, file: NamedFile, opened: tuple[str, ...], again: Again) -> Fetched:
        """From the first place where it is."""
        failures: list[ImageError] = []
        for place in self._places(file):
            try:
                return self._from(place, opened, again)
            except (_NotThere, ImageFetchRefused) as failure:
                failures.append(failure)
        raise failures[0]

    def _from(self, place: _Place, opened: tuple[str, ...], again: Again) -> Fetched:
        shown = _shown(place)
        try:
            found = self._object(place, opened, again) if isinstance(place, Location) else self._local(place, opened)
        except FileNotFoundError as error:
            raise _NotThere(f"{shown}: {explain(error)}") from None
        except ImageError as error:
            hint = " (input.max_image_bytes)" if isinstance(error, ImageTooLarge) else ""
            raise type(error)(f"{shown}: {error}{hint}") from None
        except Exception as error:  # what stores and their libraries raise cannot be listed
            options = place.options if isinstance(place, Location) else {}
            raise ImageFetchFailed(f"{shown}: {printable(explain(error, options))}") from None
        if not found.data:
            raise ImageMissing(f"{shown}: empty")
        return found

    # Places

    def _places(self, file: NamedFile) -> Iterator[_Place]:
        name = file.name
        if self.only_below:
            yield _below(self.root, name)
        elif "::" in name:  # fsspec's own way to name a file inside of another, or on another file system
            raise ImageFetchRefused(f"{_shown(name)}: '::' is not taken in the name of an image")
        elif (path := _absolute(name)) is not None:
            yield path
        elif "://" in name:
            yield self._elsewhere(name)
        else:
            yield from (_below(base, name) for base in self._bases(file.folder))

    def _bases(self, folder: str | None) -> list[Location]:
        own = self.root if folder is None else replace(self.root, url=folder)
        if own.url == self.root.url:
            return [own]
        return [self.root, own] if self.root.url in self.boundary.given else [own, self.root]

    def _elsewhere(self, url: str) -> Location:
        """The input's options serve its own file system only."""
        scheme = scheme_of(url)
        if scheme not in STORES:
            raise ImageFetchRefused(f"{_shown(url)}: {printable(scheme, 40)}:// is not a file system for images")
        options = self.root.options if scheme == scheme_of(self.root.url) else {}
        try:
            return _without_climbing(Location.of(url, options, retry_seconds=self.root.retry_seconds))
        except ConfigError as error:
            raise ImageFetchRefused(printable(error)) from None

    # Reading

    def _local(self, path: str, opened: tuple[str, ...]) -> Fetched:
        real = path

        def check(found: str) -> None:
            nonlocal real
            real = found
            self._check(found, opened)

        data = read_regular(path, self.input.max_image_bytes, check)
        return Fetched(data, may_quote=is_inside(real, opened))

    def _object(self, place: Location, opened: tuple[str, ...], again: Again) -> Fetched:
        self._check(place.url, opened)

        def attempt() -> bytes:
            again()
            return self._beginning(place.fs, place.path)

        data = place.patiently(attempt)
        if len(data) > self.input.max_image_bytes:
            raise ImageTooLarge(f"more than {self.input.max_image_bytes:,} bytes")
        return Fetched(data, may_quote=is_inside(place.url, opened))

    def _check(self, place: str, opened: tuple[str, ...]) -> None:
        if (reason := self.boundary.why_not(place, opened)) is not None:
            raise ImageFetchRefused(reason)

    def _beginning(self, fs: Any, path: str) -> bytes:
        """As much as may be wanted, and a byte to see that there is more."""
        seconds = self.input.image_seconds
        patience = {"timeout": seconds} if fs.async_impl else {}
        try:
            return bytes(fs.cat_file(path, start=0, end=self.input.max_image_bytes + 1, **patience))
        except FSTimeoutError:
            raise ImageFetchFailed(f"not there within {seconds:g} seconds (input.image_seconds)") from None
        except STORAGE_ERRORS as error:
            if _NO_RANGE.search(str(error)) and not fs.size(path):
                return b""
            raise


def _unless_late(file: NamedFile, found: Fetched | Late) -> Fetched:
    if isinstance(found, Fetched):
        return found
    return Fetched(None, ImageFetchFailed(f"{_shown(file.name)}: {found.why} (input.image_seconds)"))


def _below(folder: Location, name: str) -> _Place:
    if folder.is_local:
        return os.path.normpath(f"{folder.url}/{name}")
    return _without_climbing(folder.at(name))


def _without_climbing(place: Location) -> Location:
    """A store would look for an object of that very name, or would not."""
    if ".." in place.url.split("/"):
        raise ImageFetchRefused(f"{_shown(place)}: '..' is not taken in the name of an image")
    return place


def _absolute(name: str) -> str | None:
    """The path that an absolute path or a `file:` URI names."""
    path = name
    if (uri := _FILE_URI.fullmatch(name)) is not None:
        host, path = uri[1] or "", unquote(uri[2], errors="surrogateescape")
        if host.lower() not in ("", "localhost"):
            raise ImageFetchRefused(f"{_shown(name)}: names a file of another machine; write file:///folder/name")
    return os.path.normpath("/" + path.lstrip("/")) if path.startswith("/") else None


def _shown(place: _Place) -> str:
    return printable(place.shown if isinstance(place, Location) else redacted(place))
