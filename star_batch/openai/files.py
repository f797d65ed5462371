"""Files of requests as UTF-8 text: which there are, how they are packed, how they are encoded.

What packs a file is told by its first bytes, whatever its name says; so is its encoding. Knows no request.
"""

import bz2
import codecs
import gzip
import logging
import lzma
import os
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NoReturn

import pyarrow as pa

from star_batch.config import Input
from star_batch.errors import InputError
from star_batch.storage.location import Location, explain, failing_as
from star_batch.storage.urls import scheme_of

logger = logging.getLogger(__name__)

SUFFIXES = (".jsonl", ".ndjson", ".json")
"""How names of files of requests end, before what packs them; in lower or upper case."""

_PACKED_SUFFIXES = (".gz", ".gzip", ".bz2", ".xz", ".zst", ".zstd", ".lz4", ".zip")
_CHUNK_BYTES = 2**20
_WILDCARD = re.compile(r"[*?\[]")
_NUM_SHOWN = 5

# Files


def find_files(config: Input, except_for: Iterable[Location] = ()) -> list[Location]:
    """Every file of requests that the input's paths name, each once: files, folders and globs, in this order.

    Args:
        except_for: files that a folder or a glob does not mean, such as the job's own results.

    Raises:
        InputError: one of the paths cannot be read, or there is no file of requests.
    """
    own = {place.url for place in except_for}
    found: dict[str, Location] = {}
    for path in config.paths:
        place = Location.of(path, config.storage_options, retry_seconds=config.retry_seconds)
        with failing_as(InputError, "read the requests", place):
            found |= {file.url: file for file in _named(place) if file.url not in own or file.url == place.url}
    return list(found.values())


def _named(place: Location) -> list[Location]:
    if place.is_folder():
        return _below(place)
    if _WILDCARD.search(place.path) and not place.exists():
        return _matching(place)
    if place.patiently(lambda: place.fs.info(place.path))["type"] != "file":
        raise InputError(f"{place.shown}: is not a regular file")
    return [place]


def _matching(pattern: Location) -> list[Location]:
    try:
        matches = pattern.patiently(lambda: pattern.fs.glob(pattern.path, detail=True)).values()
    except ValueError as error:
        raise InputError(f"{pattern.shown}: {error}") from None
    found = sorted(str(match["name"]) for match in matches if match["type"] == "file")
    if not (paths := [path for path in found if not os.path.basename(path).startswith(".")]):
        raise InputError(f"{pattern.shown}: no files there match")
    return [_at(pattern, path) for path in paths]


def _below(folder: Location) -> list[Location]:
    """Files whose names are those of requests; what is left out is counted aloud."""
    files, others = [], Counter[str]()
    for path in sorted(_walk(folder)):
        name = os.path.relpath(path, folder.path)
        if any(part.startswith((".", "_")) for part in name.split("/")):
            continue
        if _is_named_so(name):
            files.append(path)
        else:
            others[os.path.splitext(name)[1].lower() or "without a suffix"] += 1
    counted = ", ".join(f"{suffix} {count:,}" for suffix, count in others.most_common(_NUM_SHOWN))
    if not files:
        kinds = ", ".join(SUFFIXES)
        raise InputError(f"{folder.shown}: no requests there ({kinds}, packed or not); found: {counted or 'nothing'}")
    if others:
        logger.info("%s: left alone, as no requests by their names: %s", folder.shown, counted)
    return [_at(folder, path) for path in files]


def _walk(folder: Location) -> Iterator[str]:
    if not folder.is_local:
        yield from folder.patiently(lambda: folder.fs.find(folder.path))
        return
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder.path, followlinks=True, onerror=_raise):
        # Links may lead in a circle.
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (path for name in names if os.path.isfile(path := os.path.join(parent, name)))


def _raise(error: OSError) -> NoReturn:
    raise error


def _is_named_so(name: str) -> bool:
    stem, suffix = os.path.splitext(name.lower())
    return (stem if suffix in _PACKED_SUFFIXES else name.lower()).endswith(SUFFIXES)


def _at(like: Location, path: str) -> Location:
    return replace(like, url=path if like.is_local else f"{scheme_of(like.url)}://{path}")


# Text


