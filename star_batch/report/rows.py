"""What the page says about the rows themselves, counted while they pass: failures by type, lengths of the texts.

Memory does not grow with the rows. Knows no file and no picture.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from star_batch.report.labels import Uncertain, count_margins, least_certain
from star_batch.wording import printable

MAX_EXAMPLES = 3
MAX_TYPES = 50
_MAX_CHARACTERS = 500


class Failed(NamedTuple):
    """One failed row, as it may be shown."""

    id: str
    error: str


@dataclass(slots=True)
class RowNotes:
    """Up to `MAX_EXAMPLES` failed rows of each type, and how many answered rows had texts of which length in tokens.

    Of labels: how many are how far above the next (`margins`, by number of the bin), and the least certain rows.
    """

    examples: dict[str, list[Failed]] = field(default_factory=dict)
    prompt_tokens: Counter[int] = field(default_factory=Counter)
    output_tokens: Counter[int] = field(default_factory=Counter)
    margins: Counter[int] = field(default_factory=Counter)
    uncertain: list[Uncertain] = field(default_factory=list)

    def noting(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The batches (of the answers' schema) as they are."""
        for batch in batches:
            self._note_failed(batch.filter(batch.column("error").is_valid()))
            self.prompt_tokens.update(_counts(batch.column("num_prompt")))
            self.output_tokens.update(_counts(batch.column("num_output")))
            if batch.column("label").null_count < batch.num_rows:
                self.margins.update(count_margins(batch))
                self.uncertain = least_certain(self.uncertain, batch)
            yield batch

    def first_examples(self) -> dict[str, str]:
        """One line for each type of failure."""
        return {kind: f"{rows[0].id}: {rows[0].error}" for kind, rows in self.examples.items()}

    def _note_failed(self, failed: pa.RecordBatch) -> None:
        for kind in pc.unique(failed.column("error_type")).to_pylist():
            known = self.examples.setdefault(kind, []) if len(self.examples) < MAX_TYPES else []
            if len(known) < MAX_EXAMPLES:
                alike = failed.filter(pc.equal(failed.column("error_type"), kind)).slice(0, MAX_EXAMPLES - len(known))
                known += _failed(alike)


def _failed(rows: pa.RecordBatch) -> Sequence[Failed]:
    return [
        Failed(printable(row["id"]), printable(row["error"], _MAX_CHARACTERS))
        for row in rows.select(["id", "error"]).to_pylist()
    ]


def _counts(column: pa.Array) -> dict[int, int]:
    return {pair["values"]: pair["counts"] for pair in pc.value_counts(column.drop_null()).to_pylist()}
