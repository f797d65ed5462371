"""What Hugging Face's `save_to_disk` says is in a folder: its files (`state.json`) and splits (`dataset_dict.json`).

Such a folder also gathers what `map` and `filter` keep there for themselves, and splits of earlier days; these are no
rows of the data set. Anybody may have written the two files, so they choose among what was found and name no more.
"""

import json
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from star_batch.errors import InputError
from star_batch.inputs.rows import in_threads
from star_batch.storage.location import Location, failing_as
from star_batch.wording import printable, quoted

_STATE, _SPLITS = "state.json", "dataset_dict.json"
_MOST_BYTES = 16 * 2**20

logger = logging.getLogger(__name__)


def of_data_sets(root: Location, files: Mapping[str, str], places: Sequence[Location]) -> dict[str, str]:
    """Of the files (name -> path) those that their folders' own lists have, if there are any; files that are a place
    themselves stay.

    Raises:
        InputError: a list is broken, or has a file that is not there.
    """
    named = {place.path for place in places}
    folders = list(dict.fromkeys(map(os.path.dirname, files.values())))
    found = dict(zip(folders, in_threads(lambda folder: _Folder.of(root, folder), folders), strict=True))
    kept = {name: path for name, path in files.items() if path in named or found[os.path.dirname(path)].has(path)}
    for folder in folders:
        if any(f"{folder}/".startswith(f"{place.rstrip('/')}/") for place in named):
            found[folder].check_complete(files.values())
    if left := len(files) - len(kept):
        logger.info("%s: left out, as no part of the data sets: %s files", printable(root.shown), f"{left:,}")
    if not kept:
        raise InputError(f"{printable(root.shown)}: no file there is in a list of its data set ({_STATE}, {_SPLITS})")
    return kept


@dataclass(frozen=True, slots=True)
class _Folder:
    """What is said of a folder: the names of its files, and whether it is no split of what it is in."""

    path: str
    shown: str
    names: Collection[str] | None
    is_left_over: bool

    @classmethod
    def of(cls, root: Location, folder: str) -> "_Folder":
        place = root.at_path(folder)
        splits = _splits(root.at_path(os.path.dirname(folder)).at(_SPLITS))
        is_left_over = splits is not None and os.path.basename(folder) not in splits
        return cls(folder, printable(place.at(_STATE).shown), _names(place.at(_STATE)), is_left_over)

    def has(self, path: str) -> bool:
        return not self.is_left_over and (self.names is None or os.path.basename(path) in self.names)

    def check_complete(self, paths: Collection[str]) -> None:
        there = {os.path.basename(path) for path in paths if os.path.dirname(path) == self.path}
        missing = sorted(set(self.names or ()) - there)
        if missing and not self.is_left_over:
            raise InputError(f"{self.shown}: names {quoted(missing[0])}, which is not there")


def _names(place: Location) -> set[str] | None:
    state = _read(place)
    if state is None:
        return None
    files = state.get("_data_files")
    names = [each.get("filename") for each in files if isinstance(each, dict)] if isinstance(files, list) else []
    plain = {name for name in names if isinstance(name, str) and name and os.path.basename(name) == name}
    if not names or len(plain) < len(names):
        raise InputError(f"{printable(place.shown)}: does not list files of its folder, as save_to_disk does")
    if state.get("_indices_data_files"):
        raise InputError(
            f"{printable(place.shown)}: has an indices mapping, which is not read; save it again with flatten_indices()"
        )
    return plain


def _splits(place: Location) -> list[str] | None:
    found = _read(place)
    if found is None:
        return None
    splits = found.get("splits")
    if not isinstance(splits, list) or not all(isinstance(name, str) for name in splits):
        raise InputError(f"{printable(place.shown)}: does not list splits, as save_to_disk does")
    return splits


def _read(place: Location) -> dict[str, Any] | None:
    if place.is_local and not os.path.isfile(place.path):
        return None
    with failing_as(InputError, "read", place):
        try:
            data = place.patiently(lambda: place.fs.cat_file(place.path, start=0, end=_MOST_BYTES))
        except FileNotFoundError:
            return None
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{printable(place.shown)}: is not what save_to_disk writes")
    return found
