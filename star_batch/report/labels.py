"""What the page says about labels: the least certain rows, how far labels are above the next, and confusion tables.

Knows no file and no page; memory does not grow with the rows.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from star_batch.wording import printable

NUM_BINS = 20
MAX_UNCERTAIN = 20
_MAX_LABELS = 20
_LONGEST = 40
_COLUMNS = ["id", "label", "label_probability", "label_margin", "label_probabilities", "reference"]


class Uncertain(NamedTuple):
    """A labelled row, as it may be shown; `margin` is how far its label is above `next`, the second choice."""

    margin: float
    id: str
    label: str
    probability: float
    next: str
    reference: str | None


def count_margins(batch: pa.RecordBatch) -> Counter[int]:
    """How many labelled rows have a margin in which of `NUM_BINS` equal parts from 0 to 1."""
    margins = pc.multiply(_labelled(batch)["label_margin"], float(NUM_BINS))
    places = pc.min_element_wise(pc.max_element_wise(pc.floor(margins), 0.0), NUM_BINS - 1.0).cast(pa.int64())
    return Counter({pair["values"]: pair["counts"] for pair in pc.value_counts(places).to_pylist()})


def least_certain(known: Sequence[Uncertain], batch: pa.RecordBatch) -> list[Uncertain]:
    """Of these and the batch's rows, those with the smallest margins, the smallest first."""
    rows = _labelled(batch)
    order = pc.sort_indices(rows, sort_keys=[("label_margin", "ascending"), ("id", "ascending")])
    found = [_uncertain(row) for row in rows.take(order[:MAX_UNCERTAIN]).to_pylist()]
    return sorted([*known, *found], key=lambda row: (row.margin, row.id))[:MAX_UNCERTAIN]


def _labelled(batch: pa.RecordBatch) -> pa.Table:
    rows = pa.Table.from_batches([batch.select(_COLUMNS)])
    is_sound = pc.and_(pc.is_finite(rows["label_margin"]), pc.is_finite(rows["label_probability"]))
    return rows.filter(pc.and_(is_sound, pc.is_valid(rows["label"])))


def _uncertain(row: Mapping[str, object]) -> Uncertain:
    return Uncertain(
        margin=row["label_margin"],  # type: ignore[arg-type]
        id=printable(row["id"]),
        label=_short(row["label"]),
        probability=row["label_probability"],  # type: ignore[arg-type]
        next=_short(_second(row)),
        reference=None if row["reference"] is None else _short(row["reference"]),
    )


def _second(row: Mapping[str, object]) -> object:
    """The likeliest of the labels that it did not get."""
    pairs = row["label_probabilities"]
    others = [pair for pair in pairs if pair and pair["label"] != row["label"]] if isinstance(pairs, list) else []
    return max(others, key=lambda pair: pair["probability"] or 0.0)["label"] if others else ""


def _short(text: object) -> str:
    return printable(text, _LONGEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """One question's table: a row for each reference, a column for each label; `more` references have none."""

    question: str
    agreement: float
    labels: Sequence[str]
    rows: Sequence[tuple[str, Sequence[int], int | None]]
    more: int


def confusion_of(question: str, table: Mapping[str, Mapping[str, int]], agreement: float) -> Confusion:
    """The commonest labels and references; with each row the column, if any, in which the two are the same."""
    counts: Counter[str] = Counter()
    for row in table.values():
        counts.update(row)
    labels = sorted(name for name, _ in counts.most_common(_MAX_LABELS))
    commonest = sorted(table, key=lambda reference: -sum(table[reference].values()))[:_MAX_LABELS]
    return Confusion(
        question=question,
        agreement=agreement,
        labels=[_short(label) for label in labels],
        rows=[
            (
                _short(reference),
                [table[reference].get(label, 0) for label in labels],
                labels.index(reference) if reference in labels else None,
            )
            for reference in sorted(commonest)
        ],
        more=len(table) - len(commonest),
    )
