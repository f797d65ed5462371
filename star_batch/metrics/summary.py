"""A job in numbers, from its visible rows and its engines' counters. Pure functions; knows no file and no Ray."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from star_batch.metrics.counters import EngineStats


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A job in numbers. A mean or share over nothing is None.

    About all visible rows, also those that an earlier, interrupted run wrote:
    `rows` = `answered` + `failed`; `failed_by_type` counts failed rows by `error_type`.
    `num_references` rows came with a reference and `num_correct` of them match it; `accuracy` is their
    quotient: a failed row with a reference counts as wrong.
    `mean_visual_tokens`: visual tokens offered per answered row; `mean_kept_tokens`: kept, one mean per
    layer group (after the early stage, after each late stage).
    `finish_reasons` and `labels` count answered rows.
    `agreement`: of the labelled rows with a reference, the share whose label it is, by the name of the question;
    `confusion`: the same rows counted by question, reference and label. A single question is `ONE_QUESTION`.

    About all runs of the job, with what a run that was killed did in its last seconds left out:
    `wall_seconds`: from each run's start to its end, added up. `working_seconds`: of these, the time in which at least
    one engine was at work; loading models, waiting for machines or rows, and the end of a job are not in it.
    `images_per_second`: rows that the engines answered per second of `working_seconds`, tokens likewise. Where no
    engine was heard of, `working_seconds` is 0, and rates are rows answered per second of `wall_seconds`.
    `input_tokens` entered the language model (text and kept visual tokens), `output_tokens` were generated.
    `mean_layer_tokens`: visual tokens that a decoder layer sees, mean over layers and rows: the fair cost
    measure of a pruning method. `mean_prefill_rows`: rows per prefill batch. `padding_share`: key positions
    read in decoding that held nothing. `slot_occupancy`: decode slots that held a row, over steps.
    `stage_seconds`: busy time per stage, added up over all workers; stages overlap, so their sum may be
    above `wall_seconds`.
    """

    rows: int
    answered: int
    failed: int
    failed_by_type: dict[str, int] = field(default_factory=dict)
    num_references: int = 0
    num_correct: int = 0
    accuracy: float | None = None
    mean_visual_tokens: float | None = None
    mean_kept_tokens: tuple[float, ...] = ()
    finish_reasons: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
    confusion: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    wall_seconds: float = 0.0
    working_seconds: float = 0.0
    images_per_second: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_per_second: float = 0.0
    output_tokens_per_second: float = 0.0
    mean_layer_tokens: float | None = None
    mean_prefill_rows: float | None = None
    padding_share: float | None = None
    slot_occupancy: float | None = None
    stage_seconds: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: dicts, lists, numbers, strings and None."""
        return asdict(self) | {"mean_kept_tokens": list(self.mean_kept_tokens)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Summary":
        """What `as_dict` gave; keys of another version are left out."""
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        return cls(**known | {"mean_kept_tokens": tuple(values.get("mean_kept_tokens", ()))})


MAX_LABELS = 1000
"""Distinct labels that are counted by name; rows with further ones are counted as `OTHER_LABELS`."""

OTHER_LABELS = "(other)"

ONE_QUESTION = "(one)"

MAX_PAIRS = 100_000
"""Pairs of a reference and a label that are counted by name; in further ones the reference is `OTHER_LABELS`."""


def summarise(
    rows: Iterable[pa.RecordBatch],
    stats: EngineStats,
    *,
    wall_seconds: float,
    working_seconds: float = 0.0,
    fetch_seconds: float = 0.0,
    decode_seconds: float = 0.0,
    write_seconds: float = 0.0,
) -> Summary:
    """A job's numbers, from its visible rows (batches of `ANSWER_SCHEMA`, read once) and its engines.

    `stats` is the sum over all engines, `wall_seconds` the time that they took, and `working_seconds` that in which one
    of them was at work, or 0 if nobody knows. The other seconds are
    busy time outside the engines, summed over workers: fetching images, decoding images, writing answers.
    """
    tally = _Tally()
    for batch in rows:
        tally.add(batch)
    stages = {
        "fetch": fetch_seconds,
        "decode_image": decode_seconds + stats.decode_image_seconds,
        "vision": stats.vision_seconds,
        "select": stats.select_seconds,
        "prefill": stats.prefill_seconds,
        "decode": stats.decode_seconds,
        "write": write_seconds,
    }
    seconds = working_seconds or wall_seconds
    return Summary(
        **tally.results(),
        wall_seconds=wall_seconds,
        working_seconds=working_seconds,
        images_per_second=_ratio(stats.rows_answered if working_seconds else tally.answered, seconds) or 0.0,
        input_tokens=stats.prefill_tokens,
        output_tokens=stats.output_tokens,
        input_tokens_per_second=_ratio(stats.prefill_tokens, seconds) or 0.0,
        output_tokens_per_second=_ratio(stats.output_tokens, seconds) or 0.0,
        mean_layer_tokens=_ratio(stats.layer_tokens, stats.row_layers),
        mean_prefill_rows=_ratio(stats.prefill_rows, stats.prefill_batches),
        padding_share=_ratio(stats.padding_tokens, stats.padded_tokens),
        slot_occupancy=_ratio(stats.decode_rows, stats.decode_slots),
        stage_seconds=stages,
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


@dataclass(slots=True)
class _Tally:
    """Running counts over batches of rows: memory does not grow with the rows."""

    rows: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    finish_reasons: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    num_references: int = 0
    num_correct: int = 0
    visual_tokens: int = 0
    visual_rows: int = 0
    kept_tokens: Counter[int] = field(default_factory=Counter)
    kept_rows: Counter[int] = field(default_factory=Counter)

    @property
    def answered(self) -> int:
        return self.rows - self.failed.total()

    def add(self, batch: pa.RecordBatch) -> None:
        self.rows += batch.num_rows
        self.failed.update(_counts(batch.column("error_type")))
        self.finish_reasons.update(_counts(batch.column("finish_reason")))
        self._add_labels(_counts(batch.column("label")))
        self._add_pairs(batch)
        is_correct = batch.column("is_correct")
        self.num_references += _num_valid(is_correct)
        self.num_correct += pc.sum(is_correct).as_py() or 0
        num_visual = batch.column("num_visual")
        self.visual_tokens += pc.sum(num_visual).as_py() or 0
        self.visual_rows += _num_valid(num_visual)
        self._add_kept(batch.column("num_kept"))

    def _add_labels(self, counts: Mapping[str, int]) -> None:
        for label, count in counts.items():
            is_named = label in self.labels or len(self.labels) < MAX_LABELS
            self.labels[label if is_named else OTHER_LABELS] += count

    def _add_pairs(self, batch: pa.RecordBatch) -> None:
        columns = ["question_name", "reference", "label"]
        labelled = pc.and_(pc.is_valid(batch["reference"]), pc.is_valid(batch["label"]))
        rows = pa.Table.from_batches([batch.select(columns)]).filter(labelled)
        for row in rows.group_by(columns).aggregate([([], "count_all")]).to_pylist():
            pair = row["question_name"] or ONE_QUESTION, row["reference"], row["label"]
            is_named = pair in self.pairs or len(self.pairs) < MAX_PAIRS
            self.pairs[pair if is_named else (pair[0], OTHER_LABELS, pair[2])] += row["count_all"]

    def _add_kept(self, column: pa.ListArray) -> None:
        groups, tokens = _list_positions(column), _to_numpy(pc.list_flatten(column))
        for group in np.unique(groups).tolist():
            self.kept_tokens[group] += int(tokens[groups == group].sum())
            self.kept_rows[group] += int((groups == group).sum())

    def results(self) -> dict[str, Any]:
        confusion = _confusion(self.pairs)
        return {
            "rows": self.rows,
            "answered": self.answered,
            "failed": self.failed.total(),
            "failed_by_type": dict(self.failed.most_common()),
            "num_references": self.num_references,
            "num_correct": self.num_correct,
            "accuracy": _ratio(self.num_correct, self.num_references),
            "mean_visual_tokens": _ratio(self.visual_tokens, self.visual_rows),
            "mean_kept_tokens": tuple(
                self.kept_tokens[group] / self.kept_rows[group] for group in sorted(self.kept_rows)
            ),
            "finish_reasons": dict(self.finish_reasons.most_common()),
            "labels": dict(self.labels.most_common()),
            "agreement": {question: _agreement(table) for question, table in confusion.items()},
            "confusion": confusion,
        }


def _counts(column: pa.Array) -> dict[str, int]:
    pairs = pc.value_counts(column.drop_null())
    return dict(zip(pairs.field("values").to_pylist(), pairs.field("counts").to_pylist(), strict=True))


def _confusion(pairs: Mapping[tuple[str, str, str], int]) -> dict[str, dict[str, dict[str, int]]]:
    """Counts by question, reference and label; a reference that is a label but for its case is that label."""
    names = {(question, label.strip().casefold()): label for question, _, label in pairs}
    tables: dict[str, dict[str, dict[str, int]]] = {}
    for (question, reference, label), count in sorted(pairs.items()):
        name = names.get((question, reference.strip().casefold()), reference)
        row = tables.setdefault(question, {}).setdefault(name, {})
        row[label] = row.get(label, 0) + count
    return tables


def _agreement(table: Mapping[str, Mapping[str, int]]) -> float:
    agreed = sum(row.get(reference, 0) for reference, row in table.items())
    return agreed / sum(sum(row.values()) for row in table.values())


def _num_valid(column: pa.Array) -> int:
    return len(column) - int(column.null_count)


def _list_positions(column: pa.ListArray) -> NDArray[np.int64]:
    """For each element of all the lists, its place in its own list."""
    lengths = _to_numpy(pc.list_value_length(column.drop_null()))
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(starts, lengths)


def _to_numpy(column: pa.Array) -> NDArray[np.int64]:
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.int64)
