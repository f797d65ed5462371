"""What a finished job says of itself: numbers, report, results in another form; and whether too many rows failed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from star_batch.commit.history import without_pauses
from star_batch.commit.markers import Commit
from star_batch.metrics import Summary
from star_batch.pipeline.failure_limit import MaxFailed, check_failed
from star_batch.report import Report
from star_batch.report.numbers import count, write_numbers
from star_batch.report.publish import publish
from star_batch.storage.crashes import crash_at
from star_batch.storage.location import Location

WriteResults: TypeAlias = Callable[[Location, Sequence[Commit]], None]
"""Writes the answers that count once more in another form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Called with the commits that count, before the output is complete."""

    output: Location
    fingerprint: str
    max_failed: MaxFailed = None
    write_results: WriteResults = lambda *_: None

    def __call__(self, commits: Sequence[Commit]) -> Summary:
        """Raises:
        OutputError: the output cannot be read or written.
        TooManyFailed: more rows have failed than the job allows.
        """
        numbers = count(self.output, commits)
        crash_at("after summary")
        write_numbers(self.output, numbers)
        publish(
            self.output,
            Report(
                place=self.output.shown,
                state="complete",
                summary=numbers.summary,
                notes=numbers.notes,
                pace=without_pauses(numbers.throughput),
            ),
            self.fingerprint,
        )
        self.write_results(self.output, commits)
        summary = numbers.summary
        check_failed(self.max_failed, summary.rows, summary.failed_by_type, numbers.notes.first_examples())
        return summary
