"""WebDataset: tar archives of samples, as img2dataset writes them. Planned by headers, read sample by sample.

A derived id is `<archive>/<key>`: keys come again in other archives. A key that comes again in its own archive has
`#2`, `#3` behind it. Nothing is unpacked to disk. Knows no byte of a tar: see `tar`, `shards` and `archives`.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from star_batch.config import Input
from star_batch.errors import InputError, ValueInvalid
from star_batch.inputs.archives import ANY_IMAGE, SampleReader, extensions, opened
from star_batch.inputs.base import Format, places_of
from star_batch.inputs.braces import expand
from star_batch.inputs.discover import Sought, find_files
from star_batch.inputs.pieces import Piece, limited
from star_batch.inputs.rows import InputPlan, in_threads
from star_batch.inputs.shards import Survey, read_samples, survey
from star_batch.inputs.tar import Broken, Window, read_members
from star_batch.inputs.untyped import UNWANTED, Row, to_table, to_tables, untyped_schema
from star_batch.storage.location import Location
from star_batch.wording import printable, quoted

logger = logging.getLogger(__name__)

_PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.lz4")
_SOUGHT = Sought("tar archives", (".tar", *_PACKED))
_MAGICS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x04\x22\x4d\x18": "lz4",
}
_SAMPLES_PER_PIECE = 256
_SAMPLES_LOOKED_AT = 16


class WebDataset(Format):
    """Archives by name, folder, glob and braces; their headers are read, and the words of a few samples."""

    def plan(self, config: Input, output: Location | None = None) -> InputPlan:
        root, files = find_files(places_of(_expanded(config)), output, _SOUGHT)
        _check_names(files, root)
        surveys = _surveyed(root, files, config.limit)
        pieces = [piece for name, found in surveys.items() for piece in _pieces(name, files[name], found, config)]
        return InputPlan(
            root=root,
            schema=untyped_schema(config, _columns(config, root, files, surveys), pa.large_binary()),
            id_column=config.id_column,
            pieces=tuple(limited(pieces, config.limit)),
            questions=tuple(config.questions or ()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples(Piece):
    """Samples of one archive that follow each other: their ids, and the byte where each begins and the last ends."""

    path: str
    name: str
    ids: pa.LargeStringArray
    starts: pa.Int64Array
    image_column: str
    most_image_bytes: int

    @property
    def file(self) -> str | None:
        return self.name

    def derived_ids(self, first: int, num_rows: int) -> pa.StringArray:
        return pc.binary_join_element_wise(self.name, self.ids.slice(first, num_rows).cast(pa.string()), "/")

    def tables(self, root: Location, schema: pa.Schema, *, most_rows: int, num_bytes: int) -> Iterator[pa.Table]:
        with opened(root, self.path) as window:
            reader = SampleReader(self.name, window, schema.names, self.image_column, self.most_image_bytes)
            yield from to_tables(self._rows(reader), schema, most_rows=most_rows, num_bytes=num_bytes)

    def _rows(self, reader: SampleReader) -> Iterator[Row]:
        wanted = self.wanted_rows()
        for number in range(self.rows_until_the_last):
            yield self._read(reader, number) if number in wanted else UNWANTED

    def _read(self, reader: SampleReader, number: int) -> Row:
        id, start, end = self.ids[number].as_py(), self.starts[number].as_py(), self.starts[number + 1].as_py()
        try:
            sample = next(read_samples(read_members(reader.window, start, end)), None)
        except Broken:
            sample = None
        if sample is None or not (id == sample.key or id.startswith(f"{sample.key}#")):
            raise InputError(f"{printable(self.name)}: has changed since it was planned: no sample {quoted(id)} there")
        return reader.read(sample)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenRest(Piece):
    """What follows in an archive behind a place where it is broken: one row, an error, called like the archive."""

    name: str
    why: str

    @property
    def file(self) -> str | None:
        return self.name

    def derived_ids(self, first: int, num_rows: int) -> pa.StringArray:
        return pa.array([self.name] * num_rows, pa.string())

    def tables(self, root: Location, schema: pa.Schema, *, most_rows: int, num_bytes: int) -> Iterator[pa.Table]:
        yield to_table([({}, ValueInvalid(f"{printable(self.name)}: {self.why}"))], schema)


# Planning


def _expanded(config: Input) -> Input:
    """Braces stand for many paths, unless there is one that is called so."""
    paths: list[str] = []
    for path in config.paths:
        is_plain = "{" not in path or Location.of(path, config.storage_options).exists()
        paths += [path] if is_plain else expand(path)
    return config.model_copy(update={"path": tuple(paths)})


def _check_names(files: Mapping[str, str], root: Location) -> None:
    shown = printable(root.shown)
    if packed := next((name for name in files if name.lower().endswith(_PACKED)), None):
        raise InputError(f"{shown}: {printable(packed)}: is packed; {_unpack(packed)}")
    folders = {os.path.dirname(name) for name in files}
    if twice := next((name for name in files if name in folders), None):
        raise InputError(f"{shown}: {printable(twice)}: is an archive and a folder; their ids would be the same")


def _unpack(name: str) -> str:
    return (
        "samples are found by their place in the file, so unpack archives to .tar first "
        f"(such as: zstd -d or gunzip {printable(name)}); images in them are packed already"
    )


def _surveyed(root: Location, files: Mapping[str, str], limit: int | None) -> dict[str, Survey]:
    """By name. With a limit, one after the other until there are enough samples."""
    if limit is None:
        found = dict(zip(files, in_threads(lambda path: _survey(root, path, None), list(files.values())), strict=True))
    else:
        found, left = {}, limit
        for name, path in files.items():
            if left > 0:
                found[name] = _survey(root, path, left)
                left -= len(found[name].ids)
    if not any(each.ids or each.broken for each in found.values()):
        raise InputError(f"{printable(root.shown)}: {len(found):,} tar archives without a single sample")
    for name, each in found.items():
        _tell(name, each)
    return found


def _survey(root: Location, path: str, limit: int | None) -> Survey:
    with opened(root, path) as window:
        _check_begin(window, path)
        return survey(window, limit)


def _check_begin(window: Window, path: str) -> None:
    head = window.at(0, 8)
    if packer := next((name for magic, name in _MAGICS.items() if head.startswith(magic)), None):
        raise InputError(f"{printable(path)}: is packed with {packer}; {_unpack(path)}")
    try:
        next(read_members(window), None)
    except Broken as error:
        raise InputError(f"{printable(path)}: is no tar archive: {error}") from None
    if not window.size:
        raise InputError(f"{printable(path)}: is empty, which no tar archive is")


def _tell(name: str, found: Survey) -> None:
    shown = printable(name)
    if found.num_without_key:
        logger.info("%s: left out, as no samples by their names: %s members", shown, f"{found.num_without_key:,}")
    if found.broken is not None:
        logger.warning("%s: %s; what follows %d samples cannot be read", shown, found.broken, len(found.ids))
    elif found.is_cut:
        logger.warning("%s: is cut: its last sample is not all there, and more may be missing", shown)
    elif not found.is_marked:
        logger.warning("%s: has no mark of its end, so it may be cut: %d samples", shown, len(found.ids))


def _columns(
    config: Input, root: Location, files: Mapping[str, str], surveys: Mapping[str, Survey]
) -> dict[str, list[str]]:
    """The names of columns in the first samples of the first archive that has any."""
    name = next((name for name, found in surveys.items() if found.ids), None)
    names = set(config.keep_columns) if name is None else set[str]()
    with opened(root, files[name or next(iter(files))]) as window:
        reader = SampleReader(name or "", window, (), config.image_column, config.max_image_bytes)
        try:
            for sample in islice(read_samples(read_members(window)), _SAMPLES_LOOKED_AT):
                names |= reader.names(sample)
        except Broken:
            pass  # it was told already
    if config.image_column == ANY_IMAGE or not names.isdisjoint(extensions(config.image_column)):
        names.add(config.image_column)
    return {name or "": sorted(names)}


def _pieces(name: str, path: str, found: Survey, config: Input) -> Iterator[Piece]:
    fan = len(config.asked)
    bounds = np.array([*found.starts, found.end], np.int64)
    for first in range(0, len(found.ids), _SAMPLES_PER_PIECE):
        ids = found.ids[first : first + _SAMPLES_PER_PIECE]
        yield Samples(
            num_rows=len(ids),
            fan=fan,
            path=path,
            name=name,
            ids=pa.array(ids, pa.large_string()),
            starts=pa.array(bounds[first : first + len(ids) + 1]),
            image_column=config.image_column,
            most_image_bytes=config.max_image_bytes,
        )
    if found.broken is not None:
        yield BrokenRest(num_rows=1, fan=fan, name=name, why=f"{found.broken}; samples behind that cannot be found")
