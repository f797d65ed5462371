"""Where rows' images come from: bytes in the row, a file, or the web; and what a row may name. Decodes nothing.

A row is not trusted to name just any file. Files below the input's own folder are open to it. Beyond that, without
`image_roots`, an input on this machine may name whatever its user can read, here or in an object store, and an input
from elsewhere whatever is in an object store; with `image_roots`, files below those and no others.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Self

from star_batch.config import Input
from star_batch.errors import ConfigError, ImageFetchFailed, ImageFetchRefused, ImageMissing, RecordError
from star_batch.pipeline.fetch import SCHEMES, Fetched, fetch_all
from star_batch.pipeline.redaction import redacted
from star_batch.pipeline.storage import STORAGE_ERRORS, Location, explain, scheme_of

_THREADS = 16
_STORES = ("s3", "gs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What the image column holds, made into bytes; `root` is the input's folder, `roots` what else is open."""

    input: Input
    root: Location
    roots: tuple[str, ...] | None

    @classmethod
    def of(cls, input: Input, root: Location) -> Self:
        """Paths are understood here, as other processes may run in another folder.

        Raises:
            ConfigError: one of `image_roots` is no place.
        """
        roots = input.image_roots
        return cls(input=input, root=root, roots=None if roots is None else tuple(Location.of(r).url for r in roots))

    def read_all(self, sources: Sequence[Any]) -> list[Fetched]:
        """The encoded image of each row, or why there is none. What several rows name is read once."""
        named = [_named(source) for source in sources]
        distinct = list(dict.fromkeys(named))
        found = dict(zip(distinct, self._read_distinct(distinct), strict=True))
        return [found[name] for name in named]

    def _read_distinct(self, named: Sequence[bytes | str | None]) -> Iterator[Fetched]:
        paths = [name for name in named if isinstance(name, str) and not self._is_web(name)]
        urls = [name for name in named if isinstance(name, str) and self._is_web(name)]
        files, pages = iter(self._read_files(paths)), iter(self._fetch(urls))
        for name in named:
            if not isinstance(name, str):
                yield Fetched(name, None if name else ImageMissing("no image"))
            else:
                yield next(pages if self._is_web(name) else files)

    def _is_web(self, name: str) -> bool:
        return self.input.kind == "parquet" and "://" in name and scheme_of(name) in SCHEMES

    def _fetch(self, urls: Sequence[str]) -> list[Fetched]:
        policy = self.input.fetch
        if policy is None:
            reason = "images are not fetched from the web unless input.fetch names their hosts"
            return [Fetched(None, ImageFetchRefused(f"{redacted(url.partition('?')[0])}: {reason}")) for url in urls]
        return fetch_all(urls, policy) if urls else []

    def _read_files(self, paths: Sequence[str]) -> list[Fetched]:
        if not paths:
            return []
        with ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(self._read_file, paths))

    def _read_file(self, path: str) -> Fetched:
        started = time.perf_counter()
        try:
            data, error = self._read(path), None
        except RecordError as failure:
            data, error = None, failure
        return Fetched(data, error, time.perf_counter() - started)

    def _read(self, path: str) -> bytes:
        location = self._locate(path)
        try:
            data = location.read_bytes()
        except (*STORAGE_ERRORS, ValueError) as error:  # a name that none can have, such as one with a null byte
            raise ImageFetchFailed(f"{location.shown}: {explain(error, location.options)}") from None
        if not data:
            raise ImageMissing(f"{location.shown}: empty")
        return data

    def _locate(self, path: str) -> Location:
        if "::" in path:  # fsspec's own way to name a file inside of another, or on another file system
            raise ImageFetchRefused(f"{redacted(path)}: '::' is not taken in the name of an image")
        is_relative = self.input.kind == "images" or ("://" not in path and not path.startswith("/"))
        location = _without_climbing(self.root.at(path) if is_relative else self._elsewhere(path))
        if not self._may_name(location):
            raise ImageFetchRefused(f"{location.shown}: {self._why_not()}")
        return location

    def _elsewhere(self, path: str) -> Location:
        """The input's options serve its own file system only."""
        if scheme_of(path) not in ("file", *_STORES):
            raise ImageFetchRefused(f"{redacted(path)}: {scheme_of(path)}:// is not a file system for images")
        options = self.root.options if scheme_of(path) == scheme_of(self.root.url) else {}
        try:
            return Location.of(path, options, retry_seconds=self.root.retry_seconds)
        except ConfigError as error:
            raise ImageFetchRefused(str(error)) from None

    def _may_name(self, location: Location) -> bool:
        if _is_below(location.url, self.root.url):
            return True
        if self.roots is not None:
            return any(_is_below(location.url, root) for root in self.roots)
        return self.root.is_local or scheme_of(location.url) in _STORES

    def _why_not(self) -> str:
        if self.input.image_roots is None:
            return "an input from elsewhere may not name files of this machine; input.image_roots can allow some"
        return "is not below one of input.image_roots"


def _named(source: Any) -> bytes | str | None:
    """Bytes that are there already, or a path; Hugging Face's datasets write a pair of both."""
    if isinstance(source, Mapping):
        source = source.get("bytes") or source.get("path")
    if isinstance(source, str) and not source.strip():
        return None
    return source if isinstance(source, bytes | str) else None


def _without_climbing(location: Location) -> Location:
    """The same place without `..` on its way; a store would look for an object of that very name, or would not."""
    if ".." not in location.url.split("/"):
        return location
    if not location.is_local:
        raise ImageFetchRefused(f"{location.shown}: '..' is not taken in the name of an image")
    return replace(location, url=os.path.normpath(location.url))


def _is_below(url: str, root: str) -> bool:
    return url.startswith(root.rstrip("/") + "/")
