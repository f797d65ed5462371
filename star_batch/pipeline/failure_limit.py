"""How many rows may fail before a job is plainly wrong. Counts only; knows no Ray and no storage."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from star_batch.errors import TooManyFailed
from star_batch.records import Answer

MaxFailed: TypeAlias = int | float | None
"""A number of rows (int), a share of them (float), or no limit."""

MIN_ROWS = 100
"""A share is not judged on fewer rows while the job runs."""

_EXAMPLE_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed row."""

    id: str
    kind: str
    message: str


def failures(answers: Sequence[Answer]) -> tuple[Failure, ...]:
    return tuple(Failure(a.id, a.error_kind or "", a.error) for a in answers if a.error is not None)


@dataclass(slots=True)
class FailureLimit:
    """What has failed so far. A row that comes again after a crash counts once."""

    max_failed: MaxFailed
    _answered: int = 0
    _failed: set[str] = field(default_factory=set)
    _kinds: Counter[str] = field(default_factory=Counter)
    _examples: dict[str, str] = field(default_factory=dict)

    def add(self, answered: int, failed: Sequence[Failure]) -> None:
        if self.max_failed is None:
            return
        self._answered += answered
        for failure in failed:
            if failure.id not in self._failed:
                self._failed.add(failure.id)
                self._kinds[failure.kind] += 1
                self._examples.setdefault(failure.kind, f"{failure.id}: {failure.message}")

    def verdict(self) -> str | None:
        """Why the job should stop, if it should."""
        rows = self._answered + len(self._failed)
        if isinstance(self.max_failed, float) and rows < MIN_ROWS:
            return None
        return _verdict(self.max_failed, rows, self._kinds, self._examples)


def check_failed(
    max_failed: MaxFailed, rows: int, failed_by_type: Mapping[str, int], examples: Mapping[str, str]
) -> None:
    """The last word, over all rows of a job.

    Raises:
        TooManyFailed: more rows have failed than the job allows.
    """
    words = _verdict(max_failed, rows, failed_by_type, examples)
    if words is not None:
        raise TooManyFailed(words)


def _verdict(
    max_failed: MaxFailed, rows: int, failed_by_type: Mapping[str, int], examples: Mapping[str, str]
) -> str | None:
    failed = sum(failed_by_type.values())
    if max_failed is None or failed <= (max_failed * rows if isinstance(max_failed, float) else max_failed):
        return None
    kind = max(failed_by_type, key=lambda kind: failed_by_type[kind])
    allowed = f"{max_failed:.3g} of them" if isinstance(max_failed, float) else f"{max_failed:,}"
    example = f", such as {examples[kind][:_EXAMPLE_CHARACTERS]}" if kind in examples else ""
    return (
        f"{failed:,} of {rows:,} rows failed and {allowed} may (max_failed); "
        f"most often {kind} ({failed_by_type[kind]:,} of them{example}); what is committed stays"
    )
