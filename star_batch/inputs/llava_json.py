"""LLaVA's conversations: a JSON array, or JSON lines, of records with `id`, `image` and `conversations`.

`prompt` is the first human turn without its `<image>` marks, `reference` the answer to it; a record's own fields are
columns too. A derived id is `<file>#<number>`, counted from 0. A file is read a record at a time and never held whole.
Knows no byte of JSON: see `star_batch.openai.lines`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa

from star_batch.config import Input
from star_batch.errors import InputError, ValueInvalid
from star_batch.inputs.base import Format, places_of
from star_batch.inputs.discover import Sought, find_files
from star_batch.inputs.lines import IMAGES
from star_batch.inputs.pieces import NumberedRows, limited
from star_batch.inputs.rows import InputPlan
from star_batch.inputs.untyped import UNWANTED, Row, parse_json, to_tables, untyped_schema
from star_batch.openai.files import read_text
from star_batch.openai.lines import MOST_BYTES, split_requests
from star_batch.storage.location import Location
from star_batch.wording import printable, quoted

PROMPT, REFERENCE = "prompt", "reference"
"""Columns that are made of a conversation."""

_SOUGHT = Sought("LLaVA's conversations", (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".json.zst", ".jsonl.zst"))
_IMAGE, _CONVERSATIONS = "image", "conversations"
_MARK = "<image>"
_HUMAN, _MODEL = frozenset({"human", "user"}), frozenset({"gpt", "assistant"})
_RECORDS_LOOKED_AT = 1000


class Conversations(Format):
    """Files, folders and globs of them."""

    def plan(self, config: Input, output: Location | None = None) -> InputPlan:
        root, files = find_files(places_of(config), output, _SOUGHT)
        found, left = dict[str, _Survey](), config.limit
        for name, path in files.items():
            if left is None or left > 0:
                found[name] = _survey(root.at_path(path), left)
                left = None if left is None else left - found[name].num_rows
        if not any(each.num_rows for each in found.values()):
            raise InputError(f"{printable(root.shown)}: {len(found):,} files without a single record")
        fan = len(config.asked)
        pieces = [Records(num_rows=each.num_rows, fan=fan, path=files[name], name=name) for name, each in found.items()]
        columns = dict.fromkeys(column for each in found.values() for column in each.columns)
        if _CONVERSATIONS not in columns:
            raise InputError(f"{printable(root.shown)}: no {_CONVERSATIONS} in the first records")
        return InputPlan(
            root=root,
            schema=untyped_schema(config, {next(iter(found)): columns}, IMAGES),
            id_column=config.id_column,
            pieces=tuple(limited(pieces, config.limit)),
            questions=tuple(config.questions or ()),
        )


@dataclass(slots=True)
class _Survey:
    num_rows: int = 0
    columns: dict[str, None] = field(default_factory=lambda: {_IMAGE: None, PROMPT: None, REFERENCE: None})


def _survey(place: Location, limit: int | None) -> _Survey:
    found = _Survey()
    for text in islice(_records(place), limit):
        if found.num_rows < _RECORDS_LOOKED_AT:
            found.columns |= dict.fromkeys(_row(text, "")[0])
        found.num_rows += 1
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Records(NumberedRows):
    """All records of a file, or the first of them."""

    def tables(self, root: Location, schema: pa.Schema, *, most_rows: int, num_bytes: int) -> Iterator[pa.Table]:
        return to_tables(self._rows(root.at_path(self.path)), schema, most_rows=most_rows, num_bytes=num_bytes)

    def _rows(self, place: Location) -> Iterator[Row]:
        wanted, records = self.wanted_rows(), _records(place)
        for number in range(self.rows_until_the_last):
            if (text := next(records, None)) is None:
                raise InputError(f"{place.shown}: has changed since it was planned: no record {number:,}")
            yield _row(text, f"{printable(self.name)}, record {number:,}: ") if number in wanted else UNWANTED


def _records(place: Location) -> Iterator[bytes]:
    return split_requests(read_text(place, "conversations"), place.shown)


def _row(text: bytes, where: str) -> Row:
    if len(text) > MOST_BYTES:
        return {}, ValueInvalid(f"{where}has more than {MOST_BYTES:,} bytes")
    try:
        record = parse_json(text)
    except ValueError as error:
        return {}, ValueInvalid(f"{where}is broken JSON: {printable(error)}")
    if not isinstance(record, dict):
        return {}, ValueInvalid(f"{where}is no JSON object but {quoted(record, 40)}")
    prompt, reference = _said(record.get(_CONVERSATIONS))
    return record | {PROMPT: prompt, REFERENCE: reference}, None


def _said(turns: object) -> tuple[str | None, str | None]:
    """What is asked first, and what is answered to it."""
    said = [_turn(turn) for turn in turns] if isinstance(turns, list) else []
    asked = next((number for number, (who, _) in enumerate(said) if who in _HUMAN), None)
    if asked is None:
        return None, None
    prompt = said[asked][1]
    answered = next((text for who, text in said[asked + 1 :] if who in _MODEL), None)
    return None if prompt is None else prompt.replace(_MARK, "").strip(), answered


def _turn(turn: object) -> tuple[str, str | None]:
    """Who speaks, and what: LLaVA's words for it or those of chats."""
    values: Mapping[str, Any] = turn if isinstance(turn, dict) else {}
    who, text = values.get("from", values.get("role")), values.get("value", values.get("content"))
    return (who if isinstance(who, str) else ""), (text if isinstance(text, str) else None)
