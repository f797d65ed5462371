"""Every Prometheus name of the project, and how it is filled: the one place of names.

`ENGINE` tells of running engines; Ray exports it for each of them, with `ray_` before the names, and the
driver for all of them together. `JOB` tells how far the job is, `SUMMARY` of a finished output, `OUTCOME` how
the last run ended. A label never holds an id. Knows no clock, no file, no Ray.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from star_batch.metrics import BATCH_ROWS, STEP_SECONDS, EngineSnapshot, Histogram, Progress, Summary

T = TypeVar("T")
Value: TypeAlias = float | Histogram | None
Kind: TypeAlias = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric(Generic[T]):
    """A name and how it is read from a `T`; `label` names the label that a mapping's keys get.

    What ends with `_total` is a counter, what has `bounds` a histogram, everything else a gauge. A value that
    is None is left out.
    """

    name: str
    help: str
    read: Callable[[T], Mapping[Any, Any] | Value]
    label: str = ""
    bounds: tuple[float, ...] = ()

    @property
    def kind(self) -> Kind:
        if self.bounds:
            return "histogram"
        return "counter" if self.name.endswith("_total") else "gauge"

    def samples(self, state: T) -> Iterator[tuple[dict[str, str], Any]]:
        """Labels and value of each sample."""
        read = self.read(state)
        values = read if isinstance(read, Mapping) else {"": read}
        for key, value in values.items():
            if value is not None:
                yield ({self.label: key} if self.label else {}), value


def _outcomes(snapshot: EngineSnapshot) -> Mapping[str, float]:
    return {"answered": snapshot.stats.rows_answered, "failed": snapshot.stats.rows_failed}


def _stage_seconds(snapshot: EngineSnapshot) -> Mapping[str, float]:
    stages = ("vision", "select", "prefill", "decode")
    return {stage: getattr(snapshot.stats, f"{stage}_seconds") for stage in stages}


def _by_group(pages: Sequence[int]) -> Mapping[str, float]:
    return {str(group): count for group, count in enumerate(pages)}


def _kept_by_stage(snapshot: EngineSnapshot) -> Mapping[str, float]:
    """`late`, or `late_1`, `late_2` ... where a method cuts several times; without a late cut it is what was early."""
    early, *late = snapshot.readings.kept_tokens or (0,)
    names = ["late"] if len(late) < 2 else [f"late_{number}" for number in range(1, len(late) + 1)]
    return {"offered": snapshot.stats.visual_tokens, "early": early} | dict(zip(names, late or [early], strict=True))


def _visual_tokens(summary: Summary) -> Mapping[str, Value]:
    kept = {f"kept_{group}": mean for group, mean in enumerate(summary.mean_kept_tokens)}
    return {"offered": summary.mean_visual_tokens} | kept


ENGINE: Sequence[Metric[EngineSnapshot]] = (
    Metric("star_batch_rows_total", "Rows done; again after a crash counts again", _outcomes, "outcome"),
    Metric("star_batch_errors_total", "Failed rows by error type", lambda s: s.errors, "error_type"),
    Metric(
        "star_batch_tokens_total",
        "Tokens into the language model (text and kept visual ones) and out of it",
        lambda s: {"in": s.stats.prefill_tokens, "out": s.stats.output_tokens},
        "direction",
    ),
    Metric(
        "star_batch_visual_tokens_total",
        "Visual tokens offered by images, kept by the early stage, kept by each late one",
        _kept_by_stage,
        "stage",
    ),
    Metric("star_batch_stage_seconds_total", "Busy time of engines by stage", _stage_seconds, "stage"),
    Metric(
        "star_batch_idle_seconds_total",
        "Time in which engines had nothing to do: the GPU waits",
        lambda s: s.readings.idle_seconds,
    ),
    Metric(
        "star_batch_batch_rows",
        "Rows in a step",
        lambda s: s.readings.batch_rows,
        "phase",
        bounds=BATCH_ROWS,
    ),
    Metric(
        "star_batch_step_seconds",
        "Duration of a step",
        lambda s: s.readings.step_seconds,
        "phase",
        bounds=STEP_SECONDS,
    ),
    Metric("star_batch_rows_waiting", "Rows in engines that have not begun", lambda s: s.readings.rows_waiting),
    Metric("star_batch_rows_running", "Rows that hold a decode slot", lambda s: s.readings.rows_running),
    Metric(
        "star_batch_pages_in_use",
        "Pages of the KV cache that are taken, by layer group",
        lambda s: _by_group(s.readings.pages_in_use),
        "group",
    ),
    Metric(
        "star_batch_pages",
        "Pages of the KV cache, by layer group",
        lambda s: _by_group(s.readings.pages),
        "group",
    ),
)


JOB: Sequence[Metric[Progress]] = (
    Metric("star_batch_job_rows", "Rows of the job", lambda p: p.rows_total),
    Metric("star_batch_job_rows_left", "Rows that have no answer yet", lambda p: p.rows_left),
    Metric("star_batch_job_images_per_second", "Rows per second since the first one", lambda p: p.images_per_second),
    Metric("star_batch_job_left_seconds", "Time that is left at that rate", lambda p: p.seconds_left),
    Metric("star_batch_job_engines", "Engines that are up", lambda p: p.engines.engines),
)


SUMMARY: Sequence[Metric[Summary]] = (
    Metric(
        "star_batch_output_rows",
        "Rows of the output",
        lambda s: {"answered": s.answered, "failed": s.failed},
        "outcome",
    ),
    Metric("star_batch_output_errors", "Failed rows by error type", lambda s: s.failed_by_type, "error_type"),
    Metric("star_batch_output_finishes", "Answered rows by why decoding ended", lambda s: s.finish_reasons, "reason"),
    Metric("star_batch_output_labels", "Answered rows by label", lambda s: s.labels, "label"),
    Metric("star_batch_output_references", "Rows that came with a reference", lambda s: s.num_references),
    Metric("star_batch_output_accuracy_ratio", "Share of references matched; failed is wrong", lambda s: s.accuracy),
    Metric("star_batch_output_agreement_ratio", "Labels that are the reference", lambda s: s.agreement, "question"),
    Metric("star_batch_output_visual_tokens_mean", "Per row: offered, kept", _visual_tokens, "stage"),
    Metric("star_batch_run_wall_seconds", "Time that the job's runs were at work", lambda s: s.wall_seconds),
    Metric("star_batch_run_stage_seconds", "Busy time, all workers together", lambda s: s.stage_seconds, "stage"),
    Metric(
        "star_batch_run_images_per_second", "Rows answered per second of engines at work", lambda s: s.images_per_second
    ),
    Metric(
        "star_batch_run_tokens",
        "Tokens into the language model and out of it",
        lambda s: {"in": s.input_tokens, "out": s.output_tokens},
        "direction",
    ),
    Metric(
        "star_batch_run_tokens_per_second",
        "The same per second",
        lambda s: {"in": s.input_tokens_per_second, "out": s.output_tokens_per_second},
        "direction",
    ),
    Metric("star_batch_run_layer_tokens_mean", "Visual tokens per layer and row", lambda s: s.mean_layer_tokens),
    Metric("star_batch_run_prefill_rows_mean", "Rows per prefill batch", lambda s: s.mean_prefill_rows),
    Metric("star_batch_run_padding_ratio", "Key positions read that held nothing", lambda s: s.padding_share),
    Metric("star_batch_run_slot_occupancy_ratio", "Decode slots that held a row", lambda s: s.slot_occupancy),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended; `at` is when, in seconds since 1970."""

    is_success: bool
    at: float


