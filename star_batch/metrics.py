"""Counters of an engine, how far a job is, and rows made into a summary: plain data and pure functions.

Knows no clock, no file, no Ray, and no exporter: the names under which Prometheus sees all this stand in
`prometheus`.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import zip_longest
from operator import add, sub
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


@dataclass(slots=True)
class EngineStats:
    """What one engine has done so far. Every field adds up, over time and over engines.

    Seconds are wall time spent in a stage; `decode_image_seconds` only where the engine itself decodes.
    `vision_images` went through the encoder: fewer than rows where rows share an image.
    `visual_tokens` are offered by images, `early_tokens` kept by the early stage and `late_tokens` by the
    last late one. `prompt_tokens` are the prompts' text, `prefill_tokens` all tokens that enter the
    language model: text and what the early stage kept; `shared_tokens` of them came with keys and values that
    other rows' tokens had made, and were not run again. `layer_tokens` adds up the *visual* tokens that
    each decoder layer sees in prefill, over layers and rows, and `row_layers` the layers that each row
    went through, so that their quotient is the layer-mean visual length whatever models are summed.
    `decode_slots` adds up the slots that were open at each decode step and `decode_rows` those that
    held a row; `padded_tokens` adds up the key positions that decode attention read, and
    `padding_tokens` those of them that held nothing.
    """

    rows_answered: int = 0
    rows_failed: int = 0
    visual_tokens: int = 0
    early_tokens: int = 0
    late_tokens: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    vision_batches: int = 0
    vision_images: int = 0
    prefill_batches: int = 0
    prefill_rows: int = 0
    prefill_tokens: int = 0
    shared_tokens: int = 0
    layer_tokens: int = 0
    row_layers: int = 0
    decode_steps: int = 0
    decode_rows: int = 0
    decode_slots: int = 0
    padded_tokens: int = 0
    padding_tokens: int = 0
    decode_image_seconds: float = 0.0
    vision_seconds: float = 0.0
    select_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    def __add__(self, other: "EngineStats") -> "EngineStats":
        return EngineStats(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __sub__(self, other: "EngineStats") -> "EngineStats":
        return EngineStats(**{f.name: getattr(self, f.name) - getattr(other, f.name) for f in fields(self)})


@dataclass(slots=True)
class Histogram:
    """Values counted by size: `counts[i]` of them are above `bounds[i - 1]` and not above `bounds[i]`, the last ones
    above all bounds; `total` is their sum. Adds up, over time and over engines."""

    bounds: tuple[float, ...]
    counts: list[int]
    total: float = 0.0

    @classmethod
    def over(cls, bounds: tuple[float, ...]) -> "Histogram":
        return cls(bounds, [0] * (len(bounds) + 1))

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def __add__(self, other: "Histogram") -> "Histogram":
        return Histogram(self.bounds, list(map(add, self.counts, other.counts)), self.total + other.total)

    def __sub__(self, other: "Histogram") -> "Histogram":
        return Histogram(self.bounds, list(map(sub, self.counts, other.counts)), self.total - other.total)


Phase: TypeAlias = Literal["prefill", "decode"]

BATCH_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def _by_phase(bounds: tuple[float, ...]) -> dict[Phase, Histogram]:
    return {"prefill": Histogram.over(bounds), "decode": Histogram.over(bounds)}


@dataclass(slots=True, kw_only=True)
class Readings:
    """What an engine shows beside its counters. Adds up over engines.

    At this moment: `rows_waiting` were handed in and have not begun, `rows_running` hold a decode slot, and
    `pages_in_use` of the `pages` of the KV cache are taken, one number per layer group.
    Since the start: `idle_seconds` in which there was nothing to do, and for each step of a phase the rows in
    it and the seconds it took.
    """

    rows_waiting: int = 0
    rows_running: int = 0
    pages_in_use: tuple[int, ...] = ()
    pages: tuple[int, ...] = ()
    idle_seconds: float = 0.0
    batch_rows: dict[Phase, Histogram] = field(default_factory=lambda: _by_phase(BATCH_ROWS))
    step_seconds: dict[Phase, Histogram] = field(default_factory=lambda: _by_phase(STEP_SECONDS))

    def observe(self, phase: Phase, *, rows: int, seconds: float) -> None:
        """A step was run."""
        self.batch_rows[phase].observe(rows)
        self.step_seconds[phase].observe(seconds)

    def at_the_end(self) -> "Readings":
        """What is left of it when its engine is gone: nothing waits and nothing is held."""
        return replace(self, rows_waiting=0, rows_running=0, pages_in_use=(), pages=())

    def __add__(self, other: "Readings") -> "Readings":
        return Readings(
            rows_waiting=self.rows_waiting + other.rows_waiting,
            rows_running=self.rows_running + other.rows_running,
            pages_in_use=_added(self.pages_in_use, other.pages_in_use),
            pages=_added(self.pages, other.pages),
            idle_seconds=self.idle_seconds + other.idle_seconds,
            batch_rows={phase: rows + other.batch_rows[phase] for phase, rows in self.batch_rows.items()},
            step_seconds={phase: times + other.step_seconds[phase] for phase, times in self.step_seconds.items()},
        )


def _added(some: tuple[int, ...], others: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(sum, zip_longest(some, others, fillvalue=0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One engine at one moment, or `engines` of them together; `errors` counts failed rows by `error_type`.

    `stats` and `errors` include rows that failed before they came to an engine.
    """

    engines: int = 0
    stats: EngineStats = field(default_factory=EngineStats)
    readings: Readings = field(default_factory=Readings)
    errors: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: "Snapshot") -> "Snapshot":
        return Snapshot(
            engines=self.engines + other.engines,
            stats=self.stats + other.stats,
            readings=self.readings + other.readings,
            errors=self.errors + other.errors,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is. `rows_done` includes failed rows and what an earlier run had committed.

    `images_per_second` is 0 until the first row of this run is done; `engines` is what its engines have done.
    """

    rows_done: int
    rows_total: int
    failed: int
    images_per_second: float
    seconds_left: float | None
    engines: Snapshot = field(default_factory=Snapshot)

    @classmethod
    def at(cls, engines: Snapshot, *, seconds: float, before: int, total: int) -> "Progress":
        """After `seconds` in which the engines' rows were added to those of `before`."""
        failed = engines.stats.rows_failed
        done = engines.stats.rows_answered + failed
        rate = done / seconds if seconds > 0 else 0.0
        return cls(
            rows_done=before + done,
            rows_total=total,
            failed=failed,
            images_per_second=rate,
            seconds_left=max(0, total - before - done) / rate if rate else None,
            engines=engines,
        )

    @property
    def rows_left(self) -> int:
        """Rows that were answered again after a crash are done twice, but no row is left twice."""
        return max(0, self.rows_total - self.rows_done)


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
    `images_per_second`: rows answered per second of `wall_seconds`, the time that a run was at work.
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
    fetch_seconds: float = 0.0,
    decode_seconds: float = 0.0,
    write_seconds: float = 0.0,
) -> Summary:
    """A job's numbers, from its visible rows (batches of `ANSWER_SCHEMA`, read once) and its engines.

    `stats` is the sum over all engines and `wall_seconds` the time that they took. The other seconds are
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
    return Summary(
        **tally.results(),
        wall_seconds=wall_seconds,
        images_per_second=_ratio(tally.answered, wall_seconds) or 0.0,
        input_tokens=stats.prefill_tokens,
        output_tokens=stats.output_tokens,
        input_tokens_per_second=_ratio(stats.prefill_tokens, wall_seconds) or 0.0,
        output_tokens_per_second=_ratio(stats.output_tokens, wall_seconds) or 0.0,
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
