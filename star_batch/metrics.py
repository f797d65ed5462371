"""Counters of an engine, and rows made into a summary: pure functions. Knows no clock, no file, no Ray."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

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
    language model: text and what the early stage kept. `layer_tokens` adds up the *visual* tokens that
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

    About this run alone:
    `images_per_second`: rows answered in this run per second of `wall_seconds`.
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


def summarise(
    rows: Iterable[pa.RecordBatch],
    stats: EngineStats,
    *,
    wall_seconds: float,
    fetch_seconds: float = 0.0,
    decode_seconds: float = 0.0,
    write_seconds: float = 0.0,
    answered_before: int = 0,
) -> Summary:
    """A job's numbers, from its visible rows (batches of `ANSWER_SCHEMA`, read once) and its engines.

    `stats` is the sum over the engines of this run and `wall_seconds` its duration. The other seconds are
    busy time outside the engines, summed over workers: fetching images, decoding images, writing answers.
    `answered_before` of the answered rows were there when this run began; they count in no rate.
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
        images_per_second=_ratio(tally.answered - answered_before, wall_seconds) or 0.0,
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

    def _add_kept(self, column: pa.ListArray) -> None:
        groups, tokens = _list_positions(column), _to_numpy(pc.list_flatten(column))
        for group in np.unique(groups).tolist():
            self.kept_tokens[group] += int(tokens[groups == group].sum())
            self.kept_rows[group] += int((groups == group).sum())

    def results(self) -> dict[str, Any]:
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
        }


def _counts(column: pa.Array) -> dict[str, int]:
    pairs = pc.value_counts(column.drop_null())
    return dict(zip(pairs.field("values").to_pylist(), pairs.field("counts").to_pylist(), strict=True))


def _num_valid(column: pa.Array) -> int:
    return len(column) - int(column.null_count)


def _list_positions(column: pa.ListArray) -> NDArray[np.int64]:
    """For each element of all the lists, its place in its own list."""
    lengths = _to_numpy(pc.list_value_length(column.drop_null()))
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(starts, lengths)


def _to_numpy(column: pa.Array) -> NDArray[np.int64]:
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.int64)


Samples = Mapping[str, float | None] | float | None


@dataclass(frozen=True, slots=True)
class Metric:
    """One Prometheus metric and how a summary fills it; `label` names the label that a mapping's keys get."""

    name: str
    help: str
    read: Callable[[Summary], Samples]
    label: str = ""

    @property
    def is_counter(self) -> bool:
        return self.name.endswith("_total")


def _outcomes(summary: Summary) -> Samples:
    return {"answered": summary.answered, "failed": summary.failed}


def _tokens(summary: Summary) -> Samples:
    return {"in": summary.input_tokens, "out": summary.output_tokens}


def _token_rates(summary: Summary) -> Samples:
    return {"in": summary.input_tokens_per_second, "out": summary.output_tokens_per_second}


def _visual_tokens(summary: Summary) -> Samples:
    kept = {f"kept_{group}": mean for group, mean in enumerate(summary.mean_kept_tokens)}
    return {"offered": summary.mean_visual_tokens} | kept


METRICS = (
    Metric("star_batch_rows_total", "Visible rows", _outcomes, "outcome"),
    Metric("star_batch_failed_rows_total", "Failed rows by error type", lambda s: s.failed_by_type, "error_type"),
    Metric("star_batch_finished_rows_total", "Why decoding ended", lambda s: s.finish_reasons, "reason"),
    Metric("star_batch_labels_total", "Answered rows by label", lambda s: s.labels, "label"),
    Metric("star_batch_references_total", "Rows that came with a reference", lambda s: s.num_references),
    Metric("star_batch_accuracy_ratio", "Share of references matched; failed is wrong", lambda s: s.accuracy),
    Metric("star_batch_wall_seconds", "Duration of the last run", lambda s: s.wall_seconds),
    Metric("star_batch_stage_seconds", "Busy time, all workers together", lambda s: s.stage_seconds, "stage"),
    Metric("star_batch_images_per_second", "Rows answered per second", lambda s: s.images_per_second),
    Metric("star_batch_tokens", "Tokens of the last run", _tokens, "direction"),
    Metric("star_batch_tokens_per_second", "Tokens per second", _token_rates, "direction"),
    Metric("star_batch_visual_tokens_mean", "Per row: offered, kept", _visual_tokens, "stage"),
    Metric("star_batch_layer_tokens_mean", "Visual tokens per layer and row", lambda s: s.mean_layer_tokens),
    Metric("star_batch_prefill_rows_mean", "Rows per prefill batch", lambda s: s.mean_prefill_rows),
    Metric("star_batch_padding_ratio", "Key positions read that held nothing", lambda s: s.padding_share),
    Metric("star_batch_slot_occupancy_ratio", "Decode slots that held a row", lambda s: s.slot_occupancy),
)
"""Every metric name of the project, in the order in which they are written."""


class _SummaryCollector:
    def __init__(self, summary: Summary) -> None:
        self.summary = summary

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for metric in METRICS:
            kind = CounterMetricFamily if metric.is_counter else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=[metric.label] if metric.label else [])
            for keys, value in _samples(metric.read(self.summary)):
                family.add_metric(keys, value)
            yield family


def _samples(read: Samples) -> Iterator[tuple[list[str], float]]:
    pairs = [([key], value) for key, value in read.items()] if isinstance(read, Mapping) else [([], read)]
    return ((keys, value) for keys, value in pairs if value is not None)


def to_prometheus(summary: Summary) -> str:
    """The summary in Prometheus' text format, as the node exporter's textfile collector takes it."""
    # Imported here because the engine needs the counters above, and no exporter.
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_SummaryCollector(summary))
    return generate_latest(registry).decode("utf-8")
