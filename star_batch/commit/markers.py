"""Markers: one small immutable file per part, which says that the part counts and which ids are in it.

A marker is created only if it is not there yet: of several attempts at the same rows one wins, whatever dies or is
repeated when. Knows no Ray, and of a row only its id.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Self

from star_batch.commit.digests import DIGEST_BYTES
from star_batch.commit.layout import ANSWERS, is_count, is_finite, part_epoch
from star_batch.errors import LeaseLost, OutputError
from star_batch.storage.location import Location


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What one marker says: this part counts, and these ids are in it.

    `ids` are digests in the order of the part's rows; `at` is when, in seconds since 1970. `size` is the part's in
    bytes; None in markers of before it was written down. One that cannot be true is a `ValueError` at birth: most of
    them are read from files.
    """

    file: str
    attempt: str
    fingerprint: str
    rows: int
    answered: int
    failed: int
    ids: bytes
    seconds: float
    at: float
    size: int | None = None

    def __post_init__(self) -> None:
        if not (self._is_typed() and is_part(self.file)):
            raise ValueError("no commit")
        if not self.rows == self.answered + self.failed == len(self.ids) / DIGEST_BYTES:
            raise ValueError("counts that do not match")

    def _is_typed(self) -> bool:
        texts = (self.file, self.attempt, self.fingerprint)
        counts = (self.rows, self.answered, self.failed, self.size or 0)
        return (
            all(isinstance(text, str) for text in texts)
            and isinstance(self.ids, bytes)
            and all(is_count(count) for count in counts)
            and is_finite(self.seconds)
            and is_finite(self.at)
        )

    def to_json(self) -> bytes:
        return json.dumps(asdict(self) | {"ids": b64encode(self.ids).decode()}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        values = json.loads(data)
        return cls(**{**values, "ids": b64decode(values["ids"], validate=True)})


def create_marker(marker: Location, commit: Commit) -> bool:
    """False if another attempt's is there.

    Raises:
        LeaseLost: there was one, and a later epoch has tidied it up meanwhile.
        OutputError: the one there is damaged.
    """
    try:
        marker.create(commit.to_json())
    except FileExistsError:
        # A rival's, or our own: a first try may have succeeded and its reply been lost.
        try:
            return load_marker(marker).attempt == commit.attempt
        except FileNotFoundError:
            raise LeaseLost(f"{marker.shown} is gone: another run has taken over") from None
    return True


def load_marker(marker: Location) -> Commit:
    """What a marker says.

    Raises:
        FileNotFoundError: there is none.
        OutputError: it is damaged.
    """
    try:
        return Commit.from_json(marker.read_bytes())
    except (ValueError, TypeError, KeyError, RecursionError):
        raise OutputError(f"{marker.shown} is damaged") from None


def is_part(file: str) -> bool:
    """Whether this is where a part lies, below the output."""
    folder, _, name = file.partition("/")
    return folder == ANSWERS and name.endswith(".parquet") and not name.startswith(".") and part_epoch(name) is not None


def strays(output: Location, commits: Iterable[Commit]) -> list[str]:
    """Parquet files among the answers that do not count: what a reader that lists the folder must not find."""
    named = {commit.file for commit in commits}
    names = output.at(ANSWERS).files()
    return [name for name in names if name.endswith(".parquet") and f"{ANSWERS}/{name}" not in named]