OUTCOME: Sequence[Metric[Outcome]] = (
    Metric("star_batch_last_run_success", "Whether the last run finished the output", lambda o: float(o.is_success)),
    Metric(
        "star_batch_last_success_timestamp_seconds",
        "When a run finished the output",
        lambda o: o.at if o.is_success else None,
    ),
)


class _Collector(Collector, Generic[T]):
    """Reads a state whenever somebody asks; as long as there is none, there are no samples."""

    def __init__(self, metrics: Sequence[Metric[T]], read: Callable[[], T | None]) -> None:
        self._metrics = metrics
        self._read = read

    def collect(self) -> Iterator[Any]:
        state = self._read()
        if state is not None:
            yield from (_family(metric, state) for metric in self._metrics)


def _family(metric: Metric[T], state: T) -> Any:
    family: Any = _FAMILIES[metric.kind](metric.name, metric.help, labels=[metric.label] if metric.label else [])
    for labels, value in metric.samples(state):
        if isinstance(value, Histogram):
            family.add_metric(list(labels.values()), _buckets(value), value.total)
        else:
            family.add_metric(list(labels.values()), value)
    return family


_FAMILIES = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Upper bounds, and how many values are not above each."""
    bounds = (*map(str, histogram.bounds), "+Inf")
    return list(zip(bounds, accumulate(histogram.counts), strict=True))


def job_registry(read: Callable[[], Progress | None]) -> CollectorRegistry:
    """A job that runs: `read` gives how far it is."""
    registry = CollectorRegistry()
    registry.register(_Collector(JOB, read))
    registry.register(_Collector(ENGINE, lambda: progress.engines if (progress := read()) is not None else None))
    return registry


def end_registry(outcome: Outcome, summary: Summary | None) -> CollectorRegistry:
    """A job that has ended; without a summary if it failed."""
    registry = CollectorRegistry()
    registry.register(_Collector(OUTCOME, lambda: outcome))
    registry.register(_Collector(SUMMARY, lambda: summary))
    return registry


def to_text(summary: Summary) -> str:
    """The summary in Prometheus' text format, as the node exporter's textfile collector takes it."""
    registry = CollectorRegistry()
    registry.register(_Collector(SUMMARY, lambda: summary))
    return generate_latest(registry).decode("utf-8")
