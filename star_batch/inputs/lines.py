"""Lines of text that name images: JSON lines, CSV and TSV, packed or not. Knows no byte of a row: see `text_rows`.

A derived id is `<file>#<line>`, the number of the row's first line as editors count. Files are read once to find where
the rows begin; from there they are read in pieces, but for packed ones, which are one piece each.
"""

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from star_batch.config import Input
from star_batch.errors import InputError, ValueInvalid
from star_batch.inputs.base import Format, places_of
from star_batch.inputs.discover import Sought, find_files
from star_batch.inputs.pieces import FilePiece, limited
from star_batch.inputs.rows import InputPlan, in_threads
from star_batch.inputs.text_rows import JsonLines, Line, Table, TextRow, read_lines
from star_batch.inputs.untyped import UNWANTED, Row, to_tables, untyped_schema
from star_batch.openai.files import is_plain, read_text
from star_batch.storage.location import Location, failing_as
from star_batch.wording import printable

Layout: TypeAlias = JsonLines | Table

_PACKED = ("", ".gz", ".gzip", ".bz2", ".xz", ".zst", ".zstd", ".lz4")
_KINDS = (".jsonl", ".ndjson", ".csv", ".tsv")
_SOUGHT = Sought("files of lines", tuple(f"{kind}{packed}" for packed in _PACKED for kind in _KINDS))
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_BOM = b"\xef\xbb\xbf"
_ROWS_PER_PIECE = 1024
_ROWS_LOOKED_AT = 1000
_CHUNK_BYTES = 2**20
_HEAD_BYTES = 64
IMAGES = pa.list_(pa.large_string())
"""Of the image column: one image or several."""


class Lines(Format):
    """Files, folders and globs of JSONL, NDJSON, CSV and TSV."""

    def plan(self, config: Input, output: Location | None = None) -> InputPlan:
        root, files = find_files(places_of(config), output, _SOUGHT)
        found = _surveyed(root, files, config.limit)
        pieces = [piece for name, each in found.items() for piece in _pieces(name, files[name], each, config)]
        return InputPlan(
            root=root,
            schema=untyped_schema(config, _columns(found), IMAGES),
            id_column=config.id_column,
            pieces=tuple(limited(pieces, config.limit)),
            questions=tuple(config.questions or ()),
        )


@dataclass(slots=True)
class _Survey:
    """Of one file: its layout, the line and the byte where each row begins, and its columns.

    `offset`: where the text begins in the file, if it lies there as it is read; None if it has to be unpacked.
    """

    layout: Layout
    offset: int | None
    numbers: "array[int]" = field(default_factory=lambda: array("q"))
    starts: "array[int]" = field(default_factory=lambda: array("q"))
    columns: list[str] = field(default_factory=list)


def _surveyed(root: Location, files: dict[str, str], limit: int | None) -> dict[str, _Survey]:
    """By name. With a limit, one after the other until there are enough rows."""
    found: dict[str, _Survey] = {}
    if limit is None:
        places = [root.at_path(path) for path in files.values()]
        found = dict(zip(files, in_threads(lambda place: _survey(place, None), places), strict=True))
    for name, path in files.items():
        if limit is not None and limit > 0:
            found[name] = _survey(root.at_path(path), limit)
            limit -= len(found[name].numbers)
    if not any(each.numbers for each in found.values()):
        raise InputError(f"{printable(root.shown)}: {len(found):,} files of lines without a single row")
    return found


def _survey(place: Location, limit: int | None) -> _Survey:
    head = _head(place)
    found = _Survey(_layout(place, head), (3 if head.startswith(_BOM) else 0) if is_plain(head) else None)
    rows = found.layout.rows(read_lines(read_text(place, "rows")))
    if isinstance(found.layout, Table):
        found.layout = _with_header(place, found.layout, next(rows, None))
        found.columns = list(found.layout.header)
        rows = found.layout.rows(read_lines(read_text(place, "rows")))
        next(rows, None)
    columns: dict[str, None] = {}
    for row in islice(rows, limit):
        if len(found.numbers) < _ROWS_LOOKED_AT and isinstance(found.layout, JsonLines):
            columns |= dict.fromkeys(_names(place, found.layout, row, is_first=not found.numbers))
        found.numbers.append(row.line.number)
        found.starts.append(row.line.start)
    found.columns += columns
    return found