def read_text(file: Location, what: str = "requests") -> Iterator[bytes]:
    """A file's text in pieces, unpacked, as UTF-8 without a byte order mark; bytes that are no text come as they are.

    Args:
        what: what the text is to hold, as errors call it.

    Raises:
        InputError: it cannot be read, is cut or broken, or is no text by how it begins.
    """
    with failing_as(InputError, f"read the {what}", file), file.open_file(file.path) as raw:
        yield from _as_utf8(_unpacked(file, raw), file, what)


def is_plain(head: bytes) -> bool:
    """Whether a text that begins so is neither packed nor in another encoding: it lies in its file as it is read."""
    return not any(head.startswith(magic) for magic, *_ in _PACKERS) and _encoding(head)[0] == "utf-8"


def _zstd(file: Any) -> Any:
    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")


def _lz4(file: Any) -> Any:
    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "lz4")


def _only_member(file: Any) -> Any:
    archive = zipfile.ZipFile(file)
    members = [info for info in archive.infolist() if not info.is_dir()]
    if len(members) != 1:
        raise zipfile.BadZipFile(f"it holds {len(members)} files; one is read")
    return archive.open(members[0])


_PACKERS: tuple[tuple[bytes, str, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", "gzip", lambda file: gzip.GzipFile(fileobj=file)),
    (b"BZh", "bzip2", bz2.BZ2File),
    (b"\xfd7zXZ\x00", "xz", lzma.LZMAFile),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstd),
    (b"\x04\x22\x4d\x18", "lz4", _lz4),
    (b"PK\x03\x04", "zip", _only_member),
)
"""How each kind begins, what it is called, and what unpacks it."""


# Not all there are: what a store raises while it is read is its own.
_BROKEN: tuple[type[Exception], ...] = (
    *(EOFError, OSError, RuntimeError, ValueError, LookupError, ArithmeticError, struct.error),
    *(zlib.error, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowException),
)
"""What unpackers raise at a broken file, those that take its names for good ones included."""


def _unpacked(file: Location, raw: Any) -> Iterator[bytes]:
    head = raw.read(_CHUNK_BYTES)
    raw.seek(0)
    for magic, name, unpack in _PACKERS:
        if head.startswith(magic):
            return _unpack(file, name, lambda: unpack(raw))  # noqa: B023
    return iter(lambda: raw.read(_CHUNK_BYTES), b"")


def _unpack(file: Location, packer: str, opened: Callable[[], Any]) -> Iterator[bytes]:
    size, line = 0, 1
    try:
        with opened() as stream:
            # One piece of what is there at a time, so that what stands before a fault is counted.
            while chunk := stream.read1(_CHUNK_BYTES):
                yield chunk
                size, line = size + len(chunk), line + chunk.count(b"\n")
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        state = "cut" if isinstance(error, EOFError) or "truncated" in str(error).lower() else "broken"
        raise InputError(
            f"{file.shown}: is a {packer} file that is {state} ({explain(error)}): {size:,} bytes of text could be "
            f"read, up to line {line:,}; nothing of it is answered, bring it whole"
        ) from None


_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    # Before UTF-16, as its mark begins like that one's.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_UNMARKED = ((re.compile(rb"[\[{]\0[^\0]\0"), "utf-16-le"), (re.compile(rb"\0[\[{]\0[^\0]"), "utf-16-be"))
_FOREIGN = {
    b"PAR1": "a Parquet file: leave out the kind",
    **{magic: f"{name} in it" for magic, name, _ in _PACKERS},
}


def _as_utf8(chunks: Iterator[bytes], file: Location, what: str) -> Iterator[bytes]:
    head = next(chunks, b"")
    while len(head) < 4 and (more := next(chunks, b"")):
        head += more
    if foreign := next((said for magic, said in _FOREIGN.items() if head.startswith(magic)), None):
        raise InputError(f"{file.shown}: holds no text of {what}, but {foreign}")
    encoding, head = _encoding(head)
    if encoding == "utf-8":
        yield head
        yield from chunks
        return
    # Halves of a surrogate pair pass, so that only the request with them is refused.
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    try:
        yield decoder.decode(head).encode("utf-8", "surrogatepass")
        for chunk in chunks:
            yield decoder.decode(chunk).encode("utf-8", "surrogatepass")
        decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        raise InputError(f"{file.shown}: is {encoding} by how it begins, and cut or broken: {error.reason}") from None


def _encoding(head: bytes) -> tuple[str, bytes]:
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name, head[len(mark) :]
    return next((name for pattern, name in _UNMARKED if pattern.match(head)), "utf-8"), head
