"""Takes an old job out of an output folder, all of it, and nothing that is not this tool's. Knows no Ray."""

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Sequence

from star_batch.commit.layout import (
    ANSWERS,
    COMMITS,
    EPOCHS,
    ERROR_FILE,
    EXPORTS,
    METRICS,
    OUTPUT_FILE,
    REPORT,
    REQUESTS,
    RUN,
    RUNS,
    SUCCESS,
    delete,
    part_epoch,
)
from star_batch.storage.location import Location

_SUFFIXES = (".json", ".parquet", ".prom")
_STAGED = re.compile(rf"{REQUESTS}/([0-9a-f]{{16}})/\.?(?:\d{{6}}\.parquet|_STAGED)(?:\.[0-9a-f]{{32}})?")
_EXPORTED = re.compile(
    r"(answers\.(jsonl|csv)|webdataset/\d{5}\.tar|dataset/README\.md|dataset/data/train-\d{5}\.parquet)"
)
_EXPORT_RECORD = f"{METRICS}/exports.json"
_DRAFT = re.compile(r"\.(.+)\.[0-9a-f]{32}")
_LAST_WORDS = (SUCCESS, "_STAGED")
"""What says that something is whole."""


def clear(output: Location, before: int, keep: Sequence[str] = ()) -> None:
    """Delete what this tool wrote before an epoch; of staged requests, all but those whose folder is in `keep`."""
    names = output.files()
    old = list(_old(names, before, {path.rpartition("/")[2] for path in keep}))
    # First, so that whoever comes after a death in between takes nothing for whole.
    words = [name for name in old if name.rpartition("/")[2] in _LAST_WORDS]
    delete(output.at(name) for name in words)
    # The record of the exports last: without it nobody knows that they are ours.
    delete(output.at(name) for name in old if name not in (*words, _EXPORT_RECORD))
    delete(output.at(name) for name in old if name == _EXPORT_RECORD)
    if output.is_local:
        _remove_empty_folders(output)


def _old(names: list[str], before: int, staged: Collection[str]) -> Iterator[str]:
    # Files with these names are ours only where there are requests of ours.
    had_requests = any(_STAGED.fullmatch(name) for name in names)
    files = {SUCCESS, RUN, REPORT, *((OUTPUT_FILE, ERROR_FILE) if had_requests else ())}
    if _EXPORT_RECORD in names:
        files |= {name for name in names if _EXPORTED.fullmatch(name)}
    for name in names:
        folder, _, file = name.partition("/")
        request, draft = _STAGED.fullmatch(name), _DRAFT.fullmatch(name)
        if request is not None:
            is_old = request[1] not in staged
        elif folder == ANSWERS:
            is_old = (part_epoch(file) or before) < before
        elif folder in (EPOCHS, COMMITS, RUNS, METRICS):
            is_old = file.startswith(".") or (file.endswith(_SUFFIXES) and not _is_of(file, before))
        else:
            is_old = name in files or (draft is not None and draft[1] in files)
        if is_old:
            yield name


def _is_of(name: str, epoch: int) -> bool:
    """Whether a name begins with an epoch that is not before this one."""
    return name[:8].isdigit() and int(name[:8]) >= epoch


def _remove_empty_folders(output: Location) -> None:
    for name in (REQUESTS, EXPORTS["webdataset"], EXPORTS["dataset"]):
        for folder, _, _ in os.walk(output.at(name).path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