def _columns(found: Mapping[str, _Survey]) -> dict[str, list[str]]:
    """Of each table by its header; of JSON what any of its files has, as there a null may be left out."""
    tables = {name: each.columns for name, each in found.items() if isinstance(each.layout, Table) and each.numbers}
    objects = {name: each for name, each in found.items() if isinstance(each.layout, JsonLines) and each.numbers}
    together = dict.fromkeys(column for each in objects.values() for column in each.columns)
    return tables | {name: list(together) for name in islice(objects, 1)}


def _head(place: Location) -> bytes:
    with failing_as(InputError, "read the rows", place), place.open_file(place.path) as file:
        return bytes(file.read(_HEAD_BYTES))


def _layout(place: Location, head: bytes) -> Layout:
    """By the file's name; a file that is named itself may be called anything, if JSON is in it."""
    name = place.path.lower()
    for packed in _PACKED[1:]:
        name = name.removesuffix(packed)
    for suffix, delimiter in _DELIMITERS.items():
        if name.endswith(suffix):
            return Table(delimiter, is_loose=delimiter == "\t")
    if name.endswith(_KINDS) or head.removeprefix(_BOM).lstrip()[:1] == b"{":
        return JsonLines()
    raise InputError(f"{place.shown}: is named neither .jsonl nor .csv nor .tsv, and no line of JSON by how it begins")


def _with_header(place: Location, layout: Table, row: TextRow | None) -> Table:
    if row is None:
        return layout
    if row.error is not None:
        raise InputError(f"{place.shown}: its header, line {row.line.number:,}: {row.error}")
    return replace(layout, header=tuple(row.fields))


def _names(place: Location, layout: JsonLines, row: TextRow, *, is_first: bool) -> list[str]:
    if is_first and row.line.text.lstrip().startswith(b"["):
        raise InputError(
            f"{place.shown}: line {row.line.number:,} begins a JSON array: write an object a line (jq -c '.[]' does), "
            "or read LLaVA's conversations with kind: llava"
        )
    try:
        return list(layout.values(row))
    except ValueInvalid:
        return []


def _pieces(name: str, path: str, found: _Survey, config: Input) -> Iterator["LinesPiece"]:
    step = _ROWS_PER_PIECE if found.offset is not None else max(1, len(found.numbers))
    for first in range(0, len(found.numbers), step):
        numbers = found.numbers[first : first + step]
        yield LinesPiece(
            num_rows=len(numbers),
            fan=len(config.asked),
            path=path,
            name=name,
            layout=found.layout,
            numbers=pa.array(numbers, pa.int64()),
            start=None if found.offset is None else found.starts[first] + found.offset,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesPiece(FilePiece):
    """Rows of one file that follow each other, by the numbers of their lines.

    `start`: the byte where the first begins; None where they are all of a file that is packed.
    """

    layout: Layout
    numbers: pa.Int64Array
    start: int | None

    def derived_ids(self, first: int, num_rows: int) -> pa.StringArray:
        numbers = self.numbers.slice(first, num_rows).cast(pa.string())
        return pc.binary_join_element_wise(self.name, numbers, "#")

    def tables(self, root: Location, schema: pa.Schema, *, most_rows: int, num_bytes: int) -> Iterator[pa.Table]:
        return to_tables(self._rows(root.at_path(self.path)), schema, most_rows=most_rows, num_bytes=num_bytes)

    def _rows(self, place: Location) -> Iterator[Row]:
        wanted, rows = self.wanted_rows(), self.layout.rows(self._lines(place))
        if self.start is None and isinstance(self.layout, Table):
            next(rows, None)
        for at in range(self.rows_until_the_last):
            row = next(rows, None)
            if row is None or row.line.number != self.numbers[at].as_py():
                number = self.numbers[at].as_py()
                raise InputError(f"{place.shown}: has changed since it was planned: no row at line {number:,}")
            yield self._row(row) if at in wanted else UNWANTED

    def _lines(self, place: Location) -> Iterator[Line]:
        if self.start is None:
            return read_lines(read_text(place, "rows"))
        return read_lines(_from(place, self.start), self.numbers[0].as_py(), self.start)

    def _row(self, row: TextRow) -> Row:
        try:
            return self.layout.values(row), None
        except ValueInvalid as error:
            return {}, ValueInvalid(f"{printable(self.name)}, line {row.line.number:,}: {error}")


def _from(place: Location, start: int) -> Iterator[bytes]:
    with failing_as(InputError, "read the rows", place), place.open_file(place.path) as file:
        file.seek(start)
        yield from iter(lambda: bytes(file.read(_CHUNK_BYTES)), b"")
