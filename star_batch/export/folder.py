"""A folder of an export: it holds nothing else, and nothing that an earlier export has left. Knows no form."""

import re

from star_batch.commit.layout import delete
from star_batch.errors import OutputError
from star_batch.storage.location import Location

_DRAFT = re.compile(r"(.*/)?\.[^/]+\.[0-9a-f]{32}")


def empty(folder: Location, ours: re.Pattern[str]) -> None:
    """Delete what an earlier export has written, whose names are `ours`.

    Raises:
        OutputError: there is something else, which whoever reads the folder would read as well.
    """
    names = folder.files()
    if others := [name for name in names if not (ours.fullmatch(name) or _DRAFT.fullmatch(name))]:
        raise OutputError(f"{folder.at(others[0]).shown} is no file of an export: choose an empty folder")
    delete(folder.at(name) for name in names)
